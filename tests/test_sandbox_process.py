"""The stand-in hub as a process: it starts, serves real HTTP on two ports, and never outlives its parent."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest
from sandbox_kit import IMAGE, KEY, VIDEO, judge, news

from oxenbatch.sandbox import Sandbox, SandboxUnavailable
from oxenbatch.sandbox.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POST = {"model": IMAGE, "prompt": "A red cube"}
HEADERS = {"authorization": f"Bearer {KEY}"}
PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
from oxenbatch.sandbox import Sandbox
hub = Sandbox()
hub.start()
print(hub.pid, flush=True)
sys.stdin.read()
"""
LOADED = """
import sys
import oxenbatch.sandbox
from oxenbatch.sandbox import Sandbox
print([name for name in ("uvicorn", "starlette", "PIL", "asyncio", "http.client") if name in sys.modules])
import oxenbatch.sandbox.__main__
print([name for name in sys.modules if name.startswith("oxenbatch.") and "sandbox" not in name])
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[Sandbox]:
    with Sandbox(speed=1000) as running:
        yield running


@pytest.fixture
def client(hub: Sandbox) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=hub.url, headers=HEADERS) as client:
        yield client


def _is_gone(pid: int) -> bool:
    """The process ends within ten seconds."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def test_the_hub_answers_while_the_block_lasts_and_is_gone_after_it() -> None:
    with Sandbox() as hub:
        assert httpx.get(f"{hub.url}/api/ai/models").status_code == 200
        assert str(hub.pid) in repr(hub)
        pid, url = hub.pid, hub.url
    assert pid is not None
    assert _is_gone(pid)
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    assert repr(hub) == "<Sandbox, not running>"
    hub.stop()


def test_the_hub_stops_although_a_client_listens_and_another_waits(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('[{"do": "stall", "on": "GET /ai/models"}]')
    hub = Sandbox(faults=faults)
    hub.start()
    pid = hub.pid
    with (
        httpx.Client(base_url=hub.url, headers=HEADERS) as client,
        client.stream("GET", "/api/events"),
        client.stream("GET", "/api/ai/models"),
    ):
        hub.stop()

    assert pid is not None
    assert _is_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_hub_ends_with_its_parent_however_that_ends(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(number)

        assert _is_gone(pid)


def test_the_module_says_on_one_line_where_it_listens_and_ends_in_peace() -> None:
    command = [sys.executable, "-m", "oxenbatch.sandbox", "--key=k", "--speed=5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert httpx.get(f"{said['url']}/api/ai/queue", headers={"authorization": "Bearer k"}).status_code == 200
        process.send_signal(signal.SIGINT)

        assert process.wait(10) == 0
        assert process.stdout.read() == b""
    assert set(said) == {"url", "files_url", "key"}


def test_ports_can_be_chosen_and_are_free_again_at_once() -> None:
    with Sandbox() as first:
        ports = [urlsplit(address).port for address in (first.url, first.files_url)]
        httpx.get(first.url)
    with Sandbox(port=ports[0] or 0, files_port=ports[1] or 0) as second:
        assert (second.url, second.files_url) == (first.url, first.files_url)


def test_a_hub_that_cannot_start_says_why(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SandboxUnavailable, match="ended with 2 before it listened"):
            Sandbox(port=port).start()
    assert f"port {port} of 127.0.0.1 cannot be listened on" in capfd.readouterr().err
    faults = tmp_path / "faults.json"
    faults.write_text('[{"do": "explode"}]')
    with pytest.raises(SandboxUnavailable):
        Sandbox(faults=faults).start()
    assert "a fault's `do` is 'explode', expected one of" in capfd.readouterr().err


def test_without_its_libraries_the_hub_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oxenbatch.sandbox.process.find_spec", lambda name: None if name == "uvicorn" else object())

    with pytest.raises(SandboxUnavailable, match=r"needs: pip install 'oxenbatch\[sandbox\]' \(missing.* uvicorn\)"):
        Sandbox().start()
    with pytest.raises(SandboxUnavailable, match="uvicorn"):
        main([])


def test_importing_the_package_loads_neither_the_server_nor_the_rest_of_oxenbatch() -> None:
    loaded = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, check=True).stdout

    assert loaded == b"[]\n[]\n"


# --- over the wire --------------------------------------------------------------------------------------------------


def test_a_generation_goes_all_the_way_over_http(hub: Sandbox, client: httpx.Client) -> None:
    heard = b""
    with client.stream("GET", "/api/events") as stream:
        made = client.post("/api/ai/queue", json=POST | {"seed": 3}).json()["generations"][0]["generation_id"]
        for chunk in stream.iter_raw():
            heard += chunk
            if made.encode() in heard and heard.endswith(b"\n\n"):
                break
    told = {data["generation_id"]: data for name, data in news(heard) if name == "media_generation_completed"}[made]
    row = client.get(f"/api/ai/queue/{made}").json()
    file = httpx.get(told["url"])

    judge("event", told)
    judge("generation", row)
    assert row["status"] == "succeeded"
    assert (file.status_code, file.headers["content-type"]) == (200, "image/png")
    assert file.headers["content-length"] == str(len(file.content))
    assert urlsplit(told["url"]).netloc != urlsplit(hub.url).netloc


def test_the_stream_is_kept_alive_when_nothing_happens(client: httpx.Client) -> None:
    with client.stream("GET", "/api/events") as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(4)] == [": keep-alive", "", ": keep-alive", ""]


def test_a_listener_that_hangs_up_is_forgotten(hub: Sandbox, client: httpx.Client) -> None:
    while hub.record()["listeners"]:
        pass  # those of other tests are on their way out
    with client.stream("GET", "/api/events"):
        assert hub.record()["listeners"] == 1
    while hub.record()["listeners"]:
        pass


def test_head_and_range_work_over_http(hub: Sandbox, client: httpx.Client) -> None:
    made = client.post("/api/ai/queue", json=POST | {"model": VIDEO}).json()["generations"][0]["generation_id"]
    while not (address := client.get(f"/api/ai/queue/{made}").json()["result_url"]):
        pass  # half a second at this speed
    whole, head = httpx.get(address), httpx.head(address)
    part = httpx.get(address, headers={"range": "bytes=100-"})

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    assert (part.status_code, part.content) == (206, whole.content[100:])


def test_the_two_ports_are_two_origins(hub: Sandbox) -> None:
    leaks = hub.record()["key_leaks"]
    assert httpx.get(f"{hub.files_url}/api/ai/models").status_code == 404
    assert httpx.get(f"{hub.url}/files/x").status_code == 404
    assert hub.record()["key_leaks"] == leaks
    httpx.get(f"{hub.files_url}/files/x", headers=HEADERS)

    assert hub.record()["key_leaks"] == leaks + 1


def test_connections_are_kept_and_answered_in_order(hub: Sandbox) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(hub.url).port or 0), timeout=5) as raw:
        ask = b"GET /api/ai/models/%s HTTP/1.1\r\nhost: x\r\n\r\n"
        raw.sendall(ask % IMAGE.encode() + ask % VIDEO.encode())
        got = b""
        while got.count(b"HTTP/1.1 200") < 2 or not got.endswith(b"}"):
            got += raw.recv(65536)

    assert got.index(IMAGE.encode()) < got.index(VIDEO.encode())
    assert b"connection: close" not in got.lower()


def test_a_file_is_stored_and_served_over_http(client: httpx.Client) -> None:
    path = "/api/repos/ox/set/file/main/a b.bin"
    stored = client.put(path, files={"file": ("a b.bin", b"\x00\r\n\xff", "image/png")}, data={"message": "ours"})

    assert stored.json()["status"] == "success"
    assert client.get(path).content == b"\x00\r\n\xff"


def test_a_hub_killed_in_the_middle_of_a_batch_comes_back_the_same(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Sandbox(journal=journal) as first:
        with httpx.Client(base_url=first.url, headers=HEADERS) as client:
            made = [client.post("/api/ai/queue", json=POST | {"seed": n}).json()["generations"][0] for n in range(20)]
        before = first.record()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        assert _is_gone(first.pid)
    with Sandbox(journal=journal) as second:
        after = second.record()
        rows = httpx.get(f"{second.url}/api/ai/generations", headers=HEADERS).json()["generations"]

    assert [row["generation_id"] for row in rows] == [entry["generation_id"] for entry in made][::-1]
    assert [(r["posts"], r["generations"], r["peak_active"]) for r in (before, after)] == [(20, 20, 20)] * 2
