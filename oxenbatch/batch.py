"""A manifest, its output folder and a run, brought together: all of `oxenbatch run` between its words in and out."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import signal
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from filelock import FileLock, Timeout

from oxenbatch import __version__
from oxenbatch.account import Account, AccountLimits, read_limits
from oxenbatch.addresses import is_loopback
from oxenbatch.clock import SystemClock
from oxenbatch.dataset.metadata import NAME as METADATA
from oxenbatch.dataset.metadata import write_metadata
from oxenbatch.download import hash_of
from oxenbatch.errors import ConfigProblem, MachineError, ManifestError, OxenbatchError, TryAgain, printable
from oxenbatch.hub import Hub
from oxenbatch.jobs import JobState
from oxenbatch.ledger import decisions, news, reads, runs, sends, staging
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.clerk import ThreadClerk
from oxenbatch.names import inside
from oxenbatch.plan import Limits, Stop
from oxenbatch.reserve import Reserve
from oxenbatch.runner import ModelFacts, Runner, Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from decimal import Decimal

    from oxenbatch.catalog import Catalog
    from oxenbatch.clock import Clock
    from oxenbatch.ledger.decisions import Aside
    from oxenbatch.manifest import Manifest

LEDGER: Final = "ledger.db"
LOCK: Final = "run.lock"
MEDIA: Final = frozenset({".png", ".jpg", ".gif", ".webp", ".mp4", ".webm", ".mov"})

Watcher = Callable[[Runner, "Plan"], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Access:
    """Which hub, with which key."""

    url: str
    key: str | None

    @property
    def name(self) -> str:
        """The hub as a ledger remembers it: a stand-in on this machine is one hub, whatever port it got this time."""
        return "stand-in on this machine" if is_loopback(self.url) else self.url


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run over one folder is about to do."""

    folder: Path
    ledger: Path
    staged: staging.Staged | None
    """None where the manifest was known already, and was not read again."""
    counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a run would send."""

    samples: int
    cost: Decimal
    """Dollars, as far as prices are known."""
    unpriced: int
    """Samples whose model has no known price."""


async def fetch_catalog(access: Access) -> object:
    """The hub's catalogue, as it says it; `HubTrouble` where it does not answer."""
    async with Hub(access.url, access.key) as hub:
        return await hub.models()


class Batch:
    """One output folder, locked, its ledger in step with the manifest. A context manager."""

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        date: dt.date,
        *,
        access: Access,
        catalog: Catalog | None,
        limits: Limits,
        changed: staging.Changed = "stop",
        retry_failed: bool = False,
        account_limits: AccountLimits | None = None,
        ledger: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.manifest = manifest
        self.folder = folder
        self.date = date
        self.access = access
        self.catalog = catalog
        self.limits = limits
        self.changed = changed
        self.retry_failed = retry_failed
        self.account_limits = account_limits or read_limits()
        self.ledger_path = ledger or folder / LEDGER
        self.clock = clock or SystemClock()
        self._stack = ExitStack()
        self._made: list[Path] = []

    def __enter__(self) -> Plan:
        try:
            return self._open()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> Plan:
        fresh = not self.ledger_path.exists()
        if fresh:
            refuse_lost_ledger(self.folder)
        self._make_folder()
        self._stack.enter_context(locked(self.folder, self.ledger_path))
        fresh = not self.ledger_path.exists()
        try:
            return self._stage()
        except ManifestError:
            if fresh:
                self._unmake()
            raise

    def _make_folder(self) -> None:
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".oxenbatch-probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise MachineError(f"cannot write into {printable(self.folder)}: {error.strerror or error}") from error
        self._made = missing

    def _stage(self) -> Plan:
        with Ledger.open(self.ledger_path, create=True) as ledger:
            now = self.clock.wall()
            known = reads.batch(ledger)
            if known and known.hub != self.access.name:
                raise ConfigProblem(
                    f"{printable(self.folder)} was made on {printable(known.hub)}, and this run is for"
                    f" {printable(self.access.name)}: choose another folder with -o, or delete this one"
                )
            runs.begin_batch(ledger, name=self.manifest.name, hub=self.access.name, at=now, on=self.date.isoformat())
            staged = None
            fingerprint = self.manifest.fingerprint(self.date, self.catalog)
            if not known or known.fingerprint != fingerprint:
                staged = staging.stage(
                    ledger, self.manifest.rows(self.date, self.catalog), fingerprint, self._terms(now)
                )
                move_aside(self.folder, staged.set_aside)
            with ledger.immediate():
                for sample_id in (*news.unfetchable(ledger), *lost_files(ledger, self.folder)):
                    news.fetch_again(ledger, sample_id, at=now, note="a new run tries again")
                sends.allow_attempts(ledger, self.limits.attempts)
                if self.retry_failed:
                    failed = decisions.choose(ledger, [JobState.FAILED])
                    decisions.retry(ledger, failed, attempts=self.limits.attempts, at=now)
            counts = {str(state): count for state, count in reads.counts(ledger).items()}
        return Plan(self.folder, self.ledger_path, staged, counts)

    def _terms(self, now: float) -> staging.Terms:
        return staging.Terms(
            at=now,
            attempts=self.limits.attempts,
            price=lambda row: model.price(row.parameters) if (model := self._model(row.model)) else None,
            takes_seed=lambda name: not (model := self._model(name)) or model.takes("seed") is not False,
            changed=self.changed,
        )

    def _model(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - the catalogue's Model or None
        return self.catalog.get(name) if self.catalog else None

    def _unmake(self) -> None:
        """A manifest that cannot be used leaves nothing behind."""
        self._stack.close()
        for name in (self.ledger_path.name, f"{self.ledger_path.name}-wal", f"{self.ledger_path.name}-shm"):
            self.ledger_path.with_name(name).unlink(missing_ok=True)
        (self.folder / LOCK).unlink(missing_ok=True)
        for path in self._made:
            with suppress(OSError):
                path.rmdir()

    def rehearse(self) -> Rehearsal:
        """What a run would send and cost, reckoned beside the batch, in a ledger that is thrown away."""
        with tempfile.TemporaryDirectory(prefix="oxenbatch-") as scratch:
            copy = Path(scratch) / LEDGER
            if self.ledger_path.exists():
                with Ledger.open(self.ledger_path) as ledger:
                    ledger.copy_to(copy)
            with Ledger.open(copy, create=True) as ledger:
                now = self.clock.wall()
                runs.begin_batch(ledger, name=self.manifest.name, hub=self.access.name, at=now, on=str(self.date))
                staging.stage(ledger, self.manifest.rows(self.date, self.catalog), "", self._terms(now))
                return Rehearsal(*reads.due_totals(ledger))

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, watcher: Watcher | None = None) -> Summary:
        """Everything that can be done now is done, and `metadata.jsonl` shows it."""
        with Ledger.open(self.ledger_path) as ledger:
            run_id = runs.begin_run(ledger, version=__version__, at=self.clock.wall())
        try:
            with ExitStack() as held:
                reserve = held.enter_context(Reserve(self.folder))
                account = held.enter_context(
                    Account(self.access.name, self.ledger_path, at=self.clock.wall(), limits=self.account_limits)
                )
                clerk = held.enter_context(ThreadClerk(self.ledger_path, reserve))
                summary = asyncio.run(self._run(clerk, account, reserve, run_id, plan, watcher))
        except BaseException as error:
            code = error.exit_code if isinstance(error, OxenbatchError) else 1
            with suppress(Exception), Ledger.open(self.ledger_path) as ledger:
                runs.end_run(ledger, run_id, exit_code=code, at=self.clock.wall())
            raise
        with Ledger.open(self.ledger_path) as ledger:
            runs.end_run(ledger, run_id, exit_code=summary.exit_code, at=self.clock.wall())
            newest = reads.newest_event(ledger)
            if newest != runs.viewed(ledger) or plan.staged or not (self.folder / METADATA).exists():
                write_metadata(ledger, self.folder)
                runs.mark_viewed(ledger, newest)
        return summary

    async def _run(
        self,
        clerk: ThreadClerk,
        account: Account,
        reserve: Reserve,
        run_id: int,
        plan: Plan,
        watcher: Watcher | None,
    ) -> Summary:
        async with Hub(
            self.access.url,
            self.access.key,
            clock=self.clock,
            target=self.manifest.target,
            post_timeout_s=self.limits.post_timeout_s,
        ) as hub:
            runner = Runner(
                clerk=clerk,
                hub=hub,
                folder=self.folder,
                limits=self.limits,
                run_id=run_id,
                models=self._model_facts(),
                clock=self.clock,
                account=account,
                reserve=reserve,
            )
            loop = asyncio.get_running_loop()
            for number, stop in ((signal.SIGINT, Stop.SIGINT), (signal.SIGTERM, Stop.SIGTERM)):
                loop.add_signal_handler(number, runner.interrupt, stop)
            watching = asyncio.create_task(watcher(runner, plan), name="progress") if watcher else None
            try:
                return await runner.run()
            finally:
                if watching:
                    watching.cancel()
                    with suppress(asyncio.CancelledError):
                        await watching
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)

    def _model_facts(self) -> dict[str, ModelFacts]:
        if not self.catalog:
            return {}
        return {
            model.id: ModelFacts(model.media_type == "video", model.max_generations, model.schema is not None)
            for model in self.catalog.models
        }


@contextmanager
def locked(folder: Path, ledger_path: Path) -> Iterator[None]:
    """Nobody else works on this folder meanwhile; `TryAgain` at once, and who it is, where somebody does."""
    # The kernel's own lock: it goes with the process, however that ends, and no child inherits it.
    lock = FileLock(folder / LOCK, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        who = _who_works(ledger_path)
        raise TryAgain(f"another run works on {printable(folder)}{who}; this one leaves it alone") from None
    except OSError as error:
        raise MachineError(f"cannot lock {printable(folder)}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def _who_works(ledger_path: Path) -> str:
    with suppress(OxenbatchError), Ledger.open(ledger_path) as ledger:
        run = reads.last_run(ledger)
        if run and run["ended_at"] is None:
            since = dt.datetime.fromtimestamp(run["started_at"]).astimezone().isoformat(" ", "seconds")
            return f" (process {run['pid']} on {printable(run['host'])}, since {since})"
    return ""


# -- files --------------------------------------------------------------------------------------------------------


def move_aside(folder: Path, moves: Iterable[Aside]) -> None:
    """Results that were put aside lie where the ledger says."""
    for move in moves:
        with suppress(FileNotFoundError):
            inside(folder, move.becomes).parent.mkdir(exist_ok=True)
            inside(folder, move.was).rename(inside(folder, move.becomes))


def lost_files(ledger: Ledger, folder: Path) -> list[int]:
    """Samples whose file is gone, or has another size, than when it was put there."""
    sizes: dict[str, dict[str, int]] = {}
    lost: list[int] = []
    for sample_id, file, size in reads.files(ledger):
        parent, _, name = file.rpartition("/")
        if parent not in sizes:
            sizes.clear()  # files of a folder come together: one folder's sizes at a time is enough
            sizes[parent] = sizes_in(folder / parent)
        if sizes[parent].get(name) != size:
            lost.append(sample_id)
    return lost


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not as it was."""

    sample_id: int
    file: str
    what: Literal["missing", "damaged"]


def check_files(ledger: Ledger, folder: Path) -> list[Damage]:
    """Every file of the batch that is gone, or whose bytes are not those that were put there."""
    damage: list[Damage] = []
    for sample_id, file, sha256 in reads.hashes(ledger):
        try:
            path = inside(folder, file)
            if path.is_symlink() or hash_of(path) != sha256:
                damage.append(Damage(sample_id, file, "damaged"))
        except FileNotFoundError:
            damage.append(Damage(sample_id, file, "missing"))
        except (OSError, ValueError):
            damage.append(Damage(sample_id, file, "damaged"))
    return damage


def fetch_lost(ledger_path: Path, damage: Iterable[Damage], access: Access) -> Summary:
    """The paid files are fetched again, and nothing is sent."""
    folder = ledger_path.parent
    clock = SystemClock()
    with locked(folder, ledger_path):
        with Ledger.open(ledger_path) as ledger, ledger.immediate():
            for one in damage:
                with suppress(OSError, ValueError):
                    inside(folder, one.file).unlink()
                news.fetch_again(ledger, one.sample_id, at=clock.wall(), note=f"its file is {one.what}")
            run_id = runs.begin_run(ledger, version=__version__, at=clock.wall())

        async def fetch() -> Summary:
            async with Hub(access.url, access.key, clock=clock) as hub:
                runner = Runner(clerk=clerk, hub=hub, folder=folder, limits=Limits(), run_id=run_id, models={},
                                clock=clock, sending=False)  # fmt: skip
                return await runner.run()

        with ThreadClerk(ledger_path) as clerk:
            summary = asyncio.run(fetch())
        with Ledger.open(ledger_path) as ledger:
            runs.end_run(ledger, run_id, exit_code=summary.exit_code, at=clock.wall())
            write_metadata(ledger, folder)
        return summary


def sizes_in(folder: Path) -> dict[str, int]:
    """The size in bytes of each file in the folder; nothing where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {e.name: e.stat(follow_symlinks=False).st_size for e in entries if e.is_file(follow_symlinks=False)}
    except OSError:
        return {}


def refuse_lost_ledger(folder: Path) -> None:
    """`MachineError` where the folder holds results and no ledger: going on would buy them again."""
    if not folder.is_dir():
        return
    names = [path.name for path in folder.iterdir()]
    strays = [name for name in names if name == METADATA or Path(name).suffix.lower() in MEDIA]
    if strays:
        raise MachineError(
            f"{printable(folder)} holds results ({printable(strays[0])}) and no ledger: going on would pay for them"
            f" again. Put {LEDGER} back from a backup, or choose another folder with -o"
        )


# -- dates --------------------------------------------------------------------------------------------------------


def unfinished_dated(manifest: Manifest, today: dt.date) -> tuple[Path, dt.date] | None:
    """The newest dated batch of this manifest, before today's, that has work left; None where there is none."""
    todays = manifest.output_folder(today)
    found: list[tuple[dt.date, Path]] = []
    for folder in manifest.folders():
        ledger_path = folder / LEDGER
        with suppress(OxenbatchError, ValueError), Ledger.open(ledger_path) as ledger:
            known = reads.batch(ledger)
            if known is None or known.name != manifest.name:
                continue
            date = dt.date.fromisoformat(known.created_on)
            if folder.resolve() != todays.resolve() and date < today and is_unfinished(ledger):
                found.append((date, folder))
    return (max(found)[1], max(found)[0]) if found else None


def is_unfinished(ledger: Ledger) -> bool:
    """Whether a run would have something to do, without a person."""
    facts = reads.facts(ledger)
    return facts.pending or bool(facts.submitting + facts.uncertain + facts.at_the_hub + facts.succeeded)


def with_manifest(limits: Limits, manifest: Manifest, concurrency: int | None) -> Limits:
    """The limits with what the manifest says; a flag (`concurrency`) wins over it."""
    return replace(
        limits,
        concurrency=concurrency or manifest.concurrency or limits.concurrency,
        models=manifest.model_concurrency,
        max_cost=limits.max_cost if limits.max_cost is not None else manifest.max_cost,
    )
