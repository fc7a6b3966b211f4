"""One page that shows a batch: what it cost, how it went, why things failed, and every result.

Everything that the page needs is in it, but the full-size files: those are linked, relative to where the page lies,
or with `files` they are in it too. Its content-security policy lets it ask nobody else for anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch.dataset.owned import refused
from oxenbatch.dataset.replacing import replaced
from oxenbatch.dataset.report.cards import Cards, take_cards
from oxenbatch.dataset.report.facts import gather
from oxenbatch.dataset.report.page import GENERATOR, render
from oxenbatch.errors import MachineError, UsageProblem, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oxenbatch.dataset.selection import Source

Embed = Literal["auto", "none", "thumbnails", "files"]
THUMBNAILS_AUTO: Final = 1000  # results: so many thumbnails take some ten seconds, and some ten megabytes of the page
FILES_BYTES_MAX: Final = 200 * 1024**2  # as a page 270 MB, which phones take too; writing it takes four times that


@dataclass(frozen=True, slots=True)
class Written:
    """What the page has."""

    results: int
    total: int
    """Samples of the batch, of which it shows the first `results`."""
    bytes: int


def write_report(sources: Sequence[Source], to: Path, *, limit: int, embed: Embed = "auto") -> Written:
    """The page is at `to`, in place of an earlier one; `MachineError` where another file is there."""
    _refuse_strangers(to)
    facts = gather(sources)
    cards = take_cards(sources, to, limit)
    size = sum(card["bytes"] or 0 for card in cards.shown if card.get("file"))
    if embed == "files" and size > FILES_BYTES_MAX:
        raise UsageProblem(
            f"the files are {size / 1024**2:.0f} MB, more than a browser takes in one page: show fewer with --limit, or"
            " take --embed thumbnails and keep the page beside the files"
        )
    _embed(cards, embed)
    text = render(facts, cards).encode("utf-8", "backslashreplace")
    with replaced(to) as file:
        file.write(text)
    return Written(len(cards.shown), facts.total, len(text))


def _embed(cards: Cards, embed: Embed) -> None:
    from oxenbatch.dataset.report.pictures import embed_files, embed_thumbnails  # noqa: PLC0415 - Pillow, an extra

    if embed == "files":
        embed_files(cards)
    elif embed == "thumbnails" or (embed == "auto" and len(cards.shown) <= THUMBNAILS_AUTO):
        embed_thumbnails(cards, must=embed == "thumbnails")


def _refuse_strangers(to: Path) -> None:
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.is_symlink() or (to.exists() and not to.is_file()):
            raise refused(to)
        if to.exists():
            with to.open("rb") as file:
                if GENERATOR.encode() not in file.read(1000):
                    raise refused(to)
    except OSError as error:
        raise MachineError(f"cannot write {printable(to)}: {error}") from error
