"""Who goes on with a batch's rows: the whole batch, its shards, or what they were merged into. Only ever one of them.

A merged batch is a view of its parts until it is run and finds something to do: then it takes their rows over, and
they end. Until then the parts may go on, and be merged anew.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from oxenbatch.errors import UsageProblem, printable
from oxenbatch.folder import LEDGER, locked
from oxenbatch.ledger import parts
from oxenbatch.ledger.book import Ledger
from oxenbatch.shards import FOLDER, Shard

if TYPE_CHECKING:
    from pathlib import Path


def shards_in(folder: Path) -> list[Shard]:
    """The shards that were begun in the batch's folder, in their order."""
    with suppress(OSError):
        names = [path.name for path in (folder / FOLDER).iterdir() if (path / LEDGER).is_file()]
        return sorted(shard for name in names if (shard := Shard.of_folder(name)))
    return []


def refuse_mixture(folder: Path, shard: Shard | None) -> None:
    """`UsageProblem` where the batch in `folder` was begun in another way: its rows would be paid for once more."""
    begun = shards_in(folder)
    whole = folder / LEDGER
    has_whole = whole.is_file() and whole.stat().st_size > 0
    if shard is None:
        if begun and not has_whole:
            raise UsageProblem(
                f"{printable(folder)} was begun in {begun[0].total} shards, and run as a whole it would pay for their"
                f" rows again: go on with --shard or --dask, or first `oxenbatch merge {printable(folder / FOLDER)}"
                f" -o {printable(folder)}`"
            )
        return
    if other := next((one for one in begun if one.total != shard.total), None):
        raise UsageProblem(
            f"{printable(folder)} was begun in {other.total} shards, and rows would change their shard: go on with"
            f" K/{other.total}, or choose another -o"
        )
    if has_whole:
        with Ledger.open(whole) as ledger:
            if not parts.is_view(ledger):
                raise UsageProblem(
                    f"{printable(folder)} has gone on as one batch: run it without --shard and --dask, or choose"
                    " another -o"
                )


def take_over(ledger: Ledger, *, at: float) -> None:
    """The merged batch goes on with its parts' rows, and they no longer do; `UsageProblem` where it is not up to date.

    Call with the batch's own folder locked, before anything is sent.
    """
    home = ledger.path.parent
    remedy = f"merge again before this batch is run: `oxenbatch merge … -o {printable(home)}`"
    known = parts.parts_of(ledger)
    strangers = {home / FOLDER / one.folder / LEDGER for one in shards_in(home)} - {part.ledger for part in known}
    if strangers:
        raise UsageProblem(f"{printable(min(strangers).parent)} is not in this batch yet: {remedy}")
    with ExitStack() as held:
        there: list[Ledger] = []
        for part in known:
            if part.ledger.is_file():  # one that is gone cannot go on
                held.enter_context(locked(part.ledger.parent, part.ledger))
                other = held.enter_context(Ledger.open(part.ledger))
                if not part.is_as_it_was(other):
                    raise UsageProblem(f"{printable(part.ledger.parent)} has gone on since it was merged: {remedy}")
                there.append(other)
        for other in there:
            parts.supersede(other, home)
        parts.take_over(ledger, at=at)
