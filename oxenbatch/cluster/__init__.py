"""One batch over many machines, through `dask.distributed`: the conductor here, its workers anywhere.

The batch is cut into shards, each with its own ledger beside its output, on a folder that all machines share. Dask
carries which worker runs which shard, at least once; that each is paid for once is not its business: the kernel's lock,
the lease and the ledger see to it (`leases`). The limits are divided among the shards, not counted across workers: what
a killed worker has left at the hub is in its shard's ledger, and nobody else's places depend on it. A semaphore of the
whole cluster would give a killed worker's places away while its generations are still active.

Windows: `leases` (who may work on a shard), `worker` (one shard on a worker), `purse` (money moved between shards),
`conductor` (who is sent where, and what comes back).
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from oxenbatch import __version__
from oxenbatch.batch import Plan
from oxenbatch.cluster.conductor import Conductor
from oxenbatch.cluster.worker import Job, Outcome
from oxenbatch.errors import ConfigProblem, ManifestError, Problem, TryAgain, UsageProblem, gravest, printable
from oxenbatch.folder import LEDGER, locked
from oxenbatch.handover import refuse_mixture, shards_in
from oxenbatch.jobs import JobState
from oxenbatch.ledger import reads, runs
from oxenbatch.ledger.book import Ledger
from oxenbatch.merge import merge_locked
from oxenbatch.runner import Summary
from oxenbatch.shards import FOLDER, Shard, all_of

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oxenbatch.ledger.staging import Changed
    from oxenbatch.manifest import Manifest, Overrides
    from oxenbatch.plan import Limits

LOCAL: Final = "local"
CONNECT_S: Final = 10.0  # a scheduler that is there answers at once; one that is being started has a moment
OF_ITS_OWN: Final = {"dashboard_address": "127.0.0.1:0"}  # it serves HTTP all the same, and two at once want one port
WORKERS_S: Final = 30.0  # so long is waited for a first worker, where its threads say how many shards there will be


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be run, as `oxenbatch run` was told. Limits are the whole batch's."""

    manifest: Manifest
    overrides: Overrides
    folder: Path
    date: dt.date
    hub: str
    limits: Limits
    changed: Changed
    rebuild: bool
    retry_failed: bool
    shards: int | None
    """Into how many; None: as many as the cluster can run at once, or as the batch was begun in."""


def run(address: str, request: Request, say: Callable[[str], None]) -> tuple[Plan, Summary]:
    """The batch was taken as far as it can go, by the cluster at this address, and merged into one view."""
    if request.manifest.path is None:
        raise UsageProblem("standard input cannot be read by other machines: put the manifest into a file")
    folder = request.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    begun = shards_in(folder)
    refuse_mixture(folder, Shard(1, request.shards or (begun[0].total if begun else 1)))
    with locked(folder, folder / LEDGER), connected(address, places=request.limits.concurrency) as client:
        total = request.shards or (begun[0].total if begun else _fitting(client, request.limits))
        for shard in all_of(total):
            shard.limits(request.limits)  # refused before anything is begun
        job = Job(
            version=__version__,
            manifest=str(request.manifest.path.absolute()),
            overrides=request.overrides,
            fingerprint=request.manifest.fingerprint(request.date),
            folder=str(folder),
            date=request.date,
            shard=Shard(1, total),
            epoch=0,
            hub=request.hub,
            limits=request.limits,
            changed=request.changed,
            rebuild=request.rebuild,
        )
        conductor = Conductor(client, job, folder, all_of(total), say=say, retry_failed=request.retry_failed)
        outcomes = conductor.run()
        codes = {outcome.exit_code for outcome in outcomes} | (
            {128 + conductor.stopped} if conductor.stopped else set()
        )
        _raise_problems(outcomes)
        return _merged(folder, outcomes, gravest(codes), sum(conductor.sends_before.values()))


def _raise_problems(outcomes: list[Outcome]) -> None:
    """`ManifestError` where the manifest is wrong: each worker has found the same in it."""
    for outcome in outcomes:
        if outcome.problems:
            raise ManifestError([Problem(words) for words in outcome.problems])


def _merged(folder: Path, outcomes: list[Outcome], code: int, sends_before: int) -> tuple[Plan, Summary]:
    """One view of all shards, and how the run ended."""
    reasons = list(dict.fromkeys(words for outcome in outcomes for words in outcome.reasons))
    whole = folder / LEDGER
    try:
        if ledgers := [folder / FOLDER / shard.folder / LEDGER for shard in shards_in(folder)]:
            merge_locked(ledgers, folder, at=time.time())
    except TryAgain as busy:
        reasons.append(f"{busy}: what it has done is not merged yet")
        code = gravest({code, busy.exit_code})
    if not whole.is_file():
        nothing = dict.fromkeys(JobState, 0)
        return Plan(folder, whole, None, {}), Summary(code, nothing, Decimal(0), Decimal(0), 0, reasons)
    with Ledger.open(whole) as ledger:
        counts, batch = reads.counts(ledger), reads.batch(ledger)
        committed = batch.committed if batch else Decimal(0)
        sends = max(0, runs.all_sends(ledger) - sends_before)
        summary = Summary(code, counts, reads.charged(ledger), committed, sends, reasons)
    return Plan(folder, whole, None, {str(state): count for state, count in counts.items()}), summary


@contextlib.contextmanager
def connected(address: str, *, places: int) -> Iterator[Any]:
    """A client of the scheduler at this address; `local` brings one along, with a worker for each core.

    `TryAgain` where nobody answers there, `ConfigProblem` where dask is not installed.
    """
    try:
        from distributed import Client, LocalCluster  # noqa: PLC0415 - an extra, and half a second
    except ImportError:
        raise ConfigProblem("--dask needs dask.distributed: pip install 'oxenbatch[dask]'") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters of its troubles we say ourselves
    if address == LOCAL:
        workers = min(os.cpu_count() or 1, places)
        with (
            LocalCluster(  # type: ignore[no-untyped-call, unused-ignore]
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                scheduler_kwargs=OF_ITS_OWN,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):  # type: ignore[no-untyped-call, unused-ignore]
            yield client
        return
    try:
        client = Client(address, timeout=CONNECT_S)
    except (ValueError, TypeError) as error:
        raise UsageProblem(f"--dask {printable(address, 120)}: {printable(error)}; expected tcp://HOST:PORT") from error
    except OSError as error:
        raise TryAgain(
            f"no dask scheduler answers at {printable(address, 120)}; nothing was sent, try again"
        ) from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # a scheduler that is gone cannot be taken leave of
            client.close(timeout=2)


def _fitting(client: Any, limits: Limits) -> int:
    """As many shards as the cluster can run at once, and as there are places for."""
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError:
        raise TryAgain(
            f"the dask scheduler has had no worker for {WORKERS_S:.0f} s: start some, or say --shards"
        ) from None
    threads = sum(int(count) for count in client.nthreads().values())
    return max(1, min(threads, limits.concurrency, *limits.models.values()))
