"""Batches become one: their ledgers, their files, their money.

Whatever kills a merge, the next one of the same parts makes it whole: the ledger is made beside, the files are put in
their places, and only then the ledger gets its name. Merging again brings what the parts have done since.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch.beneath import Beneath, LedAway, hash_of
from oxenbatch.dataset.metadata import write_metadata
from oxenbatch.download import fsync_folder
from oxenbatch.errors import ConfigProblem, MachineError, UsageProblem, printable
from oxenbatch.folder import LEDGER, locked, refuse_lost_ledger
from oxenbatch.ledger import merging, parts, reads, runs
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oxenbatch.ledger.merging import Result

MAKING: Final = f"{LEDGER}.merging"
How = Literal["linked", "copied", "there"]


@dataclass(slots=True)
class Merged:
    """What a merge has made."""

    folder: Path
    parts: int
    jobs: int = 0
    charged: Decimal = Decimal(0)
    """Dollars, exactly: the sum of what the parts were charged."""
    files: Counter[How] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Files that a part has not as its ledger says; a run of the merged batch fetches them again, for nothing."""


def merge(ledgers: Sequence[Path], folder: Path, *, at: float) -> Merged:
    """The batches of these ledgers are one, in `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot write into {printable(folder)}: {error.strerror or error}") from error
    with locked(folder, folder / LEDGER):
        return merge_locked(ledgers, folder, at=at)


def merge_locked(ledgers: Sequence[Path], folder: Path, *, at: float) -> Merged:
    """`merge`, where the caller holds the lock of `folder`.

    `TryAgain` while a run works on one of them; `UsageProblem` where they are no parts of one batch, or `folder` is
    another one; `MachineError` where something that is not ours is in the way.
    """
    sources = list(dict.fromkeys(path.resolve() for path in ledgers))
    target, making = folder.resolve() / LEDGER, folder.resolve() / MAKING
    if target in sources:
        raise UsageProblem(f"{printable(folder)} is one of the batches: merge them into another folder")
    with ExitStack() as held:
        for path in sources:
            held.enter_context(locked(path.parent, path))
        earlier = _earlier(target)
        if not earlier and not making.exists():
            refuse_lost_ledger(folder)
        _remove(making)
        with Ledger.open(making, create=True) as ledger:
            work = merging.Merging(ledger, earlier)
            _begin(ledger, sources, target.parent)
            for path in sources:
                work.absorb(path, target.parent)
            merged = Merged(folder, len(sources), reads.job_count(ledger), reads.charged(ledger))
            _put_files(work, [path.parent for path in sources], target.parent, merged)
            work.finish(at=at)
        _install(making, target)
    with Ledger.open(target) as ledger:
        write_metadata(ledger, target.parent)
        runs.mark_viewed(ledger, reads.newest_event(ledger))
    return merged


def _earlier(target: Path) -> Path | None:
    """The ledger that an earlier merge has left in the folder; `UsageProblem` where it is no mere view any more."""
    if not target.exists():
        return None
    with Ledger.open(target) as ledger:
        if not parts.parts_of(ledger):
            raise UsageProblem(f"{printable(target.parent)} holds a batch of its own: merge into another folder")
        if not parts.is_view(ledger):
            raise UsageProblem(
                f"{printable(target.parent)} has gone on since it was merged, and is a batch of its own: merge into"
                " another folder"
            )
    return target


def _begin(ledger: Ledger, sources: Sequence[Path], home: Path) -> None:
    """The merged batch exists, empty; `UsageProblem` where the sources are no parts of one."""
    known: list[reads.Batch] = []
    totals: set[int] = set()
    for path in sources:
        with Ledger.open(path) as source:
            shard = parts.shard_of(source)
            totals |= {shard.total} if shard else set()
            batch = reads.batch(source)
            if batch is None:
                raise UsageProblem(f"{printable(path.parent)}: no run has begun here")
            if parts.is_merged(source):
                raise UsageProblem(f"{printable(path.parent)} was merged from others, which may go on: merge those")
            successor = parts.superseded_by(source)
            if successor and successor != str(home):
                raise ConfigProblem(f"{printable(path.parent)} was merged into {printable(successor)}, which has gone"
                                    " on with its rows: merge that one")  # fmt: skip
            known.append(batch)
    if len(totals) > 1:
        raise UsageProblem(f"shards of {min(totals)} and of {max(totals)} are no parts of one batch")
    first = known[0]
    for path, batch in zip(sources, known, strict=True):
        for what, mine, theirs in (("hub", first.hub, batch.hub), ("date", first.created_on, batch.created_on)):
            if mine != theirs:
                raise UsageProblem(
                    f"{printable(path.parent)} is of another {what} ({printable(theirs)}) than"
                    f" {printable(sources[0].parent)} ({printable(mine)}): they are no parts of one batch"
                )
    runs.begin_batch(ledger, name=first.name, hub=first.hub, at=min(b.created_at for b in known), on=first.created_on)


# -- files --------------------------------------------------------------------------------------------------------


def _put_files(work: merging.Merging, sources: Sequence[Path], home: Path, merged: Merged) -> None:
    """Every result that a part has lies in the merged batch too, durably; what is not as it should be is told."""
    with ExitStack() as opened:
        try:
            to = opened.enter_context(Beneath(home))
            places = [opened.enter_context(Beneath(path)) for path in sources]
        except OSError as error:
            raise MachineError(f"cannot use {printable(str(error.filename))}: {error.strerror or error}") from error
        for result in work.place():
            if not result.is_kept:
                continue
            try:
                how = _put(places[result.part], to, result, work)
            except LedAway as error:
                raise MachineError(f"{error}: it is not ours; move it elsewhere, and merge again") from None
            except OSError as error:
                raise MachineError(
                    f"cannot write {printable(home / result.becomes)}: {error.strerror or error}"
                ) from error
            if how is None:
                merged.lost.append(str(sources[result.part] / result.was))
            else:
                merged.files[how] += 1
        for file, sha256 in work.gone():
            with suppress(OSError, LedAway):
                if to.hash(file) == sha256:
                    to.remove(file)
        try:
            to.sync()
        except (OSError, LedAway) as error:
            raise MachineError(f"cannot write into {printable(home)}: {error}") from error


def _put(source: Beneath, home: Beneath, result: Result, work: merging.Merging) -> How | None:
    """The bytes that the ledger knows lie at their place, and how they came there; None where `source` has others."""
    name = result.becomes
    if there := home.look(name):
        # A link of ours was hashed before it was made.
        found = source.look(result.was)
        if found and _is_same(found, there) and stat.S_ISREG(there.st_mode) and there.st_size == result.bytes:
            return "there"
        sha256 = "" if stat.S_ISLNK(there.st_mode) else home.hash(name)
        if sha256 == result.sha256:
            return "there"
        if not work.had(name, sha256):
            raise _in_the_way(home.root / name)
        home.remove(name)
    descriptor = source.open(result.was)
    if descriptor is None:
        return None
    try:
        if hash_of(descriptor) != result.sha256:
            return None
        return _link_or_copy(descriptor, source, home, result)
    finally:
        os.close(descriptor)


def _link_or_copy(descriptor: int, source: Beneath, home: Beneath, result: Result) -> How | None:
    """The open file, whose bytes are right, has its name in the merged batch; None where it is another one by now."""
    name = result.becomes
    try:
        home.link(source, result.was, name)
    except FileExistsError:
        raise _in_the_way(home.root / name) from None
    except OSError:  # another disk, or one without links
        if home.copy(descriptor, name) != result.sha256:
            home.remove(f"{name}.part")
            return None
        home.rename(name)
        return "copied"
    linked = home.look(name)
    if linked and _is_same(linked, os.fstat(descriptor)):
        return "linked"
    home.remove(name)
    return None


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _in_the_way(path: Path) -> MachineError:
    return MachineError(f"{printable(path)} is in the way: it is not ours; move it elsewhere, and merge again")


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _install(making: Path, target: Path) -> None:
    """The ledger that was made beside is the batch's, at once and durably."""
    if target.exists():
        # In one transaction of the old file: whoever has that open (`status`) would remove another's log with his own.
        with Ledger.open(making) as new, Ledger.open(target) as old:
            new.conn.backup(old.conn)
        _remove(making)
    else:
        _fsync(making)
        making.rename(target)
    fsync_folder(target.parent)


def _remove(ledger: Path) -> None:
    """There is no such ledger, nor a log of it that another under its name would take for its own."""
    for name in (f"{ledger.name}-wal", f"{ledger.name}-shm", ledger.name):
        ledger.with_name(name).unlink(missing_ok=True)
