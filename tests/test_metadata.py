"""`metadata.jsonl` is the dataset's table: whole or not there, and what it says of a file is what the ledger knows."""

from __future__ import annotations

import json
import os
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import MODEL, Book, row

from oxenbatch.dataset.metadata import NAME, line_of, write_metadata
from oxenbatch.errors import MachineError
from oxenbatch.jobs import JobState, Row
from oxenbatch.ledger.news import Kept, keep

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMNS = ["file_name", "prompt", "model"]
MEASURED = ["generation_id", "sha256", "bytes", "width", "height", "seconds", "fps", "audio", "cost", "created_at"]


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    found = Book(tmp_path / "ledger.db")
    yield found
    found.close()


def _made(book: Book, *rows: Row) -> None:
    book.stage(*rows)
    for _ in range(book.one("select count(*) from samples where state = 'pending' and wanted = 1")):
        book.bring(JobState.DOWNLOADED)


def _lines(folder: Path) -> list[dict[str, Any]]:
    with (folder / NAME).open(encoding="utf-8") as file:
        return [json.loads(line, parse_constant=pytest.fail) for line in file]


def test_each_result_is_one_line_with_its_columns_in_order(book: Book, tmp_path: Path) -> None:
    book.stage(row("A red cube", id="hero", parameters={"aspect": "1:1", "steps": 4}, metadata={"split": "train"}))
    (generation_id,) = book.accept()
    book.hear(generation_id, "succeeded", cost=Decimal("0.04"), completed_at=1_800_000_000.9)
    kept = Kept("hero.mp4", "c" * 64, 7, "video/mp4", 640, 480, 5.0, 24.0, audio=True)
    keep(book.ledger, [(book.fetch(), kept)], at=book.tick())

    assert write_metadata(book.ledger, tmp_path) == 1
    (line,) = _lines(tmp_path)
    assert list(line) == [*COLUMNS, "aspect", "steps", "split", *MEASURED]
    assert line == {
        "file_name": "hero.mp4", "prompt": "A red cube", "model": MODEL, "aspect": "1:1", "steps": 4, "split": "train",
        "generation_id": generation_id, "sha256": "c" * 64, "bytes": 7, "width": 640, "height": 480, "seconds": 5.0,
        "fps": 24.0, "audio": True, "cost": 0.04, "created_at": "2027-01-15T08:00:00+00:00",
    }  # fmt: skip


def test_only_results_have_lines_and_they_are_in_the_manifests_order(book: Book, tmp_path: Path) -> None:
    _made(book, row("b", id="b", samples=2), row("a", id="a", number=2))
    book.stage(row("a", id="a"), row("b", id="b", number=2, samples=3), row("c", id="c", number=3))

    assert write_metadata(book.ledger, tmp_path) == 3
    assert [line["file_name"] for line in _lines(tmp_path)] == ["a.png", "b-1.png", "b-2.png"]


def test_a_batch_without_results_has_an_empty_table(book: Book, tmp_path: Path) -> None:
    assert write_metadata(book.ledger, tmp_path) == 0
    assert (tmp_path / NAME).read_bytes() == b""


def test_a_sample_with_its_own_seed_tells_it(book: Book, tmp_path: Path) -> None:
    _made(book, row(parameters={"seed": "auto"}))
    write_metadata(book.ledger, tmp_path)

    assert _lines(tmp_path)[0]["seed"] == book.sample()["seed"]


def test_a_prompt_in_parts_is_told_as_one(book: Book, tmp_path: Path) -> None:
    parts = [{"prompt": "one", "duration": 2}, {"prompt": "two", "duration": 3}]
    _made(book, Row(MODEL, {"multi_prompt": parts}, number=1))
    write_metadata(book.ledger, tmp_path)

    assert (_lines(tmp_path)[0]["prompt"], _lines(tmp_path)[0]["multi_prompt"]) == ("one / two", parts)


# -- names that clash ---------------------------------------------------------------------------------------------


def _result(**more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "file": "x.png", "prompt": "p", "model": "m", "parameters": {"prompt": "p"}, "metadata": {}, "seed": None,
        "generation_id": "g", "sha256": "s", "bytes": 9, "width": 64, "height": 32, "seconds": None, "fps": None,
        "audio": None, "cost": None, "created_at": 0.0,
    }  # fmt: skip
    return given | more


def test_what_was_asked_for_and_what_was_measured_stand_side_by_side_where_they_differ() -> None:
    line = line_of(_result(parameters={"prompt": "p", "width": 1024, "height": 32}))

    assert (line["requested_width"], line["width"]) == (1024, 64)
    assert line["height"] == 32
    assert "requested_height" not in line


def test_a_parameter_stays_where_nothing_was_measured() -> None:
    line = line_of(_result(parameters={"prompt": "p", "seconds": 5}))

    assert line["seconds"] == 5
    assert "requested_seconds" not in line


@pytest.mark.parametrize("at", [float("inf"), float("-inf"), 1.8e12, -1e18, 1e300])
def test_a_time_that_is_none_costs_no_line(at: float) -> None:
    assert line_of(_result(created_at=at))["created_at"] is None


# -- characters ---------------------------------------------------------------------------------------------------

HOSTILE = ["é🎉", "a\nb\r\nc", "\u2028\u2029\x85", '"quoted"', "\\", "\x00\x1b", "\u202e", "日本語", "</script>"]


def test_any_text_comes_back_as_it_was_one_line_a_result(book: Book, tmp_path: Path) -> None:
    _made(book, *(row(text, number=n, metadata={"note": text}) for n, text in enumerate(HOSTILE, 1)))
    write_metadata(book.ledger, tmp_path)

    assert [(line["prompt"], line["note"]) for line in _lines(tmp_path)] == [(text, text) for text in HOSTILE]
    assert (tmp_path / NAME).read_bytes().count(b"\n") == len(HOSTILE)
    assert "日本語".encode() in (tmp_path / NAME).read_bytes()  # people read it too


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["note", "tags", "größe", "x y"]), json_values))
def test_metadata_of_any_shape_comes_back_as_it_was(metadata: dict[str, Any]) -> None:
    line = json.loads(json.dumps(line_of(_result(metadata=metadata)), ensure_ascii=False))

    assert {name: line[name] for name in metadata} == metadata
    assert list(line)[:3] == COLUMNS


# -- the file -----------------------------------------------------------------------------------------------------


def test_the_table_is_replaced_whole(book: Book, tmp_path: Path) -> None:
    _made(book, row("one"))
    write_metadata(book.ledger, tmp_path)
    with (tmp_path / NAME).open() as reader:
        _made(book, row("one"), row("two", number=2))
        assert write_metadata(book.ledger, tmp_path) == 2
        assert len(reader.readlines()) == 1  # whoever reads goes on reading the old one
    assert len(_lines(tmp_path)) == 2
    assert not (tmp_path / f"{NAME}.part").exists()


def test_a_table_that_breaks_off_leaves_the_old_one(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made(book, row("one"))
    write_metadata(book.ledger, tmp_path)
    before = (tmp_path / NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(MachineError, match="No space left"):
            write_metadata(book.ledger, tmp_path)
    assert (tmp_path / NAME).read_bytes() == before
    assert write_metadata(book.ledger, tmp_path) == 1  # and what it left behind is in nobody's way


def test_what_is_renamed_is_on_the_disk_already(book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(Path, "rename", lambda path, to: (done.append("rename"), rename(path, to))[1])
    write_metadata(book.ledger, tmp_path)

    assert done == ["fsync", "rename", "fsync"]


def test_a_leftover_part_is_replaced(book: Book, tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.part").write_text("half a li")
    write_metadata(book.ledger, tmp_path)

    assert [path.name for path in tmp_path.glob(f"{NAME}*")] == [NAME]
    assert (tmp_path / NAME).read_bytes() == b""


@pytest.mark.parametrize("name", [NAME, f"{NAME}.part"])
def test_no_link_is_written_through(book: Book, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / name).symlink_to(victim)
    write_metadata(book.ledger, tmp_path)

    assert victim.read_text() == "mine"
    assert not (tmp_path / NAME).is_symlink()


def test_a_link_that_comes_at_the_last_moment_is_refused(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / f"{NAME}.part").symlink_to(victim)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # it was put there just after we had looked

    with pytest.raises(MachineError):
        write_metadata(book.ledger, tmp_path)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", [NAME, f"{NAME}.part"])
def test_a_folder_in_the_tables_place_is_this_machines_fault(book: Book, tmp_path: Path, name: str) -> None:
    (tmp_path / name / "x").mkdir(parents=True)

    with pytest.raises(MachineError, match=r"metadata\.jsonl"):
        write_metadata(book.ledger, tmp_path)


def test_a_folder_that_is_gone_is_this_machines_fault(book: Book, tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        write_metadata(book.ledger, tmp_path / "gone")
