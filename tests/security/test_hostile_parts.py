"""Shards that somebody else may write into, merged: their ledgers and files lead nowhere, and stop with a sentence."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hostile import PEAK_MB, Desk, Hub, is_quiet
from test_hostile_ledgers import BOMB, SCHEMAS, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hostile import Done

SHARD = "out/m/shards/1-of-1"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A batch of one shard that is done, and somebody's work beside it."""
    with Hub() as hub:
        found = Desk(tmp_path, hub)
        assert found.run("--shard", "1/1").code == 0
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/work").write_bytes(b"my work")
        yield found


def change(desk: Desk, *statements: str) -> None:
    """Somebody has been at the shard's ledger."""
    with closing(sqlite3.connect(desk.folder / SHARD / "ledger.db", isolation_level=None)) as db:
        for pragma in ("ignore_check_constraints = on", "writable_schema = on", "foreign_keys = off"):
            db.execute(f"pragma {pragma}")
        for statement in statements:
            db.execute(statement)
        db.execute("pragma journal_mode = delete")


def merge(desk: Desk, setup: str = "", codes: tuple[int, ...] = (0, 2, 74)) -> Done:
    """What became of it, with what must hold whatever that is."""
    above = sorted(path.name for path in desk.folder.parent.iterdir())
    done = desk.call("merge", "out/m/shards", "-o", "out/m", setup=setup, patience_s=20.0)
    assert done.code in codes, done.said
    assert done.peak_mb < PEAK_MB
    assert is_quiet(done.out + done.err), done.said
    assert b"root:" not in done.out + done.err
    assert sorted(path.name for path in desk.folder.parent.iterdir()) == above
    assert [path.name for path in (desk.folder / "mine").iterdir()] == ["work"]
    assert (desk.folder / "mine/work").read_bytes() == b"my work"
    assert (desk.folder / "mine/work").stat().st_nlink == 1
    return done


@pytest.mark.parametrize("what", VALUES)
def test_values_that_are_not_ours_are_merged_harmlessly_or_refused(desk: Desk, what: str) -> None:
    """As everywhere: a sentence or an exit code is good; a file outside, a hang or an escape sequence is not."""
    change(desk, VALUES[what])
    merge(desk, codes=(0, 1, 2, 74))


ORPHANS: dict[str, str] = {
    "a result of no sample": "update generations set sample_id = 77",
    "a result of no send": "update generations set submission_id = 77",
    "a sample of no job": "update samples set job_id = 77",
    "a sample with a result that is none": "update samples set generation_id = hex(zeroblob(18))",
    "a send of no run": "update submissions set run_id = 77",
    "a line of no sample": "update events set sample_id = -9223372036854775807",
    "a job with a number beyond all": "update jobs set id = 9223372036854775807",
    "a sample that breaks its rules": "update samples set attempts = -5",
    "a send that breaks its rules": "update submissions set count = 1000000",
}


@pytest.mark.parametrize("what", ORPHANS)
def test_rows_that_name_none_or_break_their_rules_are_refused_with_the_shards_name(desk: Desk, what: str) -> None:
    change(desk, ORPHANS[what])

    done = merge(desk)

    assert done.code == 74, done.said
    assert "1-of-1" in done.said
    assert "restore it from a backup" in done.said
    assert not (desk.folder / "out/m/ledger.db").exists()
    assert not list((desk.folder / "out/m").glob("*.png"))


@pytest.mark.parametrize("what", SCHEMAS)
def test_a_ledger_that_is_swapped_after_it_was_looked_at_is_refused_all_the_same(desk: Desk, what: str) -> None:
    """It is opened, checked and closed, and attached a moment later: in between it is another."""
    ledger = desk.folder / SHARD / "ledger.db"
    change(desk)
    shutil.copy(ledger, desk.folder / "good.db")
    change(desk, *SCHEMAS[what])
    shutil.move(ledger, desk.folder / "evil.db")
    shutil.move(desk.folder / "good.db", ledger)

    done = merge(
        desk,
        setup=f"""
import os, oxenbatch.ledger.merging as merging
absorb = merging.Merging.absorb
def swapped(self, part, home):
    os.replace({str(desk.folder / "evil.db")!r}, part)
    absorb(self, part, home)
merging.Merging.absorb = swapped
""",
    )

    assert done.code == 74, done.said
    assert not (desk.folder / "out/m/ledger.db").exists()


@pytest.mark.parametrize("file", ["../../../../mine/work", "/etc/passwd", "sub/../../../../../mine/work", "",
                                  "a/" * 3000 + "x", ".", "x\\y", "c:x", "link/work", "away.png"])  # fmt: skip
def test_a_result_that_lies_elsewhere_is_not_merged(desk: Desk, file: str) -> None:
    (desk.folder / SHARD / "link").symlink_to(desk.folder / "mine")
    (desk.folder / SHARD / "away.png").symlink_to(desk.folder / "mine/work")
    work = hashlib.sha256(b"my work").hexdigest()
    change(desk, f"update generations set file = '{file}', bytes = 7, sha256 = '{work}'",
           f"update samples set file = '{file}'")  # fmt: skip

    assert merge(desk).code == 74


@pytest.mark.parametrize("how", ["a link to somebody's work", "other bytes", "nothing", "a pipe"])
def test_a_file_that_is_swapped_between_its_check_and_its_merging_is_not_merged(desk: Desk, how: str) -> None:
    (result,) = (desk.folder / SHARD).glob("*.png")

    done = merge(
        desk,
        setup=f"""
import os
link = os.link
def swapped(*names, **more):
    os.unlink({str(result)!r})
    if {how!r} == "a link to somebody's work":
        os.symlink({str(desk.folder / "mine/work")!r}, {str(result)!r})
    elif {how!r} == "other bytes":
        open({str(result)!r}, "w").write("something else")
    elif {how!r} == "a pipe":
        os.mkfifo({str(result)!r})
    link(*names, **more)
os.link = swapped
""",
    )

    merged = list((desk.folder / "out/m").glob("*.png"))
    if how == "nothing":  # the open file was copied: its bytes are those that were checked
        assert done.code == 0
        assert len(merged) == 1
    else:
        assert done.code == 74, done.said
        assert merged == []


@pytest.mark.parametrize("where", ["out/m/set-aside", "out/m/RESULT", "out/m/RESULT.part"])
def test_nothing_is_merged_through_a_link_in_the_merged_folder(desk: Desk, where: str) -> None:
    (result,) = (desk.folder / SHARD).glob("*.png")
    path = desk.folder / where.replace("RESULT", result.name)
    path.symlink_to(desk.folder / "mine" / ("work" if "RESULT" in where else ""))
    if where.endswith("set-aside"):
        assert desk.call("reject", SHARD, result.name).code == 0

    done = merge(desk, setup="import os, errno\ndef link(*_, **__): raise OSError(errno.EXDEV, 'another disk')\n"
                             "os.link = link\n")  # fmt: skip

    assert done.code == (0 if where.endswith(".part") else 74), done.said


def test_a_bomb_in_a_view_of_somebodys_own_is_not_asked(desk: Desk) -> None:
    change(desk, f"create view hostile as {BOMB}")
    assert merge(desk).code == 0
