"""A hub that lies, or somebody in between: no answer ends a run with a bug, fills the memory, or is obeyed."""

from __future__ import annotations

import gzip
import json
import socket
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hostile import KEY, MB, PEAK_MB, UNTRUSTED, Asked, Desk, Host, Hub, catalogue_entry, endless, is_quiet, png, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READING = ["GET /ai/models", "GET /ai/queue", "GET /ai/generations", "GET /ai/queue/ID", "GET /events"]
ROUTES = ["POST /ai/queue", *READING]
SOON = (
    "import oxenbatch.hub.bodies as b, oxenbatch.hub.client as c\n"
    "b.head_in_time.__wrapped__.__defaults__ = (1.0,)\nb.ANSWER_S = 1.0\nc.SILENCE_S = 5.0\n"
)
ENDS = {0, 3, 4, 69, 75, 77}
"""What a run may end with where the hub is the one that is wrong: never a bug, never a hang."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        yield served


@pytest.fixture
def desk(tmp_path: Path, hub: Hub) -> Desk:
    return Desk(tmp_path, hub)


def _rows(**fields: Any) -> bytes:
    row = {"generation_id": "00000001-0000-4000-8000-000000000001", "status": "queued", **fields}
    return json.dumps({"generations": [row], "count": 1, "page_number": 1, "total_pages": 1}).encode()


ANSWERS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: reply(b""),
    "a page": lambda: reply(b"<html>captive portal</html>", kind="text/html"),
    "a page as an error": lambda: reply(b"<html>", 502, kind="text/html"),
    "a list": lambda: reply(b"[]"),
    "a number": lambda: reply(b"1"),
    "null": lambda: reply(b"null"),
    "NaN": lambda: reply(b'{"generations": NaN, "page_number": Infinity}'),
    "half of it": lambda: reply(b'{"generations": [{"generation_id": "'),
    "no UTF-8": lambda: reply(b'{"error": "\xff\xfe"}', 400),
    "UTF-16": lambda: reply(json.dumps({"generations": []}).encode("utf-16")),
    "an abyss": lambda: reply(b"[" * 200_000),
    "an abyss of objects": lambda: reply(b'{"a":' * 50_000),
    "a list of lists": lambda: reply(b'{"generations": [' + b"[]," * 3_000_000 + b"[]]}"),
    "a list of a million ids": lambda: reply({"generations": [{"generation_id": f"{n:032x}"} for n in range(100_000)]}),
    "a text of 11 MB": lambda: reply(b'{"error": "' + b"a" * (11 * MB - 4) + "😀".encode() + b'"}'),
    "a text of 300 MB": lambda: reply(b'{"error": "' + b"a" * (300 * MB) + b'"}', 400),
    "a number of a million digits": lambda: reply(b'{"generations": ' + b"9" * 1_000_000 + b"}"),
    "wrong types": lambda: reply(_rows(status=["x"], model_name={}, result_url=1, error_message=[], enqueued_at="x")),
    "times without end": lambda: reply(_rows(enqueued_at=1e308, started_at=-1e308, completed_at=10**400)),
    "half a character": lambda: reply(_rows(error_message="\ud800", model_name="\udfff", result_url="https://\ud800/")),
    "ids that are paths": lambda: reply(_rows(generation_id="../../../etc/passwd")),
    "a packed bomb": lambda: reply(gzip.compress(bytes(512 * MB), 9), content_encoding="gzip"),
    "a bomb packed twice": lambda: reply(gzip.compress(gzip.compress(bytes(512 * MB))), content_encoding="gzip, gzip"),
    "packed and cut": lambda: reply(gzip.compress(b'{"generations": []}')[:-9], content_encoding="gzip"),
    "packed as nobody asked": lambda: reply(b"\x1b", content_encoding="br"),
    "not packed as it says": lambda: reply(b"{}", content_encoding="gzip"),
    "loud words": lambda: reply({"error": {"title": UNTRUSTED, "detail": UNTRUSTED}, "status_message": UNTRUSTED}, 400),
    "a megabyte of words": lambda: reply({"error": "insufficient" + " credit" * 150_000}, 400),
    "a redirect": lambda: reply(b"{}", 307, location="http://127.0.0.1:9/"),
    "a wait of thirty years": lambda: reply({"error": "slow down"}, 503, retry_after="999999999"),
    "a date that is none": lambda: reply({"generations": []}, date="Fri, 31 Dec 9999 23:59:59 GMT"),
    "a header of a megabyte": lambda: reply(b"{}", x_a="a" * MB),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_no_answer_to_any_call_is_a_bug_or_fills_the_memory(desk: Desk, hub: Hub, what: str) -> None:
    """Every call of the hub's, the one that costs money too, has this answer."""
    lie = ANSWERS[what]()
    hub.lies |= dict.fromkeys((*ROUTES, "DELETE /ai/queue/ID"), lie)

    done = desk.ask(hub.url, SOON)

    assert done.code == 0, done.said
    assert done.out.count(b"\n") == 8
    assert done.peak_mb < PEAK_MB
    assert is_quiet(done.out)
    assert sum(asked.method == "POST" for asked in hub.asked) == 1


RUNS = ["nothing", "a list of lists", "half a character", "times without end", "loud words"]


@pytest.mark.parametrize("what", RUNS)
def test_no_answer_of_the_hub_ends_a_run_with_a_bug(desk: Desk, hub: Hub, what: str) -> None:
    """What makes no sense to the reading calls ends a run in peace, and in a ledger that the next one goes on with."""
    hub.lies |= dict.fromkeys(READING, ANSWERS[what]())

    done = desk.run("--deadline", "2s", "--max-outage", "1s", setup=SOON)

    assert done.code in ENDS, done.said
    assert done.peak_mb < PEAK_MB
    assert is_quiet(done.out + done.err)
    hub.lies.clear()
    assert desk.run().code == 0
    assert sum(asked.method == "POST" for asked in hub.asked) == 1


@pytest.mark.parametrize("how", ["head", "body"])
def test_a_hub_that_drips_is_given_up_and_not_waited_for(desk: Desk, hub: Hub, how: str) -> None:
    raw = b"HTTP/1.1 200 OK\r\nx-a: " if how == "head" else reply(b"{", content_length="1000000")

    def drip(_: Asked, connection: socket.socket) -> None:
        connection.sendall(raw)
        while not hub.over.wait(0.02):
            connection.sendall(b" ")

    hub.lies |= dict.fromkeys((*ROUTES[:-1], "DELETE /ai/queue/ID"), drip)

    done = desk.ask(hub.url, SOON)

    assert done.code == 0, done.said
    assert b"Outcome.UNKNOWN" in done.out
    assert done.out.count(b"HubTrouble") == 7
    hub.lies |= dict.fromkeys(ROUTES, drip)
    assert desk.run("--deadline", "1s", "--max-outage", "1s", setup=SOON).code in ENDS


@pytest.mark.parametrize("generation_id", ["../../x", "..", "/etc/passwd", "a\x00b", "", "x" * 36, "{}", "\u202e" * 36,
                                           "00000000-0000-4000-8000-00000000000\u0661", 7, None, [], {}])  # fmt: skip
def test_an_id_is_a_uuid_before_it_is_a_path_an_address_or_a_log_line(
    desk: Desk, hub: Hub, generation_id: object
) -> None:
    hub.lies["POST /ai/queue"] = reply({"generations": [{"generation_id": generation_id, "status": "queued"}]})

    done = desk.run("--deadline", "3s")

    assert done.code in (4, 69, 75), done.said
    with closing(sqlite3.connect(desk.folder / "out/m/ledger.db")) as ledger:
        assert ledger.execute("select count(*) from generations").fetchone() == (0,)
    assert {asked.path.partition("?")[0] for asked in hub.asked} <= {
        "/api/ai/models", "/api/ai/queue", "/api/ai/generations", "/api/events",
    }  # fmt: skip


def test_a_generation_of_somebody_else_is_never_taken_for_ours(desk: Desk, hub: Hub) -> None:
    """A forged event, and a list of rows that nobody asked for, with an address that leads elsewhere."""
    with Host(lambda _, connection: connection.sendall(reply(png(), kind="image/png"))) as other:
        forged = {"generation_id": "ffffffff-0000-4000-8000-000000000000", "status": "succeeded",
                  "media_type": "image", "url": f"{other.url}/x.png", "model": "picture-maker"}  # fmt: skip
        event = b"event: media_generation_completed\ndata: " + json.dumps(forged).encode() + b"\n\n"
        hub.lies["GET /events"] = reply(event * 50, kind="text/event-stream", content_length="none", connection="close")
        hub.lies["GET /ai/queue"] = reply({"generations": [forged], "count": 1})

        done = desk.run()

        assert done.code == 0, done.said
        assert other.asked == []
        assert len(desk.results()) == 1


EVENTS: dict[str, bytes] = {
    "a line without an end": b"data: " + b"a" * (100 * MB),
    "lines without an event's end": b"data: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n" * 2_500_000,
    "a name without an end": b"event: " + b"media_" * (4 * MB) + b"\n",
    "an id without an end": b"id: " + b"1" * (20 * MB),
    "a retry of ages": b"retry: 99999999999999999999\n\n" * 1000,
    "U+2028 for a line's end": "event: media_generation_completed\u2028data: {}\u2028\u2028".encode() * 1000,
    "carriage returns": b"\r" * MB,
    "NUL and no UTF-8": b"event: media_generation_completed\ndata: \x00\xff\xfe\n\n" * 1000,
    "an abyss": b"event: media_generation_completed\ndata: " + b"[" * 900_000 + b"\n\n",
    "numbers": b'event: media_generation_completed\ndata: {"generation_id": 1, "status": NaN, "url": []}\n\n' * 1000,
    "a million comments": b": keep-alive\n\n" * 1_000_000,
}


@pytest.mark.parametrize("what", EVENTS)
def test_no_event_stream_is_a_bug_or_fills_the_memory(desk: Desk, hub: Hub, what: str) -> None:
    raw = reply(EVENTS[what], kind="text/event-stream", content_length="none", connection="close")

    def answer(_: Asked, connection: socket.socket) -> None:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_RDWR)

    hub.lies["GET /events"] = answer

    done = desk.ask(hub.url, SOON)

    assert done.code == 0, done.said
    assert done.peak_mb < PEAK_MB
    told = done.out.splitlines()[-1]
    assert told == b"[]" or told.startswith(b"HubTrouble GET /events")


def test_an_event_stream_without_an_end_of_its_first_event_is_left(desk: Desk, hub: Hub) -> None:
    taken: list[int] = []

    def answer(_: Asked, connection: socket.socket) -> None:
        head = reply(b"data: ", kind="text/event-stream", content_length="none", connection="close")
        taken.append(endless(connection, hub.over, b"a" * 65536, head))
        connection.close()

    hub.lies["GET /events"] = answer

    done = desk.run()

    assert done.code == 0, done.said
    assert done.peak_mb < PEAK_MB
    assert taken
    assert max(taken) < 16 * MB  # what the kernel's buffers took


@pytest.mark.parametrize("wait", ["999999999", "-5", "nan", "inf", "1e400", "Fri, 31 Dec 9999 23:59:59 GMT", "\x1b[2J",
                                  "99999999999999999999999", "٣", "0x10"])  # fmt: skip
def test_a_wait_that_the_hub_asks_for_is_bounded(desk: Desk, hub: Hub, wait: str) -> None:
    hub.lies["POST /ai/queue"] = reply({"error": "rate limit exceeded"}, 429, retry_after=wait)

    done = desk.run("--deadline", "1s")

    assert done.code == 75, done.said


def test_a_history_that_goes_on_for_ever_is_left(desk: Desk, hub: Hub) -> None:
    """A send that nobody answered is looked for, in a history of a billion pages."""
    hub.lies["POST /ai/queue"] = reply(b"{}", 500)
    hub.lies["GET /ai/generations"] = reply(
        {"generations": [], "page_number": 1, "page_size": 1000, "total_pages": 10**9, "total_entries": 10**12}
    )

    def pages(asked: Asked, connection: socket.socket) -> None:
        number = int(asked.path.partition("page=")[2].partition("&")[0])
        connection.sendall(reply({"generations": [], "page_number": number, "page_size": 1000,
                                  "total_pages": 10**9, "total_entries": 10**12}))  # fmt: skip

    hub.lies["GET /ai/generations"] = pages

    done = desk.run("--deadline", "3s")

    assert done.code in ENDS - {0}, done.said
    assert sum(asked.method == "POST" for asked in hub.asked) == 1


def test_a_list_that_does_not_fit_one_answer_is_read_in_parts(desk: Desk, hub: Hub) -> None:
    """Nothing that is paid for is out of reach because the account is busy."""

    def pages(asked: Asked, connection: socket.socket) -> None:
        size = int(asked.path.partition("page_size=")[2].partition("&")[0])
        if size > 50:
            connection.sendall(reply(b'{"generations": [' + b"{}," * 200_000 + b"{}]}"))
            return
        connection.sendall(hub._honest("GET /ai/generations", "", "", asked))

    hub.lies["GET /ai/queue"] = reply(b'{"generations": [' + b"{}," * 200_000 + b"{}]}")
    hub.lies["GET /events"] = reply(b"", 500)
    hub.lies["GET /ai/generations"] = pages

    done = desk.run()

    assert done.code == 0, done.said
    assert any("status=processing" in asked.path for asked in hub.asked)


def test_a_catalogue_of_a_stranger_is_told_without_being_obeyed(desk: Desk, hub: Hub) -> None:
    entries = [catalogue_entry() | {"id": name} for name in (UNTRUSTED, "../../x", "picture-make\u202er", 7, None)]
    schema = {"type": "object", "properties": {"prompt": {"type": "string", "pattern": "^(a+)+$"}, "x": 7}}
    broken = catalogue_entry() | {"request_schema": schema, "pricing": {"method": "per_image", "cost_per_image": "NaN"}}
    hub.lies["GET /ai/models"] = reply({"object": "list", "data": [*entries, broken, 7, None, []]})

    done = desk.run(rows='- {prompt: "' + "a" * 40 + '!", model: picture-make}\n', name="m.yaml")

    assert done.code == 65, done.said
    assert is_quiet(done.out + done.err)
    assert len(list((desk.folder / "home").rglob("models-*.json"))) == 1


def test_a_run_that_was_lied_to_leaves_a_ledger_that_an_honest_hub_can_finish(desk: Desk, hub: Hub) -> None:
    hub.lies["GET /ai/queue/ID"] = reply({"generation_id": "00000000-0000-4000-8000-000000000000"})
    hub.lies["GET /files/ID"] = reply(b"<html>")
    first = desk.run(setup="import oxenbatch.runner.fetching as f; f.FETCH_PAUSE_MAX_S = 0.01; f.FETCH_TRIES = 2\n")
    hub.lies.clear()

    done = desk.run()

    assert (first.code in ENDS - {0}, done.code) == (True, 0)
    assert len(desk.results()) == 1
    assert sum(asked.method == "POST" for asked in hub.asked) == 1


def test_a_hub_may_not_send_us_elsewhere(desk: Desk, hub: Hub) -> None:
    """Its calls follow no redirect: not the one that costs money, and not those that read."""
    with Host(lambda _, connection: connection.sendall(reply({"generations": []}))) as other:
        for route in ROUTES:
            hub.lies[route] = reply(b"", 307, location=f"{other.url}/api/ai/queue")

        done = desk.run("--max-outage", "1s", "--deadline", "2s")

        assert done.code in ENDS - {0}
        assert other.asked == []
        assert all(asked.headers.get("authorization") == f"Bearer {KEY}" for asked in hub.asked)


def test_a_hub_that_hangs_up_on_everything_is_given_up(desk: Desk, hub: Hub) -> None:
    def hang_up(_: Asked, connection: socket.socket) -> None:
        connection.shutdown(socket.SHUT_RDWR)

    for route in ROUTES:
        hub.lies[route] = hang_up

    done = desk.run("--max-outage", "1s", "--deadline", "3s")

    assert done.code in (69, 75), done.said
