"""The key goes to the hub's own origin, and is in nothing that the program writes."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hostile import KEY, MODEL, Asked, Desk, Host, Hub, every_file, png, reply

from oxenbatch.access import Access
from oxenbatch.errors import ConfigProblem
from oxenbatch.hub import Hub as Door
from oxenbatch.hub import check_key

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        yield served


@pytest.fixture
def other() -> Iterator[Host]:
    """Somebody else's machine, which gives whoever asks a picture."""
    with Host(lambda _, connection: connection.sendall(reply(png(), kind="image/png"))) as host:
        yield host


@pytest.fixture
def desk(tmp_path: Path, hub: Hub) -> Desk:
    return Desk(tmp_path, hub)


def test_a_foreign_port_gets_no_key(desk: Desk, hub: Hub, other: Host) -> None:
    hub.row["result_url"] = f"{other.url}/x.png"

    assert desk.run().code == 0
    assert len(other.asked) == 1
    assert other.keys() == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "127.0.0.1."])
def test_another_name_of_the_hubs_machine_gets_no_key(desk: Desk, hub: Hub, host: str) -> None:
    hub.row["result_url"] = f"http://{host}:{hub.port}/files/00000001-0000-4000-8000-000000000001"

    desk.run(setup="import oxenbatch.runner.fetching as f; f.FETCH_TRIES = 1\n")

    fetched = [asked for asked in hub.asked if asked.path.startswith("/files/")]
    assert all(KEY not in str(asked.headers) for asked in fetched)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_takes_no_key_along(desk: Desk, hub: Hub, other: Host, status: int) -> None:
    hub.lies["GET /files/ID"] = reply(b"", status, location=f"{other.url}/x.png")

    assert desk.run().code == 0
    assert len(other.asked) == 1
    assert other.keys() == []


def test_a_proxy_of_the_environment_sees_no_key_of_a_hub_on_this_machine(desk: Desk, other: Host) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), other.url)

    assert desk.run(**proxies).code == 0
    assert other.asked == []


def test_a_proxy_sees_a_tunnel_and_no_key(tmp_path: Path) -> None:
    """To a hub of the open internet a proxy is asked for a tunnel, and TLS is inside it."""
    desk = Desk(tmp_path)
    with Host(lambda _, connection: connection.sendall(reply(b"", 403))) as proxy:
        done = desk.run("--hub", "https://hub.example", "--max-outage", "1s", HTTPS_PROXY=proxy.url)

    assert done.code == 69, done.said
    assert {asked.method for asked in proxy.asked} == {"CONNECT"}
    assert proxy.keys() == []


KEYS = ["", " ", "\n", "a b", "a\nb", "a\r\nX-Injected: 1", "a\x00b", "a\x7fb", "schlüssel", '"quoted"', "'quoted'",
        "`cmd`", "a\u2028b", "\u202eyek", "a\tb"]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_no_hub_gave_is_refused_and_never_echoed(key: str) -> None:
    with pytest.raises(ConfigProblem) as refused:
        check_key(key)

    assert not key.strip() or key.strip("\"'`\n ") not in str(refused.value)


@pytest.mark.parametrize("key", [f"{KEY}\nX-Injected: 1", f"{KEY} x", f'"{KEY}"', f"{KEY}\x1b[2J", f"{KEY}é"])
def test_a_broken_key_is_not_told_and_not_sent(desk: Desk, hub: Hub, key: str) -> None:
    done = desk.run("-vv", OXEN_API_KEY=key)

    assert done.code == 78, done.said
    assert KEY not in done.said
    assert hub.asked == []


def test_a_key_with_a_line_end_behind_it_is_taken_without_it(desk: Desk, hub: Hub) -> None:
    assert desk.run(OXEN_API_KEY=f"  {KEY}\r\n").code == 0
    assert {asked.headers["authorization"] for asked in hub.asked if "authorization" in asked.headers} == {
        f"Bearer {KEY}"
    }


KEEPERS = [Door("https://hub.example", KEY), Access("https://hub.example", KEY)]


@pytest.mark.parametrize("kept", KEEPERS, ids=["hub", "access"])
def test_nothing_that_holds_the_key_shows_it(kept: Any) -> None:
    assert KEY not in repr(kept)
    assert KEY not in str(kept)


def test_a_ledger_does_not_decide_where_the_key_goes(desk: Desk, other: Host) -> None:
    """A folder from somebody else says that it was made on somebody else's hub."""
    assert desk.run().code == 0
    with closing(sqlite3.connect(desk.folder / "out/m/ledger.db")) as ledger, ledger:
        ledger.execute("update batch set hub = ?", (other.url.replace("127.0.0.1", "localhost"),))
        ledger.execute("update generations set state = 'downloaded'")
    desk.results()[0].unlink()
    del desk.env["OXEN_BASE_URL"]

    for command in (["audit", "out/m"], ["verify", "out/m", "--repair"], ["cancel", "out/m"]):
        done = desk.call(*command)
        assert done.code in (0, 2), done.said
        assert KEY not in done.said
    assert other.keys() == []
    assert b"--hub" in desk.call("audit", "out/m").err


@pytest.mark.parametrize("entry", ["localhost:{port}", "hub.oxen.ai", "127.0.0.1:{port}"])
def test_a_key_of_the_settings_goes_to_its_own_host_alone(desk: Desk, hub: Hub, entry: str) -> None:
    folder = desk.folder / "home/.config/oxen"
    folder.mkdir(parents=True)
    host = entry.format(port=hub.port)
    (folder / "auth_config.toml").write_text(f'[[host_configs]]\nhost = "{host}"\nauth_token = "{KEY}"\n')
    (folder / "auth_config.toml").chmod(0o600)

    done = desk.run(OXEN_API_KEY="")

    assert (done.code == 0) == host.startswith("127.")
    assert bool(hub.keys()) == host.startswith("127.")


def test_no_core_of_a_run_is_written(desk: Desk, hub: Hub) -> None:
    """A core holds the key: a run that is going on has said that it wants none."""
    limits: list[str] = []
    process = None

    def answer(_: Asked, connection: socket.socket) -> None:
        while process is None:
            time.sleep(0)  # the other thread is about to say which process it is
        said = Path(f"/proc/{process.pid}/limits").read_text()
        limits.append(next(line for line in said.splitlines() if line.startswith("Max core file size")))
        connection.sendall(reply(png(), kind="image/png"))

    hub.lies["GET /files/ID"] = answer
    desk.write("m.txt", "a red cube\n")
    setup = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (1000, 1000))\n"
    process = desk.start("run", "m.txt", "--model", MODEL, setup=setup)

    assert desk.end(process).code == 0
    assert limits[0].split()[4] == "0"


def _noise(hub: Hub, other: Host) -> None:
    """Every kind of trouble, each for some of the rows; the hub echoes the key wherever it may say a word."""
    mean = f"the key {KEY} in Authorization: Bearer {KEY}"
    seen: list[str] = []

    def enqueue(asked: Asked, connection: socket.socket) -> None:
        prompt = json.loads(asked.body)["prompt"]
        seen.append(prompt)
        lies = {
            "refused": reply({"error": "invalid prompt"}, 400),
            "unknown": reply(b"<html>", 502),
            "cut": reply(b'{"generations": [')[:-3],
            "slow": reply({"error": "rate limit exceeded"}, 429, retry_after="0"),
            "odd": reply({"generations": [{"generation_id": "../x"}]}),
        }
        if prompt in lies and seen.count(prompt) == 1:
            connection.sendall(lies[prompt])
            connection.shutdown(socket.SHUT_RDWR)
            return
        connection.sendall(hub._honest("POST /ai/queue", "", "", asked))
        row = list(hub.rows.values())[-1]
        row |= {
            "failed": {"status": "failed", "error_message": "invalid: flagged by policy"},
            "elsewhere": {"result_url": f"{other.url}/x.png?signature=secret"},
            "private": {"result_url": "http://169.254.169.254/latest"},
            "page": {"result_url": f"{hub.url}/nothing"},
        }.get(prompt, {})

    hub.lies["POST /ai/queue"] = enqueue
    hub.lies["GET /nothing"] = reply(b"<html>" + mean.encode()[:0])


ROWS = ["good", "refused", "unknown", "cut", "slow", "odd", "failed", "elsewhere", "private", "page"]


@pytest.mark.slow
def test_after_a_full_noisy_batch_no_byte_that_was_written_holds_the_key(desk: Desk, hub: Hub, other: Host) -> None:
    """Faults, failures, debug logs, JSON, a traceback, every command that reads, every file of home and folder."""
    _noise(hub, other)
    setup = "import oxenbatch.runner.fetching as f; f.FETCH_PAUSE_MAX_S = 0.01; f.FETCH_TRIES = 2\n"
    loud = ["-vv", "--log-file", "log.txt", "--log-format", "json", "--json", "--attempts", "1"]
    rows = "".join(f"{row}\n" for row in ROWS)

    done = [desk.run(*loud, rows=rows, setup=setup)]
    done += [desk.call(*command) for command in (
        ["status", "out/m"], ["status", "out/m", "--json"], ["ls", "out/m"], ["ls", "out/m", "--json"],
        ["show", "out/m", "good"], ["show", "out/m", "failed", "--json"], ["audit", "out/m"],
        ["audit", "out/m", "--json"], ["verify", "out/m", "--json"], ["verify", "out/m", "--repair"],
        ["retry", "out/m"], ["resolve", "out/m", "--json"],
        ["resolve", "out/m"], ["cancel", "out/m"], ["no-such-command"], ["run", "no-such-manifest.yaml"],
        ["run", "m.txt", "--hub", "https://[", "--model", MODEL],
    )]  # fmt: skip
    bug = "import oxenbatch.hub.client as c\ndef broken(*a, **k): raise RuntimeError('a bug')\nc.read_answer = broken\n"
    done.append(desk.run("-vv", "-o", "out/bug", rows="another\n", setup=bug))
    done.append(desk.run("-vv", "--max-outage", "1s", rows="third\n", OXEN_BASE_URL="http://127.0.0.1:9"))
    done.append(desk.run("-vv", rows="fourth\n", OXEN_API_KEY=f"{KEY}\n{KEY}"))
    hub.lies["GET /ai/models"] = reply({"status": "error", "status_message": "unauthenticated"}, 401)
    done.append(desk.run("-vv", "-o", "out/refused", rows="fifth\n"))

    assert done[-4].code == 1, done[-4].said  # the bug has left its traceback
    assert b"Traceback" in done[-4].err
    assert all(KEY.encode() not in one.out + one.err for one in done)
    written = list(every_file(desk.folder))
    assert {"log.txt", "ledger.db", "metadata.jsonl", "account.db"} <= {path.name for path in written}
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    assert other.keys() == []
    assert hub.keys()  # it went where it belongs
    assert not any(KEY in asked.path for asked in hub.asked)


def test_the_addresses_that_are_logged_have_lost_their_signatures(desk: Desk, hub: Hub, other: Host) -> None:
    hub.row["result_url"] = f"{other.url}/x.png?X-Amz-Signature=sesame"
    refused = Host(lambda _, connection: connection.sendall(reply(b"", 302, location="http://10.0.0.1/?token=sesame")))

    done = desk.run("-vv", "--log-file", "log.txt")
    with refused:
        hub.row["result_url"] = f"{refused.url}/x.png?X-Amz-Signature=sesame"
        setup = "import oxenbatch.runner.fetching as f; f.FETCH_TRIES = 2; f.FETCH_PAUSE_MAX_S = 0.0\n"
        again = desk.run("-vv", "--log-file", "log.txt", rows="b\n", setup=setup)

    assert (done.code, again.code) == (0, 3), again.said
    assert "sesame" not in done.said + again.said + (desk.folder / "log.txt").read_text()
