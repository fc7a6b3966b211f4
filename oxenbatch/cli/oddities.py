"""What is odd about a batch's results, for `status`: for eyes and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from oxenbatch.errors import printable
from oxenbatch.ledger.results import oddities

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from oxenbatch.ledger.book import Ledger


def oddities_of(ledger: Ledger) -> list[dict[str, Any]]:
    """For `--json`: `what` (mismatch, identical, blank), `says`, `count`, and some of the `files`."""
    return [asdict(one) for one in oddities(ledger)]


def oddity_lines(found: Iterable[dict[str, Any]], folder: str) -> Iterator[str]:
    """A line a kind of oddity, and how to have such results made anew."""
    last = ""
    for one in found:
        last = one["files"][-1]
        subject = "result" if one["count"] == 1 else "results"
        yield f"{one['what']}: {one['count']} {subject}: {printable(one['says'])}  (for instance {printable(last, 60)})"
    if last:
        yield f"to have one made anew: oxenbatch reject {printable(folder)} {printable(last, 80)}"
