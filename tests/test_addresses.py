"""The key goes to the hub's own origin, files come from the open internet, and no address is shown with its secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.addresses import AddressRefused, after_redirect, is_loopback, is_public, origin_of, parse, shown

HUB = "https://hub.oxen.ai"
NO_ADDRESS = [
    "", " ", "hub.oxen.ai", "//hub.oxen.ai/x", "/files/1.png", "ftp://hub.oxen.ai/x", "file:///etc/passwd", "https://",
    "https:///x", "javascript:alert(1)", "data:image/png;base64,AA", "https://[::1", "https://[bad]/x",
    "https://x:99999/", "https://x:port/", "https://:443/", "http://@/", "https:hub.oxen.ai",
]  # fmt: skip


@pytest.mark.parametrize("url", NO_ADDRESS)
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        parse(url)
    with pytest.raises(AddressRefused):
        origin_of(url)
    with pytest.raises(AddressRefused):
        shown(url)
    with pytest.raises(AddressRefused):
        is_loopback(url)


@given(url=st.text(max_size=40) | st.text("htps:/[]@.%?#\\x1", max_size=24).map(lambda rest: "https://" + rest))
def test_any_text_is_an_address_or_refused(url: str) -> None:
    try:
        origin = origin_of(url)
    except AddressRefused:
        return

    assert origin_of(origin) == origin
    assert shown(url).isprintable()
    assert is_loopback(url) in (True, False)


@given(url=st.sampled_from([HUB, "http://x/a", "HTTPS://x/a"]), location=st.text(max_size=20)
       | st.sampled_from(["http://[", "https://[::1", "//[", "http://x:port/", "\x00", "http://\ud800/"]))  # fmt: skip
def test_any_redirect_is_an_address_or_refused(url: str, location: str) -> None:
    try:
        following = after_redirect(url, location)
    except AddressRefused:
        return

    assert url.lower().startswith("http:") or parse(following).scheme == "https"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://hub.oxen.ai", "https://hub.oxen.ai:443"),
        ("HTTPS://HUB.OXEN.AI/api/x?y#z", "https://hub.oxen.ai:443"),
        ("https://user:word@hub.oxen.ai:443/", "https://hub.oxen.ai:443"),
        ("http://hub.oxen.ai", "http://hub.oxen.ai:80"),
        ("http://127.0.0.1:8642/x", "http://127.0.0.1:8642"),
        ("https://[2001:DB8::1]:444/x", "https://[2001:db8::1]:444"),
        ("https://hub.oxen.ai:0/", "https://hub.oxen.ai:0"),
    ],
)
def test_an_origin_always_names_its_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "http://hub.oxen.ai",
        "https://hub.oxen.ai:444",
        "https://hub.oxen.ai:0",
        "https://hub.oxen.ai.",
        "https://hub.oxen.ai.evil.com",
        "https://hub.oxen.ai\t.evil.com",
        "https://hub.oxen.ai@evil.com",
        "https://hub.oxen.ai:443@evil.com",
        "https://evil.com/https://hub.oxen.ai",
        "https://evil.com#@hub.oxen.ai",
        "https://evil.com?@hub.oxen.ai",
        "https://xhub.oxen.ai",
        "https://oxen.ai",
        "https://hub．oxen．ai",
    ],
)
def test_nothing_that_only_looks_like_the_hub_has_its_origin(url: str) -> None:
    try:
        origin = origin_of(url)
    except AddressRefused:
        return

    assert origin != origin_of(HUB)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://cdn.x/a.png?X-Amz-Signature=secret#frag", "https://cdn.x/a.png"),
        ("https://user:secret@cdn.x:444/a", "https://cdn.x/a"),
        ("https://cdn.x/a\u202eb", "https://cdn.x/a\\u202eb"),
        ("https://cdn.x", "https://cdn.x"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, text: str) -> None:
    assert shown(url) == text


def test_a_refusal_does_not_show_the_query() -> None:
    with pytest.raises(AddressRefused) as refused:
        parse("ftp://x/a?signature=secret")

    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "location", "following"),
    [
        ("https://a/x/y", "https://b/z", "https://b/z"),
        ("https://a/x/y", "/z?q", "https://a/z?q"),
        ("https://a/x/y", "z", "https://a/x/z"),
        ("https://a/x/y", "//b/z", "https://b/z"),
        ("https://a/x/y", "HTTPS://b/z", "https://b/z"),
        ("http://127.0.0.1:1/x", "http://127.0.0.1:2/y", "http://127.0.0.1:2/y"),
        ("http://127.0.0.1:1/x", "https://b/y", "https://b/y"),
    ],
)
def test_a_redirect_leads_on(url: str, location: str, following: str) -> None:
    assert after_redirect(url, location) == following


@pytest.mark.parametrize("url", ["https://a/x", "HTTPS://a/x"])
@pytest.mark.parametrize(
    "location", ["", "http://a/x", "HTTP://b/", "ftp://a/x", "file:///etc/passwd", "https://[", "//["]
)
def test_a_redirect_never_leaves_https(url: str, location: str) -> None:
    with pytest.raises(AddressRefused):
        after_redirect(url, location)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8642", True), ("http://127.9.9.9", True), ("http://[::1]:1/x", True),
        ("http://localhost", True), ("http://hub.localhost:3", True), ("http://LOCALHOST", True),
        ("https://hub.oxen.ai", False), ("http://localhost.evil.com", False), ("http://127.0.0.1.evil.com", False),
        ("http://10.0.0.1", False), ("http://0.0.0.0", False), ("http://127.1", False),
        ("http://user:x@evil.com", False),
    ],
)  # fmt: skip
def test_loopback_is_this_machine_and_nothing_else(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("::ffff:8.8.8.8", True), ("64:ff9b::808:808", True),
        ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False), ("127.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - to be refused, not listened on
        ("169.254.169.254", False), ("100.64.0.1", False), ("198.18.0.1", False), ("255.255.255.255", False),
        ("224.0.0.1", False), ("::", False), ("::1", False), ("fe80::1", False), ("fe80::1%eth0", False),
        ("fd00::1", False), ("ff02::1", False), ("2001:db8::1", False), ("::ffff:10.0.0.1", False),
        ("::ffff:169.254.169.254", False), ("::10.0.0.1", False), ("64:ff9b::a00:1", False), ("2002:a00:1::", False),
        ("", False), ("hub.oxen.ai", False), ("8.8.8", False), ("0x8.8.8.8", False),
    ],
)  # fmt: skip
def test_only_the_open_internet_is_public_in_whatever_clothes(address: str, public: bool) -> None:
    assert is_public(address) is public
