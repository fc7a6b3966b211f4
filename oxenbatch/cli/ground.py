"""In which ledgers a person's decision about a batch is written: its own, or those of its shards.

A batch in shards has several, and what they were merged into is only a view of them: a decision in there would make it
a batch of its own, whose shards must not go on. So it is written into the shards, all of them at rest, and the view is
made anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oxenbatch.account import folder_of
from oxenbatch.cli.access import jobs_named, the_ledgers_of
from oxenbatch.errors import TryAgain, UsageProblem, printable
from oxenbatch.folder import LEDGER, locked
from oxenbatch.handover import shards_in
from oxenbatch.ledger import decisions, parts, reads
from oxenbatch.ledger.book import Ledger
from oxenbatch.shards import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ground:
    """The ledgers of one batch that a decision is written into."""

    ledgers: list[Path]
    view: Path | None = None
    """What they were merged into, in which names are looked up first: files may be called otherwise there."""

    def chosen(self, names: tuple[str, ...]) -> list[tuple[Path, list[int]]]:
        """In which ledger which jobs are meant; all of them, an empty list, where nothing is named.

        `UsageProblem` where a name means none, or several.
        """
        if not names:
            return [(path, []) for path in self.ledgers]
        if len(self.ledgers) == 1:
            with Ledger.open(self.ledgers[0]) as ledger:
                return [(self.ledgers[0], jobs_named(ledger, names))]
        keys = [self._key_in_view(name) or name for name in names]
        found: dict[str, list[tuple[Path, int]]] = {key: [] for key in keys}
        for path in self.ledgers:
            with Ledger.open(path) as ledger:
                for key, jobs in found.items():
                    jobs += [(path, job) for job in reads.find_jobs(ledger, key)]
        chosen: dict[Path, list[int]] = {}
        for name, key in zip(names, keys, strict=True):
            if len(found[key]) != 1:
                raise UsageProblem(
                    f"{printable(name)!r} names {len(found[key]) or 'no'} job{'s' if len(found[key]) > 1 else ''} of"
                    f" these {len(self.ledgers)} shards; `oxenbatch ls` lists those of each"
                )
            ((path, job),) = found[key]
            chosen.setdefault(path, []).append(job)
        return list(chosen.items())

    def sample_of_file(self, name: str) -> tuple[Path, int] | None:
        """Whose result the file is: in which ledger, and which sample."""
        generation_id = None
        if self.view is not None:
            with Ledger.open(self.view) as ledger:
                generation_id = reads.generation_of_file(ledger, name)
            if generation_id is None:
                return None
        found: list[tuple[Path, int]] = []
        for path in self.ledgers:
            with Ledger.open(path) as ledger:
                if generation_id:
                    sample = reads.sample_of(ledger, generation_id)
                else:
                    sample = decisions.sample_of_file(ledger, name)
            if sample is not None:
                found.append((path, sample))
        if len(found) > 1:
            raise UsageProblem(f"{printable(name)!r} is a file of {len(found)} shards: name one of them as BATCH")
        return found[0] if found else None

    def _key_in_view(self, name: str) -> str | None:
        if self.view is None:
            return None
        with Ledger.open(self.view) as ledger:
            jobs = reads.find_jobs(ledger, name)
            return reads.key_of(ledger, jobs[0]) if len(jobs) == 1 else None


@contextlib.contextmanager
def ground_of(batch: str, *, alone: bool = False) -> Iterator[Ground]:
    """The ledgers that BATCH means; a batch in shards is at rest meanwhile, and its view is up to date afterwards.

    `alone`: any batch is at rest meanwhile. `TryAgain` where somebody works on it.
    """
    paths = the_ledgers_of(batch)
    shards, view = (paths, None) if len(paths) > 1 else _shards_behind(paths[0])
    if not shards:
        with locked(folder_of(paths[0]), paths[0]) if alone else contextlib.nullcontext():
            yield Ground(paths)
        return
    from oxenbatch.merge import merge_locked  # noqa: PLC0415 - it writes tables, and is seldom needed

    home = shards[0].parent.parent.parent
    with locked(home, home / LEDGER):
        with contextlib.ExitStack() as held:
            for path in shards:
                held.enter_context(locked(path.parent, path))
            before = [_newest(path) for path in shards]
            yield Ground(shards, view)
            changed = [_newest(path) for path in shards] != before
        if view and changed:
            try:
                merge_locked(shards, home, at=time.time())
            except TryAgain as busy:
                log.warning("%s: it is merged again when that is over", busy)


def _shards_behind(ledger: Path) -> tuple[list[Path], Path | None]:
    """The shards of which this is a mere view, and the view; nothing where it is a batch of its own."""
    with Ledger.open(ledger) as whole:
        if not parts.is_view(whole):
            return [], None
        known = {part.ledger for part in parts.parts_of(whole)}
    # Only what lies where this batch's shards do: a ledger is no authority on which others may be written into.
    home = Path(os.path.normpath(ledger.parent))
    shards = [home / FOLDER / shard.folder / LEDGER for shard in shards_in(home)]
    return (shards, ledger) if known <= set(shards) else ([], None)


def _newest(path: Path) -> int:
    with Ledger.open(path) as ledger:
        return reads.newest_event(ledger)
