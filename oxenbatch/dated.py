"""The dated batches of a manifest: which of them a run has to finish first."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from typing import TYPE_CHECKING

from oxenbatch.errors import OxenbatchError
from oxenbatch.folder import LEDGER
from oxenbatch.ledger import reads
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from oxenbatch.manifest import Manifest


def _its_own(folder: Path) -> Iterable[Path]:
    return [folder / LEDGER]


def unfinished_dated(
    manifest: Manifest, today: dt.date, ledgers_in: Callable[[Path], Iterable[Path]] = _its_own
) -> tuple[Path, dt.date] | None:
    """The newest dated batch of this manifest, before today's, that has work left; None where there is none.

    `ledgers_in` a batch's folder are those that are asked.
    """
    todays = manifest.output_folder(today)
    found: list[tuple[dt.date, Path]] = []
    for folder in manifest.folders():
        for path in ledgers_in(folder):
            with suppress(OxenbatchError, ValueError), Ledger.open(path) as ledger:
                known = reads.batch(ledger)
                if known is None or known.name != manifest.name:
                    continue
                date = dt.date.fromisoformat(known.created_on)
                if folder.resolve() != todays.resolve() and date < today and reads.is_unfinished(ledger):
                    found.append((date, folder))
    return (max(found)[1], max(found)[0]) if found else None
