"""Files of older batches are put in place here, whole and checked, before the ledger says that they are."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from oxenbatch.download import fsync_folder, hash_of
from oxenbatch.errors import ConfigProblem, MachineError, UsageProblem, printable
from oxenbatch.ledger import reads
from oxenbatch.ledger import reuse as matches
from oxenbatch.ledger.book import Ledger
from oxenbatch.names import inside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

log = logging.getLogger(__name__)

PAGE: Final = 500  # files between two commits: a kill costs linking so many again, and nothing else


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a run would send."""

    samples: int
    cost: Decimal
    """Dollars, as far as prices are known."""
    unpriced: int
    """Samples whose model has no known price."""
    models: list[str]
    """Whose they are."""


def due(ledger: Ledger, older: Sequence[Path], hub: str) -> Rehearsal:
    """What is wanted, not sent yet, and in none of the older batches."""
    reuse = bool(older) and bool(find(ledger, older, hub))
    return Rehearsal(*reads.due_totals(ledger, reuse=reuse), reads.due_models(ledger, reuse=reuse))


def find(ledger: Ledger, older: Sequence[Path], hub: str) -> int:
    """What the older batches have of this one's unsent requests is known; how many samples that is.

    `ConfigProblem` where one was made on another hub: a rehearsal's files are not the real ones.
    """
    matches.forget(ledger)
    found = 0
    for number, path in enumerate(older):
        if path.exists() and ledger.path.exists() and path.samefile(ledger.path):
            continue
        with Ledger.open(path) as opened:
            batch = reads.batch(opened)
        if batch is None:
            raise UsageProblem(f"--reuse {printable(path)}: no run has begun there")
        if batch.hub != hub:
            raise ConfigProblem(
                f"--reuse {printable(path.parent)}: was made on {printable(batch.hub)}, and this run is for {hub}"
            )
        found += matches.find(ledger, path, number)
    return found


def take(ledger: Ledger, folder: Path, older: Sequence[Path], hub: str, *, at: float, run_id: int) -> int:
    """Every file that can be had from the older batches is here; how many."""
    if not find(ledger, older, hub):
        return 0
    total = 0
    for number, path in enumerate(older):
        origin = Path(os.path.relpath(path.parent.absolute(), folder.absolute())).as_posix()
        after = 0
        while rows := matches.page(ledger, number, after, PAGE):
            after = rows[-1][0]
            placed = [(match, file) for _, match in rows if (file := _placed(path.parent, folder, match))]
            for parent in {(folder / file).parent for _, file in placed}:
                fsync_folder(parent)
            matches.take(ledger, path, placed, at=at, run_id=run_id, origin=origin)
            total += len(placed)
    return total


def _placed(older: Path, folder: Path, match: matches.Match) -> str | None:
    """The file's name here, where it lies now; None where the older batch does not have it as it was."""
    try:
        source = inside(older, match.file)
        if source.is_symlink() or hash_of(source) != match.sha256:
            log.warning("%s is not as it was, and is not reused", printable(source))
            return None
    except (OSError, ValueError):
        log.warning("%s is gone, and is not reused", printable(older / match.file))
        return None
    name = match.name + Path(match.file).suffix
    try:
        final = inside(folder, name)
        final.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(final):
            if final.is_symlink() or not final.is_file() or hash_of(final) != match.sha256:
                words = "is in the way: it is not ours; move it elsewhere, and run again"
                raise MachineError(f"{printable(final)} {words}")
            return name  # a killed run put it there before it could say so
        _link(source, final)
    except (OSError, ValueError) as error:
        raise MachineError(f"cannot put {printable(name)} into {printable(folder)}: {error}") from error
    return name


def _link(source: Path, final: Path) -> None:
    """The file has a second name; where the file system cannot do that, a copy."""
    with suppress(OSError):
        os.link(source, final, follow_symlinks=False)
        return
    part = final.with_name(final.name + ".part")
    part.unlink(missing_ok=True)
    with source.open("rb") as read, os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
        shutil.copyfileobj(read, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(final)
