"""What an older batch has bought is taken once, checked, and recorded as not paid here."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from ledgers import PRICE, Book, check_all, row

from oxenbatch import reuse
from oxenbatch.errors import ConfigProblem, MachineError
from oxenbatch.jobs import JobState
from oxenbatch.ledger import decisions, reads, sends
from oxenbatch.ledger.news import Kept, keep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HUB = "http://hub"


@pytest.fixture
def books(tmp_path: Path) -> Iterator[tuple[Book, Book]]:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = Book(tmp_path / "old/ledger.db"), Book(tmp_path / "new/ledger.db")
    yield old, new
    check_all(old.ledger)
    check_all(new.ledger)
    old.close()
    new.close()


def bought(book: Book, *rows: Any) -> list[str]:
    """The rows' files are on disk; their generations."""
    book.stage(*rows)
    ids = []
    for _ in book.due():
        (generation_id,) = book.accept()
        book.hear(generation_id, "succeeded", cost=PRICE)
        fetch = book.fetch(generation_id)
        data = generation_id.encode()
        name = f"{fetch.name}.png"
        (book.path.parent / name).write_bytes(data)
        file = Kept(name, hashlib.sha256(data).hexdigest(), len(data), "image/png", 64, 32)
        keep(book.ledger, [(fetch, file)], at=book.tick())
        ids.append(generation_id)
    return ids


def take(old: Book, new: Book, **more: Any) -> int:
    arguments = {"hub": HUB, "at": new.tick(), "run_id": new.run_id} | more
    return reuse.take(new.ledger, new.path.parent, [old.path], **arguments)


def test_equal_requests_take_a_file_each_and_the_rest_is_bought(books: tuple[Book, Book]) -> None:
    old, new = books
    ids = bought(old, row("a"), row("a", number=2), row("b", number=3))
    new.stage(row("a", id="x", samples=3), row("c", number=2))
    assert reuse.due(new.ledger, [old.path], HUB).samples == 2

    assert take(old, new) == 2

    assert new.states() == ["downloaded", "downloaded", "pending", "pending"]
    assert {new.sample(n)["generation_id"] for n in (1, 2)} == set(ids[:2])
    assert [(one["origin"], one["cost"], one["estimate_nanos"]) for one in map(new.generation, ids[:2])] == [
        ("../old", "0", 0)
    ] * 2
    assert (new.committed(), reads.charged(new.ledger)) == (0, 0)
    assert new.all("select distinct state, error from submissions") == [
        ("not_sent", "taken from ../old: nothing was sent")
    ]
    assert reads.generation_count(new.ledger) == 0
    assert take(old, new) == 0


def test_a_sample_is_its_model_its_parameters_and_its_seed(books: tuple[Book, Book]) -> None:
    old, new = books
    bought(old, row("a", id="x", parameters={"seed": "auto"}, samples=2))
    new.stage(
        row("a", id="y", parameters={"seed": "auto"}, samples=2),  # another id has other seeds
        row("a", id="z", parameters={"seed": 7}, number=2),
        row("a", id="w", number=3),
    )
    assert take(old, new) == 0
    new.stage(row("a", id="x", parameters={"seed": "auto"}, samples=3), fingerprint="g")
    assert take(old, new) == 2


def test_only_what_is_wanted_and_unsent_takes_a_file(books: tuple[Book, Book]) -> None:
    old, new = books
    bought(old, row("a"), row("a", number=2), row("b", number=3))
    new.stage(row("a"), row("b", number=2))
    new.accept()
    new.stage(row("a"), fingerprint="g")
    assert take(old, new) == 0


def test_a_file_that_changed_or_went_is_bought(books: tuple[Book, Book]) -> None:
    old, new = books
    bought(old, row("a"), row("b", number=2), row("c", number=3))
    changed, gone, linked = sorted(old.path.parent.glob("*.png"))
    changed.write_bytes(b"x" * changed.stat().st_size)
    gone.unlink()
    away = linked.with_suffix(".away")
    linked.rename(away)
    linked.symlink_to(away)
    new.stage(row("a"), row("b", number=2), row("c", number=3))
    assert take(old, new) == 0
    assert new.states() == ["pending"] * 3


@pytest.mark.parametrize("can_link", [True, False])
def test_a_file_is_linked_or_else_copied(
    books: tuple[Book, Book], monkeypatch: pytest.MonkeyPatch, *, can_link: bool
) -> None:
    old, new = books
    bought(old, row("a"))
    new.stage(row("a"))
    if not can_link:

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    assert take(old, new) == 1
    (source,), (file,) = old.path.parent.glob("*.png"), new.path.parent.glob("*.png")
    assert file.samefile(source) is can_link
    assert file.read_bytes() == source.read_bytes()
    assert not list(new.path.parent.glob("*.part"))


def test_killed_between_the_file_and_the_ledger_it_is_taken_by_the_next_run(
    books: tuple[Book, Book], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = books
    bought(old, row("a"), row("b", number=2))
    new.stage(row("a"), row("b", number=2))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reuse.matches, "take", killed)
        with pytest.raises(KeyboardInterrupt):
            take(old, new)
    assert len(list(new.path.parent.glob("*.png"))) == 2
    assert new.states() == ["pending", "pending"]
    assert take(old, new) == 2
    assert new.states() == ["downloaded", "downloaded"]


def test_a_stranger_s_file_is_in_the_way_and_stays(books: tuple[Book, Book]) -> None:
    old, new = books
    bought(old, row("a"))
    new.stage(row("a"))
    (source,) = old.path.parent.glob("*.png")
    mine = new.path.parent / source.name
    mine.write_bytes(b"mine")
    with pytest.raises(MachineError, match="is in the way"):
        take(old, new)
    assert mine.read_bytes() == b"mine"


def test_another_hub_s_files_are_refused_and_one_s_own_batch_is_nothing(books: tuple[Book, Book]) -> None:
    old, new = books
    bought(old, row("a"))
    new.stage(row("a"))
    with pytest.raises(ConfigProblem, match="was made on http://hub"):
        take(old, new, hub="stand-in on this machine")
    assert reuse.find(new.ledger, [new.path], HUB) == 0


def test_a_reused_result_that_is_rejected_is_bought_and_not_taken_again(books: tuple[Book, Book]) -> None:
    old, new = books
    (generation_id,) = bought(old, row("a"))
    new.stage(row("a"))
    take(old, new)
    decisions.set_aside(new.ledger, [1], at=new.tick(), attempts=3)
    assert new.state() is JobState.PENDING
    assert take(old, new) == 0
    assert sends.owned(new.ledger, [generation_id])
