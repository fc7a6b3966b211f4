"""`status`, `ls` and `show`: where batches stand, for eyes and for programs, today and ten days later."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from ledgers import MODEL, Book, row

from oxenbatch.cli import access, cli, options, status
from oxenbatch.errors import OxenbatchError
from oxenbatch.jobs import JobState

if TYPE_CHECKING:
    from click.testing import Result

S = JobState
DAY = 86_400.0
MORNING = dt.datetime(2027, 1, 25, 9, 0).astimezone().timestamp()
COMMAND = "oxenbatch run ocean.yaml -c 8"


@pytest.fixture(autouse=True)
def morning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is nine o'clock, ten days after the batches of these tests began."""
    monkeypatch.setattr(status.time, "time", lambda: MORNING)
    monkeypatch.chdir(tmp_path)


def a_batch(place: Path, *states: JobState, **run: Any) -> Path:
    """A batch in which there is a sample in each of these states; what its last run left in the ledger."""
    place.mkdir(parents=True, exist_ok=True)
    book = Book(place / "ledger.db")
    book.now = MORNING - 10 * DAY
    # `bring` moves the next pending sample, so those that stay pending come last.
    ordered = sorted(states, key=lambda state: state is S.PENDING)
    rows = [row(f"prompt {n}", id=f"row-{n}", number=n, where=f"ocean.yaml:{n}") for n in range(1, len(states) + 1)]
    book.stage(*rows)
    for state in ordered:
        book.bring(state)
    facts = {"started_at": MORNING - 10 * DAY, "ended_at": MORNING - 10 * DAY + 700, "exit_code": 0, "command": COMMAND,
             "folder": str(Path.cwd()), "seen_at": MORNING - 10 * DAY} | run  # fmt: skip
    for name, value in facts.items():
        book.ledger.conn.execute(f"update runs set {name} = ?", (value,))
    book.ledger.conn.execute("update generations set sha256 = generation_id where sha256 is not null")  # no two alike
    book.ledger.conn.execute("update batch set created_at = ?", (MORNING - 10 * DAY,))
    book.close()
    return place


def call(*words: str | Path, width: int | None = None) -> Result:
    told = CliRunner().invoke(cli, [str(word) for word in words])
    if isinstance(told.exception, OxenbatchError):
        raise told.exception
    assert told.exception is None, told.exception
    return told


def test_a_batch_from_ten_days_ago_says_what_to_do_next(tmp_path: Path) -> None:
    a_batch(tmp_path / "out", S.DOWNLOADED, S.DOWNLOADED, S.QUEUED, S.PENDING, S.PENDING, exit_code=75)
    assert (
        call("status", "out").output
        == f"""\
out  (test, begun 2027-01-15 (10 days ago), on http://hub)
  pending             2
  queued              1
  downloaded          2
  charged      $0.00, $0.12 with what is under way
  last run     2027-01-15 09:00 (10 days ago), took 12 min: exit 75, work was left for the next run

next:
  go on: send 2, collect 1 that are paid
    {COMMAND}
"""
    )


def test_failures_are_grouped_by_cause_with_the_remedy(tmp_path: Path) -> None:
    a_batch(tmp_path / "out", S.FAILED, S.FAILED, S.HELD, S.UNFETCHABLE, exit_code=4)
    assert (
        re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", call("status", "out").output)
        == f"""\
out  (test, begun 2027-01-15 (10 days ago), on http://hub)
  held                1
  failed              2
  unfetchable         1
  charged      $0.00, $0.08 with what is under way
  last run     2027-01-15 09:00 (10 days ago), took 12 min: exit 4, a person must decide

  1 held: sent, and nobody can tell whether it landed; a person decides: it is money
    1 × undecidable
        oxenbatch show out row-3
  2 failed: refused for what they ask for; change these rows in the manifest; the same would fail again
    2 × content policy
        oxenbatch show out row-1
  1 unfetchable: made and paid, and the file could not be had; the next run tries again, for nothing
    1 × gone
        oxenbatch show out ID

next:
  decide about what is held
    oxenbatch resolve out
  see which rows cannot be made as they are, and change them in the manifest
    oxenbatch ls out --state failed
  go on: collect 1 that are paid
    {COMMAND}
"""
    )


def test_a_batch_that_is_done_says_so(tmp_path: Path) -> None:
    a_batch(tmp_path / "out", S.DOWNLOADED)
    assert call("status", "out").output.endswith("\nnothing is left to do: every wanted file is on disk\n")


def test_a_command_that_was_typed_elsewhere_is_told_with_its_place(tmp_path: Path) -> None:
    a_batch(tmp_path / "out", S.PENDING, exit_code=130, folder="/home/me/my loops")
    assert f"    cd '/home/me/my loops' && {COMMAND}\n" in call("status", "out").output


def test_a_run_that_was_not_typed_is_gone_on_with_by_its_manifest(tmp_path: Path) -> None:
    a_batch(tmp_path / "out", S.PENDING, exit_code=143, command=None, folder=None)
    assert "    oxenbatch run ocean.yaml\n" in call("status", "out").output


def test_a_run_that_was_killed_is_told_from_one_that_goes_on(tmp_path: Path) -> None:
    killed = {"ended_at": None, "exit_code": None, "pid": 2**22 + 1}
    a_batch(tmp_path / "killed", S.QUEUED, **killed)
    assert ": killed, or its machine went down" in call("status", "killed").output

    a_batch(tmp_path / "alive", S.QUEUED, ended_at=None, exit_code=None, pid=os.getpid(), seen_at=MORNING - 3)
    told = call("status", "alive").output
    assert f", process {os.getpid()}: under way\n" in told
    assert told.endswith("next:\n  a run is under way: watch it\n    oxenbatch status alive --watch\n")


def test_a_folder_of_nights_is_summed_up(tmp_path: Path) -> None:
    for day, states in (
        ("01", [S.DOWNLOADED] * 3),
        ("02", [S.DOWNLOADED, S.FAILED]),
        ("03", [S.DOWNLOADED, S.PENDING]),
    ):
        a_batch(tmp_path / "nights" / f"2027-01-{day}", *states, exit_code={"01": 0, "02": 3, "03": 75}[day],
                command=f"oxenbatch run ocean.yaml --date 2027-01-{day}")  # fmt: skip
    assert (
        call("status", "nights").output
        == """\
BATCH               FILES  FAILED  HELD  ACTIVE  PENDING   COST  LAST RUN
nights/2027-01-01  3 of 3                                 $0.00  2027-01-15 09:00 (10 days ago), \
took 12 min: exit 0, all done
nights/2027-01-02  1 of 2       1                         $0.00  2027-01-15 09:00 (10 days ago), \
took 12 min: exit 3, done, but for what failed for good
nights/2027-01-03  1 of 2                              1  $0.00  2027-01-15 09:00 (10 days ago), \
took 12 min: exit 75, work was left for the next run
all 3 batches      5 of 7       1     0       0        1  $0.00
  1 failed: refused for what they ask for; change these rows in the manifest; the same would fail again
    1 × content policy

next:
  see which rows cannot be made as they are, and change them in the manifest
    oxenbatch ls nights/2027-01-02 --state failed
  go on: send 1
    oxenbatch run ocean.yaml --date 2027-01-03
"""
    )


def test_one_damaged_night_does_not_hide_the_others(tmp_path: Path) -> None:
    a_batch(tmp_path / "nights" / "1", S.DOWNLOADED)
    a_batch(tmp_path / "nights" / "2", S.DOWNLOADED)
    (tmp_path / "nights" / "0").mkdir()
    (tmp_path / "nights" / "0" / "ledger.db").write_bytes(b"noise" * 100)
    told = call("status", "nights")
    assert "all 2 batches  2 of 2" in told.stdout
    assert "left out: the ledger nights/0/ledger.db cannot be read" in told.stderr


@pytest.mark.parametrize("name", ["out", "out/ledger.db", "ocean.yaml"])
def test_a_batch_is_named_by_its_folder_its_ledger_or_its_manifest(tmp_path: Path, name: str) -> None:
    a_batch(tmp_path / "out", S.DOWNLOADED)
    (tmp_path / "ocean.yaml").write_text(f"output: out\nmodel: {MODEL}\nprompts: [a]\n")
    assert "(test, begun" in call("status", name).output
    assert "row-1" in call("ls", name).output
    assert "prompt 1" in call("show", name, "row-1").output


def test_a_misspelt_batch_is_recognised(tmp_path: Path) -> None:
    a_batch(tmp_path / "ocean-loops", S.DOWNLOADED)
    with pytest.raises(OxenbatchError, match=r"ocean-lops does not exist \(did you mean ocean-loops\?\)"):
        call("status", "ocean-lops")


@pytest.mark.parametrize("width", [200, 80, 40])
def test_on_a_terminal_no_line_is_wider_than_it_but_for_what_is_to_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    a_batch(tmp_path / "nights" / "2027-01-01", S.DOWNLOADED, S.FAILED, S.HELD)
    a_batch(tmp_path / "nights" / "2027-01-02", S.PENDING)
    monkeypatch.setattr(status, "screen_width", lambda: width)
    monkeypatch.setattr("oxenbatch.cli.read.screen_width", lambda: width)
    for words in (["status", "nights"], ["status", "nights/2027-01-01"], ["ls", "nights/2027-01-01"]):
        for line in call(*words).output.splitlines():
            assert len(line) <= width or line.startswith(("    oxenbatch", "        oxenbatch")), line


def test_the_width_is_the_terminals_and_there_is_none_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_, **__: os.terminal_size((77, 20)))
    monkeypatch.setattr(options.sys.stdout, "isatty", lambda: True, raising=False)
    assert options.screen_width() == 77
    monkeypatch.setattr(options.sys.stdout, "isatty", lambda: False, raising=False)
    assert options.screen_width() is None


def test_ls_is_a_table_and_whole_in_a_pipe(tmp_path: Path) -> None:
    a_batch(tmp_path / "out", S.DOWNLOADED, S.FAILED)
    assert (
        call("ls", "out").output
        == """\
JOB    SAMPLE  STATE       MODEL         COST  SIZE   FILE              PROMPT
row-1       1  downloaded  flux-2-klein        64×32  row-1.png         prompt 1
row-2       1  failed      flux-2-klein               (content policy)  prompt 2
"""
    )
    told = [json.loads(line) for line in call("ls", "out", "--json").output.splitlines()]
    assert [one["job"] for one in told] == ["row-1", "row-2"]


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    book = Book(folder / "ledger.db")
    book.stage(row("a \x1b[2J prompt\nof two lines", id="evil\x1b]0;title\x07"))
    book.close()
    for words in (["ls", "out"], ["show", "out", "evil\x1b]0;title\x07"], ["status", "out"]):
        assert "\x1b" not in call(*words).output


def test_a_key_that_is_a_hash_is_named_by_its_beginning() -> None:
    key = "r1:" + "ab" * 32 + "#1"
    assert access.short_name(key) == "r1:abababababababab"
    assert access.short_name(key.replace("#1", "#2")) == key.replace("#1", "#2")  # its beginning names both
    assert access.short_name("hero") == "hero"


def test_status_of_what_is_being_written_needs_no_lock(tmp_path: Path) -> None:
    folder = a_batch(tmp_path / "out", S.DOWNLOADED)
    book = Book(folder / "ledger.db")
    book.ledger.conn.execute("begin exclusive")
    book.ledger.conn.execute("update batch set committed_nanos = 7")
    assert "downloaded          1" in call("status", "out").output
    book.ledger.conn.execute("rollback")
    book.close()
