"""Addresses of a stranger: files come from the open internet over https, or from the hub, and from nowhere else.

The hosts that must not be asked are really there, on loopback: that nobody asked them is what is checked.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hostile import KEY, Desk, Host, Hub, png, reply

from oxenbatch import hub as door
from oxenbatch.addresses import AddressRefused, is_public
from oxenbatch.hub import FileTrouble
from oxenbatch.hub.connections import Way
from oxenbatch.hub.files import Files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PUBLIC_HUB = "https://hub.example"
PRIVATE = {
    "loopback": "127.0.0.1", "another loopback": "127.1.2.3", "nowhere": "0.0.0.0", "private 10": "10.0.0.1",  # noqa: S104
    "private 172": "172.16.0.1", "private 192": "192.168.1.1", "link-local": "169.254.0.1",
    "the metadata service": "169.254.169.254", "the metadata service of another cloud": "100.100.100.200",
    "a carrier's network": "100.64.0.1", "benchmarks": "198.18.0.1", "documentation": "203.0.113.1",
    "6to4's relays": "192.88.99.1", "multicast": "224.0.0.1", "reserved": "240.0.0.1", "broadcast": "255.255.255.255",
    "IPv6 nowhere": "::", "IPv6 loopback": "::1", "IPv6 link-local": "fe80::1", "IPv6 private": "fd00:ec2::254",
    "IPv6 site-local": "fec0::1", "IPv6 multicast": "ff02::1", "IPv6 global multicast": "ff0e::1",
    "IPv4-mapped": "::ffff:127.0.0.1", "IPv4-mapped private": "::ffff:10.0.0.1", "IPv4-translated": "::ffff:0:10.0.0.1",
    "IPv4-compatible": "::127.0.0.1", "NAT64": "64:ff9b::7f00:1", "NAT64 private": "64:ff9b::a00:1",
    "local NAT64": "64:ff9b:1::7f00:1", "6to4": "2002:7f00:1::1", "6to4 private": "2002:a00:1::1",
    "Teredo": "2001:0:7f00:1::1", "IPv6 documentation": "2001:db8::1", "newer documentation": "3fff::1",
    "discard": "100::1", "segment routing": "5f00::1",
}  # fmt: skip
OPEN = {"IPv4": "93.184.216.34", "IPv6": "2606:4700::1111", "6to4 of a public one": "2002:808:808::1",
        "NAT64 of a public one": "64:ff9b::808:808"}  # fmt: skip


@pytest.mark.parametrize("what", PRIVATE)
def test_an_address_that_leads_inside_is_not_public(what: str) -> None:
    assert not is_public(PRIVATE[what])


@pytest.mark.parametrize("what", OPEN)
def test_an_address_of_the_open_internet_is_public(what: str) -> None:
    assert is_public(OPEN[what])


@pytest.fixture
def inside() -> Iterator[Host]:
    """A service on this machine that nobody outside may have asked through us."""
    with Host(lambda _, connection: connection.sendall(reply(png(), kind="image/png"))) as host:
        yield host


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What each name resolves to; a name that is not in it is an address itself."""
    known: dict[str, list[str]] = {}

    def look_up(host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        host = host.decode() if isinstance(host, bytes) else host
        found = known.get(host, [host])
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def fetch(url: str, *, hub: str = PUBLIC_HUB) -> bytes:
    """The file at the address, as a run fetches it, over real sockets."""

    async def use() -> bytes:
        async with door.Hub(hub, KEY) as opened, opened.open_file(url) as answer:
            return b"".join([chunk async for chunk in answer.chunks])

    return asyncio.run(use())


SCHEMES = [
    "file:///etc/passwd", "ftp://files.example/x", "data:image/png;base64,AAAA", "javascript:alert(1)",
    "gopher://127.0.0.1:70/x", "unix:///var/run/docker.sock", "ws://files.example/", "//", "https://", "https:///x",
    "https://[::1", "https://x:port/", "https://x:99999/", "\\\\server\\share", "https:\\\\evil.example\\x", "\x00",
    "https://files.example\x00/", "https://files .example/", "https://\ud800/", "https://" + "a" * 70 + ".example/",
    "https://xn--/", "https://a..b/", "https://%31%32%37.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", SCHEMES)
def test_what_is_no_https_address_is_refused_or_cannot_be_had(url: str) -> None:
    with pytest.raises((AddressRefused, FileTrouble, door.AddressExpired)):
        fetch(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "[::1]",
                                  "[::ffff:127.0.0.1]", "127.0.0.1.", "LOCALHOST", "0", "①②⑦.⓪.⓪.①"])  # fmt: skip
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_this_machine_is_not_asked_however_it_is_written(inside: Host, scheme: str, host: str) -> None:
    with pytest.raises((AddressRefused, FileTrouble)):
        fetch(f"{scheme}://{host}:{inside.port}/x.png")

    assert inside.asked == []


@pytest.mark.parametrize("what", PRIVATE)
def test_a_name_that_resolves_to_a_private_address_is_not_asked(names: dict[str, list[str]], what: str) -> None:
    names["files.example"] = [PRIVATE[what]]

    with pytest.raises(AddressRefused, match="private network"):
        fetch("https://files.example/x")


def test_one_private_address_among_public_ones_is_enough_to_refuse_a_name(names: dict[str, list[str]]) -> None:
    names["files.example"] = [OPEN["IPv4"], OPEN["IPv6"], "127.0.0.1"]

    with pytest.raises(AddressRefused, match="private network"):
        fetch("https://files.example/x")


@pytest.mark.parametrize("who", ["user@", "user:word@", ":@", "hub.example:443@", "hub.example%2f@"])
def test_an_address_that_names_a_user_is_refused(who: str) -> None:
    with pytest.raises(AddressRefused, match="name a user") as refused:
        fetch(f"https://{who}files.example/x?signature=secret")

    assert "word" not in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_name_that_is_looked_up_anew_is_judged_by_whom_we_are_connected_to(names: dict[str, list[str]]) -> None:
    """It resolved to a public address when it was checked, and to this machine when it was connected to."""

    class Stream:
        def get_extra_info(self, _: str) -> tuple[str, int]:
            return ("127.0.0.1", 443)

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"inside", extensions={"network_stream": Stream()})

    names["files.example"] = [OPEN["IPv4"]]

    with pytest.raises(AddressRefused, match="private network"):
        _fetch_with(answer, "https://files.example/x")


def _fetch_with(answer: Any, url: str) -> bytes:
    """The file behind the address; names are looked up, and answers are given by the function."""

    async def use() -> bytes:
        way = Way(httpx.MockTransport(answer), {}, httpx.Timeout(5.0))
        files = Files(way, f"{PUBLIC_HUB}:443", KEY, looks_up=True)
        async with files.open(url) as got:
            return b"".join([chunk async for chunk in got.chunks])

    return asyncio.run(use())


REDIRECTS = {
    "this machine": "https://127.0.0.1/x", "the metadata service": "http://169.254.169.254/latest/meta-data/",
    "a private name": "https://inside.example/x", "plain http": "http://files.example/y", "a file": "file:///etc/passwd",
    "ftp": "ftp://files.example/x", "data": "data:image/png;base64,AAAA", "nowhere": "", "a user": "https://a:b@files.example/",
    "another scheme": "//inside.example/x", "no address": "https://[", "IPv6": "https://[::1]/x",
    "a control character": "https://127.0.0.1\t/x", "the hub over http": "http://hub.example/x",
}  # fmt: skip


@pytest.mark.parametrize("to", REDIRECTS)
def test_a_redirect_to_what_may_not_be_asked_is_not_followed(names: dict[str, list[str]], to: str) -> None:
    names |= {"files.example": [OPEN["IPv4"]], "inside.example": ["10.0.0.1"], "hub.example": [OPEN["IPv4"]]}
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        assert KEY not in str(request.headers.raw)
        return httpx.Response(302, headers={"location": REDIRECTS[to]})

    with pytest.raises((AddressRefused, FileTrouble)):
        _fetch_with(answer, "https://files.example/x")
    assert asked == ["https://files.example/x"]


def test_redirects_are_few(names: dict[str, list[str]]) -> None:
    names["files.example"] = [OPEN["IPv4"]]
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(307, headers={"location": f"/{len(asked)}"})

    with pytest.raises(FileTrouble, match="redirects"):
        _fetch_with(answer, "https://files.example/x")
    assert len(asked) == 6


def test_a_hub_on_this_machine_may_have_its_files_there_and_nowhere_private_else(tmp_path: Path) -> None:
    with Hub() as hub, Host(lambda _, connection: connection.sendall(reply(png(), kind="image/png"))) as files:
        hub.row["result_url"] = f"{files.url}/x.png?signature=secret"
        assert Desk(tmp_path, hub).run().code == 0
        assert len(files.asked) == 1
        assert files.keys() == []
        for url in ("http://169.254.169.254/x", "https://10.0.0.1/x", "http://files.example/x", "https://[fd00::1]/x"):
            with pytest.raises(AddressRefused):
                fetch(url, hub=hub.url)


def test_a_hub_elsewhere_may_not_have_its_files_on_this_machine(inside: Host) -> None:
    for url in (f"{inside.url}/x", f"https://127.0.0.1:{inside.port}/x", f"http://localhost:{inside.port}/x"):
        with pytest.raises(AddressRefused):
            fetch(url)
    assert inside.asked == []


@pytest.mark.parametrize("url", ["ftp://user:word@hub.example/?t=secret", "https://user:word@[bad/", "hub.example",
                                 "file:///etc/passwd", "https://:99999"])  # fmt: skip
def test_a_hubs_address_that_is_none_is_refused_without_telling_its_secrets(tmp_path: Path, url: str) -> None:
    desk = Desk(tmp_path)

    done = desk.run("--hub", url)

    assert done.code not in (0, 1), done.said
    assert "word" not in done.said.replace("password", "")
    assert "secret" not in done.said
    assert KEY not in done.said
