"""Who is sent where, and what comes back: one conductor for a batch, with the lock of the whole batch's folder.

It sends every shard out, and again where its worker was lost or its money ran out while others had some left, until
nothing more can be done. What it knows is on the shared folder; killed and started again it first calls back whoever
still works, and goes on.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.cluster import leases, purse
from oxenbatch.cluster.worker import STOP, TOPIC, Job, Outcome, run_shard
from oxenbatch.download import fsync_folder
from oxenbatch.errors import MachineError, TryAgain, printable
from oxenbatch.folder import LEDGER, locked
from oxenbatch.jobs import JobState
from oxenbatch.ledger import decisions, reads, runs
from oxenbatch.ledger.book import Ledger, to_dollars, to_nanos
from oxenbatch.shards import FOLDER, Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
TELL_S: Final = 30.0
BACK_S: Final = 25.0  # whoever is called back has 15 s for open POSTs


class Conductor:
    """One run of a batch over a cluster."""

    def __init__(
        self,
        client: Any,
        job: Job,
        folder: Path,
        shards: Iterable[Shard],
        *,
        say: Callable[[str], None],
        retry_failed: bool = False,
    ) -> None:
        """`job` is what each shard's is made from; `folder` the whole batch's, whose lock the caller holds."""
        self._client = client
        self._job = job
        self._folder = folder
        self._shards = list(shards)
        self._say = say
        self._retry_failed = retry_failed
        self._max_cost = to_nanos(job.limits.max_cost)
        self._began = time.monotonic()
        self._out: dict[Any, Shard] = {}
        """Dask's futures of what is under way."""
        self._busy: dict[Shard, float] = {}
        """Shards that somebody works on whom we did not send, or have lost, and since when."""
        self._grants: dict[Shard, int] = {}
        """What each shard may have committed, in nanodollars, as its lease says; together never above the limit."""
        self._hungry: dict[Shard, purse.Hungry] = {}
        self._deaths: dict[Shard, tuple[int, float]] = {}
        """The newest event of each shard that dask has given up, and since when it has been that."""
        self.sends_before: dict[Shard, int] = {}
        """POSTs of each shard before this run."""
        self._outcomes: dict[Shard, Outcome] = {}
        self._counts: dict[int, dict[str, int]] = {}
        self._asked: dict[str, float] = {}
        """When (monotonic seconds) something that is not done at every look was done last."""
        self.stopped = 0
        """The signal that ended this run; 0: none did."""

    def run(self) -> list[Outcome]:
        """Every shard was taken as far as it can go; what became of each. `TryAgain` where the cluster is lost."""
        from distributed.client import FuturesCancelledError  # noqa: PLC0415 - an extra
        from distributed.comm import CommClosedError  # noqa: PLC0415

        try:
            with self._hearing_signals():
                self._take()
                if not self.stopped:
                    self._client.subscribe_topic(TOPIC, self._told)
                    for shard in self._shards:
                        self._send(shard)
                    self._conduct()
        except (CommClosedError, FuturesCancelledError, TimeoutError) as error:
            raise TryAgain(
                "the dask scheduler is gone; nothing is lost, and nothing will be paid twice: run the same command"
                " again, and it goes on from what the shards' ledgers say"
            ) from error
        return [self._outcomes[shard] for shard in self._shards if shard in self._outcomes]

    # -- before -------------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        """Nobody works on any shard but who is sent from here on; each has its part of the money."""
        stop = self._stop_file
        stop.parent.mkdir(parents=True, exist_ok=True)
        stop.touch()  # whoever an earlier conductor has sent comes back
        with ExitStack() as held:
            for shard in self._shards:
                self._folder_of(shard).mkdir(exist_ok=True)
                self._wait_for(shard, held)
                if self.stopped:
                    return
            committed = {shard: self._look_at(shard) for shard in self._shards}
            grants = {} if self._max_cost is None else purse.first_grants(self._max_cost, committed)
            for shard in self._shards:
                self._lease(shard, grants.get(shard))
            fsync_folder(stop.parent)
            stop.unlink()

    def _wait_for(self, shard: Shard, held: ExitStack) -> None:
        """We hold the shard's lock; `TryAgain` where somebody else does for longer than an outage may last."""
        folder, since, said = self._folder_of(shard), time.monotonic(), False
        while not self.stopped:
            try:
                held.enter_context(locked(folder, folder / LEDGER))
                return
            except TryAgain as error:
                if time.monotonic() - since > self._job.limits.max_outage_s:
                    raise
                if not said:
                    self._say(f"{error}; it is called back")
                    said = True
                time.sleep(LOOK_S)

    def _look_at(self, shard: Shard) -> int:
        """What the shard has committed, in nanodollars; call with its lock held."""
        path = self._folder_of(shard) / LEDGER
        self.sends_before[shard] = 0
        if not path.is_file() or not path.stat().st_size:
            return 0
        with Ledger.open(path) as ledger:
            if self._retry_failed:
                failed = decisions.choose(ledger, [JobState.FAILED])
                decisions.retry(ledger, failed, attempts=self._job.limits.attempts, at=time.time())
            self.sends_before[shard] = runs.all_sends(ledger)
            self._counts[shard.number] = {str(state): n for state, n in reads.counts(ledger).items()}
            return reads.committed_nanos(ledger) if reads.batch(ledger) else 0

    def _lease(self, shard: Shard, grant: int | None) -> None:
        """The shard has a new lease, with so much money (None: no limit); call with its lock held."""
        folder = self._folder_of(shard)
        last = leases.read(folder)
        leases.write(
            folder, leases.Lease((last.epoch if last else 0) + 1, None if grant is None else to_dollars(grant))
        )
        if grant is not None:
            self._grants[shard] = grant

    # -- sending out --------------------------------------------------------------------------------------------------

    def _send(self, shard: Shard) -> None:
        lease = leases.read(self._folder_of(shard))
        if lease is None:
            raise MachineError(f"{printable(self._folder_of(shard))} has lost its lease")
        limits = self._job.limits
        if limits.deadline_s is not None:
            limits = replace(limits, deadline_s=max(0.0, limits.deadline_s - (time.monotonic() - self._began)))
        job = replace(self._job, shard=shard, epoch=lease.epoch, limits=limits, sends_before=self.sends_before[shard])
        key = f"oxenbatch-{shard}-{lease.epoch}-{secrets.token_hex(4)}"
        self._out[self._client.submit(run_shard, job, pure=False, key=key)] = shard

    def _send_again(self, shard: Shard, grant: int | None) -> None:
        """The shard is sent out with a new lease, or waits until whoever works on it is done."""
        folder = self._folder_of(shard)
        try:
            with locked(folder, folder / LEDGER):
                self._lease(shard, grant)
        except TryAgain:
            self._busy.setdefault(shard, time.monotonic())
            return
        self._busy.pop(shard, None)
        self._send(shard)

    # -- what comes back ----------------------------------------------------------------------------------------------

    def _conduct(self) -> None:
        """Until nothing is under way any more."""
        from distributed import wait  # noqa: PLC0415 - an extra

        while self._out or self._busy:
            if self._out:
                with contextlib.suppress(TimeoutError):
                    wait(list(self._out), timeout=LOOK_S, return_when="FIRST_COMPLETED")
            else:
                time.sleep(LOOK_S)
            for future in [future for future in self._out if future.done()]:
                self._came_back(self._out.pop(future), future)
            if self.stopped:
                if self._called_back():
                    return
                continue
            for shard in list(self._busy):
                self._send_again(shard, self._grants.get(shard))
            self._feed()
            if self._is_time("tell", TELL_S):
                self._tell()
            self._leave_if_late()

    def _came_back(self, shard: Shard, future: Any) -> None:
        from distributed import KilledWorker  # noqa: PLC0415 - an extra

        try:
            outcome: Outcome = future.result()
        except KilledWorker:
            self._was_killed(shard)
            return
        except ImportError as error:
            raise MachineError(f"a worker cannot import oxenbatch ({printable(error)}): install it there") from error
        if outcome.stepped_back:
            log.info("shard %s: %s", shard, outcome.stepped_back)
            self._busy.setdefault(shard, time.monotonic())
            return
        if outcome.yielded and (self._out or self._busy):
            self._busy[shard] = time.monotonic()
            return
        self._outcomes[shard] = outcome
        self._counts[shard.number] = outcome.counts
        self._say(f"shard {shard}: {outcome.counts.get('downloaded', 0)} of {sum(outcome.counts.values())} files,"
                  f" exit {outcome.exit_code}")  # fmt: skip
        if self._max_cost is not None:
            self._give_back(shard, starved=outcome.starved)

    def _was_killed(self, shard: Shard) -> None:
        """Dask has seen several workers die over the shard: it goes out again, unless that has long been in vain."""
        folder, stands = self._folder_of(shard), 0
        try:
            # Only while nobody works there: one that is merely out of sight may have the ledger open on its machine.
            with locked(folder, folder / LEDGER), Ledger.open(folder / LEDGER) as ledger:
                stands = reads.newest_event(ledger)
        except TryAgain:
            self._busy.setdefault(shard, time.monotonic())
            return
        except MachineError:
            pass  # it has none yet
        last, since = self._deaths.get(shard, (-1, 0.0))
        if last != stands:
            self._deaths[shard] = (stands, time.monotonic())
        elif time.monotonic() - since > self._job.limits.max_outage_s:
            words = f"the workers of shard {shard} die, one after another, without getting any further"
            self._outcomes[shard] = Outcome(shard, TryAgain.exit_code, reasons=(words,))
            return
        self._send_again(shard, self._grants.get(shard))

    # -- money --------------------------------------------------------------------------------------------------------

    def _give_back(self, shard: Shard, *, starved: bool) -> None:
        """The shard's lease holds no more money than it has committed; it is hungry where it could use more."""
        folder = self._folder_of(shard)
        if not (folder / LEDGER).is_file():
            return  # it could not begin, and neither can the others
        # While somebody works there all the same, dask's second start of it for instance, its money is not free.
        with contextlib.suppress(TryAgain), locked(folder, folder / LEDGER), Ledger.open(folder / LEDGER) as ledger:
            committed, cheapest = reads.committed_nanos(ledger), reads.cheapest_due(ledger)
            self._lease(shard, committed)
            if starved and cheapest is not None:
                self._hungry[shard] = purse.Hungry(shard, committed, cheapest)

    def _feed(self) -> None:
        """Shards that stopped for want of money go on with what others have left over."""
        if self._max_cost is None:
            return
        for shard, grant in purse.more(self._max_cost, sum(self._grants.values()), list(self._hungry.values())).items():
            del self._hungry[shard], self._outcomes[shard]
            self._grants[shard] = grant
            self._send_again(shard, grant)

    # -- words and signals --------------------------------------------------------------------------------------------

    def _told(self, event: tuple[float, dict[str, Any]]) -> None:
        """A worker says how far its shard is. In dask's own thread."""
        self._counts[int(event[1]["shard"])] = dict(event[1]["counts"])

    def _tell(self) -> None:
        counts = list(self._counts.values())
        done, wanted = sum(one.get("downloaded", 0) for one in counts), sum(sum(one.values()) for one in counts)
        self._say(f"{done} of {wanted} files; {len(self._out)} of {len(self._shards)} shards are under way")

    def _is_time(self, what: str, every_s: float) -> bool:
        now = time.monotonic()
        if now - self._asked.setdefault(what, now) < every_s:
            return False
        self._asked[what] = now
        return True

    def _leave_if_late(self) -> None:
        """`TryAgain` where nobody works any more, and nobody comes."""
        now, patience = time.monotonic(), self._job.limits.max_outage_s
        if self._is_time("workers", 5.0):
            if self._client.nthreads():
                self._asked["alone"] = now
            elif now - self._asked.setdefault("alone", now) > patience:
                raise TryAgain(f"the dask scheduler has had no worker for {patience:.0f} s: start some, and run again")
        if self._busy and not self._out and now - min(self._busy.values()) > patience:
            shard = min(self._busy, key=self._busy.__getitem__)
            raise TryAgain(f"somebody else has worked on shard {shard} for {patience:.0f} s; run again later")

    def _called_back(self) -> bool:
        """Whether all workers have come back, or have had the time to."""
        if "stop" not in self._asked:
            self._asked["stop"] = time.monotonic()
            self._say("interrupted: the workers finish what is open, and leave; the next run goes on from there")
            self._stop_file.touch()
        late = time.monotonic() - self._asked["stop"] > BACK_S
        if late:
            self._client.cancel(list(self._out))
        return late or not self._out

    @contextlib.contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM call the workers back, and end this run when they have come."""

        def hear(number: int, _: object) -> None:
            self.stopped = self.stopped or number

        before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def _stop_file(self) -> Path:
        return self._folder / FOLDER / STOP

    def _folder_of(self, shard: Shard) -> Path:
        return self._folder / FOLDER / shard.folder
