"""Several manifests in one call of `run`: each has its own folder, and all are read before anything is sent."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from oxenbatch.errors import ManifestError, OxenbatchError, Problem, UsageProblem, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from oxenbatch.batch import Batch, Plan
    from oxenbatch.manifest import Manifest
    from oxenbatch.runner import Summary

log = logging.getLogger(__name__)


def refuse_shared(outputs: Iterable[tuple[Manifest, Path]]) -> None:
    """`a.yaml` and `a.csv` side by side both go to `out/a`: the one's rows would have left the other's batch."""
    seen: dict[Path, Manifest] = {}
    for manifest, folder in outputs:
        other = seen.setdefault(folder.resolve(), manifest)
        if other is not manifest:
            raise UsageProblem(
                f"{printable(other.path or '-')} and {printable(manifest.path or '-')} both go to {printable(folder)}:"
                " each manifest has its own output; say `output:` or `name:` in one of them"
            )


def standing(ledgers: Iterable[Path]) -> Iterator[Summary]:
    """How the batches of these ledgers stand, those that can be read, with nothing tried."""
    from oxenbatch.ledger.book import Ledger  # noqa: PLC0415 - seldom
    from oxenbatch.runner.summary import standing as stands  # noqa: PLC0415

    for path in ledgers:
        if path.is_file() and path.stat().st_size:
            # An error is being told already, perhaps that of this very ledger.
            with suppress(Exception), Ledger.open(path) as ledger:
                yield stands(ledger, 0, "")


def open_all(
    batches: Iterable[Batch], held: ExitStack, check: Callable[[Batch], None]
) -> dict[Path, tuple[Batch, Plan]]:
    """Every batch whose rows are right, open until `held` ends, by its folder; the problems of all the others are
    raised together, and then nothing is left of a batch that is new.
    """
    opened: dict[Path, tuple[Batch, Plan]] = {}
    problems: list[Problem] = []
    total = 0
    for batch in batches:
        try:
            opened[batch.whole] = batch, held.enter_context(batch)
            check(batch)
        except ManifestError as error:
            problems += error.problems
            total += error.total
        except OxenbatchError:
            log.debug("%s cannot be opened: that is told when its turn comes", batch.folder)
    if problems:
        for batch, _ in opened.values():
            batch.abandon()
        raise ManifestError(problems, total=total)
    return opened
