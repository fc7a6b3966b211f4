"""What others said is shown, and never obeyed: by a terminal, by a line reader, by whoever reads our JSON."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hostile import OBEYED, UNTRUSTED, Desk, Hub, is_quiet, reply
from hypothesis import given
from hypothesis import strategies as st

from oxenbatch.cli.logs import _Json, _Text
from oxenbatch.cli.options import json_line
from oxenbatch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS: dict[str, list[str]] = {
    "status": ["status", "out/m"],
    "status --json": ["status", "out/m", "--json"],
    "ls": ["ls", "out/m"],
    "ls --json": ["ls", "out/m", "--json"],
    "show": ["show", "out/m", "loud"],
    "show --json": ["show", "out/m", "loud", "--json"],
    "resolve": ["resolve", "out/m"],
    "resolve --json": ["resolve", "out/m", "--json"],
    "verify": ["verify", "out/m"],
    "verify --json": ["verify", "out/m", "--json"],
    "audit": ["audit", "out/m"],
    "audit --json": ["audit", "out/m", "--json"],
    "retry": ["retry", "out/m", "--error", UNTRUSTED.replace("\0", "")],
    "cancel": ["cancel", "out/m", "--job", "loud"],
}
SAID = UNTRUSTED.replace("\x00", "")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A batch in which the manifest, the hub and, after that, somebody with an editor have had their say."""
    with Hub() as hub:
        found = Desk(tmp_path_factory.mktemp("loud"), hub)
        hub.row = {"status": "failed", "error_message": f"invalid {UNTRUSTED}", "model_name": UNTRUSTED}
        row = {"id": "loud", "prompt": SAID, "metadata": {"who": SAID}}
        assert (
            found.run(rows=json.dumps(row) + "\n" + json.dumps({"prompt": f"b {SAID}"}) + "\n", name="m.jsonl").code
            == 3
        )
        with closing(sqlite3.connect(found.folder / "out/m/ledger.db")) as ledger, ledger:
            ledger.execute("pragma ignore_check_constraints = on")
            ledger.execute("update batch set name = ?, hub = hub", (SAID,))
            ledger.execute("update jobs set model = ?, source = ?", (SAID, SAID))
            ledger.execute("update samples set file = ?, error = ?", (SAID, SAID))
            ledger.execute("update generations set cost = '0.01', error = ?, file = ?", (SAID, SAID))
            ledger.execute("update events set note = ?, event = ?, was = ?, became = ?", (SAID, SAID, SAID, SAID))
            ledger.execute("update runs set host = ?", (SAID,))
        yield found


@pytest.mark.parametrize("command", COMMANDS)
def test_no_table_and_no_json_of_a_command_is_obeyed_by_a_terminal(desk: Desk, command: str) -> None:
    done = desk.call(*COMMANDS[command])

    assert done.code in (0, 2, 4, 74), done.said
    assert is_quiet(done.out + done.err), done.said
    assert "Traceback" not in done.said
    if "--json" in command:
        assert [json.loads(line) for line in done.out.decode().splitlines()] or done.out == b""


def test_json_says_the_very_characters_that_it_escapes(desk: Desk) -> None:
    told = [json.loads(line) for line in desk.call("ls", "out/m", "--json").out.decode().splitlines()]

    assert told[0]["prompt"] == SAID


def test_a_name_that_is_nonsense_is_repeated_without_being_obeyed(desk: Desk) -> None:
    for arguments in (["show", "out/m", SAID], ["status", SAID], ["run", SAID], ["run", f"{SAID}.yaml"],
                      ["show", SAID, "x"], ["resolve", "out/m", "--adopt", SAID]):  # fmt: skip
        done = desk.call(*arguments)
        assert done.code in (0, 2), done.said
        assert is_quiet(done.out + done.err), done.said


def test_a_hubs_words_are_quiet_in_every_line_of_a_run(tmp_path: Path) -> None:
    with Hub() as hub:
        desk = Desk(tmp_path, hub)
        hub.lies["GET /ai/models"] = reply({"error": {"detail": UNTRUSTED}}, 400)
        hub.lies["POST /ai/queue"] = reply({"error": f"{UNTRUSTED} unauthenticated"}, 401)
        hub.lies["GET /ai/queue"] = reply({"error": UNTRUSTED}, 403)

        done = desk.run("-vv", "--log-file", "log.txt", "--json", "--max-outage", "1s")

        assert done.code in (69, 77), done.said
        assert is_quiet(done.out + done.err)
        assert is_quiet((tmp_path / "log.txt").read_bytes())


def test_a_bugs_traceback_is_quiet_too(tmp_path: Path) -> None:
    with Hub() as hub:
        desk = Desk(tmp_path, hub)
        setup = (
            "import oxenbatch.hub.client as c\n"
            f"def broken(*a, **k): raise RuntimeError({UNTRUSTED!r})\nc.read_answer = broken\n"
        )

        done = desk.run(setup=setup)

        assert done.code == 1
        assert b"Traceback" in done.err
        assert is_quiet(done.err)


@given(st.text(max_size=400), st.integers(1, 300))
def test_any_text_is_printable_within_its_limit(text: str, limit: int) -> None:
    shown = printable(text, limit)

    assert shown.isprintable()
    assert len(shown) <= max(limit, 1)
    assert text.isprintable() is False or len(text) > limit or shown == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_any_value_is_one_quiet_line_of_json_and_the_same_value(value: object) -> None:
    line = json_line(value)

    assert line.isprintable()
    assert json.loads(line) == value


@given(st.text(max_size=200))
def test_any_log_message_is_one_quiet_line(message: str) -> None:
    record = logging.LogRecord("oxenbatch", logging.WARNING, "x", 1, "%s", (message,), None)

    for formatter in (_Text("%(asctime)s %(levelname)s %(message)s"), _Json()):
        line = formatter.format(record)
        assert line.isprintable()
        assert not OBEYED.search(line)


def test_a_gigabyte_of_text_is_shown_as_fast_as_a_line() -> None:
    """What is cut off is not gone through first."""

    class Counted(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self

        def __getitem__(self, key: object) -> str:  # type: ignore[override]
            asked.append(key)
            return super().__getitem__(key)  # type: ignore[index]

        def __iter__(self) -> Iterator[str]:
            raise AssertionError("all of it was gone through")

    asked: list[object] = []

    assert len(printable(Counted("\x1b" * 1_000_000), 50)) == 50
    assert asked == [slice(None, 51)]
