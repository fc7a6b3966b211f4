"""One shard on a worker: what `dask` carries there, and what comes back.

What must always hold: no key is in either. A worker finds its own, in its environment or configuration. And a shard
that is started twice runs once: the second finds the kernel's lock taken, or its lease too old, and steps back.
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from oxenbatch import __version__
from oxenbatch.access import Access, read_catalog
from oxenbatch.addresses import origin_of
from oxenbatch.batch import Batch
from oxenbatch.cluster import leases
from oxenbatch.errors import ConfigProblem, MachineError, ManifestError, OxenbatchError, TryAgain, printable
from oxenbatch.ledger import runs
from oxenbatch.ledger.book import Ledger
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.plan import Stop
from oxenbatch.settings import find_key
from oxenbatch.shards import FOLDER, Shard

if TYPE_CHECKING:
    import datetime as dt

    from oxenbatch.batch import Plan
    from oxenbatch.ledger.staging import Changed
    from oxenbatch.plan import Limits
    from oxenbatch.runner import Runner, Summary

TOPIC: Final = "oxenbatch"
STOP: Final = "stop"  # a file of this name in the folder of shards calls every worker back
LOOK_S: Final = 1.0
STUCK_S: Final = 60.0  # beyond the settle time: what is still not known then waits for another shard
STUCK: Final = "sends without an answer wait for what another shard or batch finds out; the next run looks again"
PROBLEMS_TOLD: Final = 50  # a screenful: a manifest that is wrong is wrong on every worker


@dataclass(frozen=True)
class Job:
    """All that a worker is told of its shard. Every path must mean the same file there."""

    version: str
    manifest: str
    overrides: Overrides
    fingerprint: str
    """Of the manifest as the one who sends it has read it."""
    folder: str
    """The whole batch's."""
    date: dt.date
    shard: Shard
    epoch: int
    hub: str
    limits: Limits
    """The whole batch's: the shard takes its part."""
    sends_before: int = 0
    """POSTs of the shard in earlier runs, so that `limit_sends` counts those of this one alone, over restarts."""
    changed: Changed = "stop"
    rebuild: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a shard, in plain values."""

    shard: Shard
    exit_code: int
    counts: dict[str, int] = field(default_factory=dict)
    sends: int = 0
    reasons: tuple[str, ...] = ()
    """Why it stopped before all was done, or could not begin."""
    problems: tuple[str, ...] = ()
    """What is wrong with the manifest."""
    stepped_back: str = ""
    """Why it was not run: somebody else works on it, or has been sent since."""
    starved: bool = False
    """It stopped since its part of `max_cost` was used up."""
    yielded: bool = False
    """What it has left waits for what another shard finds out, which may need this worker."""


class SteppedBack(TryAgain):
    """This shard is somebody else's now."""


def run_shard(job: Job) -> Outcome:
    """The shard is taken as far as it can go, unless somebody else does that; called by dask, perhaps twice."""
    try:
        return _run(job)
    except TryAgain as error:
        return Outcome(job.shard, error.exit_code, stepped_back=str(error))
    except ManifestError as error:
        problems = tuple(str(one) for one in error.problems[:PROBLEMS_TOLD])
        return Outcome(job.shard, error.exit_code, problems=problems, reasons=(f"{error.total} problems",))
    except OxenbatchError as error:
        return Outcome(job.shard, error.exit_code, reasons=(f"{error} (on {platform.node()})",))


def _run(job: Job) -> Outcome:
    if job.version != __version__:
        raise ConfigProblem(f"a worker has oxenbatch {__version__}, and this is {job.version}: install the same")
    whole = Path(job.folder)
    folder = whole / FOLDER / job.shard.folder
    if leases.read(folder) is None:
        raise MachineError(f"{printable(folder)} has no lease: the output must lie on a folder that all workers share")
    manifest = load_manifest(job.manifest, overrides=job.overrides)
    if manifest.fingerprint(job.date) != job.fingerprint:
        raise MachineError(
            f"{printable(job.manifest)} is not the file that was meant: put it on a folder that all share"
        )
    access = Access(origin_of(job.hub), find_key(job.hub))
    batch = Batch(
        manifest,
        whole,
        job.date,
        access=access,
        catalog=read_catalog(access),
        limits=job.limits,
        changed=job.changed,
        rebuild=job.rebuild,
        shard=job.shard,
        admit=lambda: _admit(batch, job),
    )
    with batch as plan:
        _count_sends(batch, job)
        watcher = _Watcher(job, whole / FOLDER / STOP)
        summary = batch.run(plan, watcher.watch)
    return _outcome(job, summary, yielded=watcher.yielded)


def _admit(batch: Batch, job: Job) -> None:
    """The lease is the one that we were sent with, and says so; its money is this run's limit."""
    lease = leases.read(batch.folder)
    if lease is None or lease.epoch != job.epoch:
        now = "none" if lease is None else str(lease.epoch)
        raise SteppedBack(f"shard {job.shard} was leased anew (epoch {now}, this one was sent with {job.epoch})")
    leases.write(batch.folder, replace(lease, holder=f"{platform.node()}, process {os.getpid()}"))
    batch.limits = replace(batch.limits, max_cost=lease.max_cost)


def _count_sends(batch: Batch, job: Job) -> None:
    if batch.limits.limit_sends is not None:
        with Ledger.open(batch.ledger_path) as ledger:
            left = batch.limits.limit_sends - (runs.all_sends(ledger) - job.sends_before)
        batch.limits = replace(batch.limits, limit_sends=max(0, left))


def _outcome(job: Job, summary: Summary, *, yielded: bool) -> Outcome:
    return Outcome(
        job.shard,
        summary.exit_code,
        {str(state): count for state, count in summary.counts.items()},
        summary.sends,
        tuple(summary.reasons),
        starved=summary.exit_code == Stop.COST.exit_code and Stop.COST.words in summary.reasons,
        yielded=yielded,
    )


class _Watcher:
    """Beside the run: it tells how far it is, and hears when it is called back."""

    def __init__(self, job: Job, stop: Path) -> None:
        self._job = job
        self._stop = stop
        self._worker = _this_worker()
        self._moved: dict[Any, int] = {}
        self._moved_at = time.monotonic()
        self.yielded = False
        """The run was ended so that another shard can have this worker."""

    async def watch(self, runner: Runner, plan: Plan) -> None:
        """Until it is cancelled, with the run's end."""
        called_back = False
        while True:
            if not called_back and await asyncio.to_thread(self._stop.exists):
                called_back = True
                runner.interrupt(Stop.SIGTERM)
            if not self.yielded and self._is_stuck(runner):
                self.yielded = True
                runner.interrupt(Stop.DEADLINE, STUCK)
                if not runner.desk.open_posts:
                    runner.abandon()  # nothing is under way that would have to be waited for
            if self._worker:
                moved = {str(state): count for state, count in runner.moved.items()}
                counts = {state: count + moved.get(state, 0) for state, count in plan.counts.items()}
                self._worker.log_event(TOPIC, {"shard": self._job.shard.number, "counts": counts})
            await asyncio.sleep(LOOK_S)

    def _is_stuck(self, runner: Runner) -> bool:
        """Whether nothing has moved for long, and all that is under way are sends that nobody answered."""
        now, moved, facts = time.monotonic(), dict(runner.moved), runner.facts
        moves = moved != self._moved or facts.submitting + facts.at_the_hub + facts.succeeded
        # An outage is waited for as every run does; starting again would begin to count it anew.
        if moves or not facts.uncertain or runner.mood.unreachable_s:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at > self._job.limits.settle_s + STUCK_S


def _this_worker() -> Any:
    """The worker that runs this thread's task; None outside of one."""
    from distributed import get_worker  # noqa: PLC0415 - it takes half a second

    try:
        return get_worker()
    except ValueError:
        return None
