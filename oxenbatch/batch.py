"""A manifest, its output folder and a run, brought together: all of `oxenbatch run` between its words in and out."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import signal
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from oxenbatch import __version__
from oxenbatch import reuse as reusing
from oxenbatch.access import Access, learn_missing, read_catalog
from oxenbatch.account import LOCK, Account, AccountLimits, folder_of, ledger_of, read_limits, remember_folder
from oxenbatch.addresses import origin_of
from oxenbatch.clock import SystemClock
from oxenbatch.dataset.metadata import NAME as METADATA
from oxenbatch.dataset.metadata import write_metadata
from oxenbatch.errors import ConfigProblem, MachineError, ManifestError, OxenbatchError, printable
from oxenbatch.folder import (
    LEDGER,
    locked,
    make_folder,
    move_aside,
    refuse_lost_ledger,
    want_lost_again,
    warn_of_network,
)
from oxenbatch.handover import refuse_mixture, take_over
from oxenbatch.hub import DEFAULT_HUB, Hub
from oxenbatch.jobs import JobState, Row
from oxenbatch.ledger import decisions, inputs, news, parts, reads, runs, sends, staging
from oxenbatch.ledger import rebuild as rebuilding
from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.clerk import ThreadClerk
from oxenbatch.manifest import load_manifest
from oxenbatch.manifest.inputs import is_changed
from oxenbatch.names import inside
from oxenbatch.place import Place
from oxenbatch.plan import Limits, Stop
from oxenbatch.reserve import Reserve
from oxenbatch.runner import ModelFacts, Runner, Summary, standing
from oxenbatch.runner.signs import accompanied, give_signs
from oxenbatch.settings import find_key
from oxenbatch.shards import FOLDER as SHARDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from oxenbatch.catalog import Catalog
    from oxenbatch.clock import Clock
    from oxenbatch.errors import Problem
    from oxenbatch.folder import Damage
    from oxenbatch.manifest import Manifest
    from oxenbatch.shards import Shard
    from oxenbatch.wire import Generation

log = logging.getLogger(__name__)

Watcher = Callable[[Runner, "Plan"], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run over one folder is about to do."""

    folder: Path
    ledger: Path
    staged: staging.Staged | None
    """None where the manifest was known already, and was not read again."""
    counts: dict[str, int]


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
        rebuild: bool = False,
        account_limits: AccountLimits | None = None,
        ledger: Path | None = None,
        reuse: Sequence[Path] = (),
        clock: Clock | None = None,
        command: str | None = None,
        shard: Shard | None = None,
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        """`shard`: only its rows are this batch's, in a folder of its own in `folder`; `limits` are the whole's, and
        divided. `admit` is called once the folder is this run's alone, and raises where it has no business there.
        """
        self.manifest = manifest
        self.whole = folder
        self.folder = folder / SHARDS / shard.folder if shard else folder
        self.shard = shard
        self.date = date
        self.access = access
        self.catalog = catalog
        self.limits = shard.limits(limits) if shard else limits
        self.changed = changed
        self.retry_failed = retry_failed
        self.rebuild = rebuild
        self.account_limits = account_limits or read_limits()
        self.ledger_path = ledger or self.folder / LEDGER
        self.reuse = reuse
        """Ledgers of older batches, whose files are taken where they answer the same request."""
        self.clock = clock or SystemClock()
        self.command = command  # what a person types to go on with it
        self._admit = admit
        self._stack = ExitStack()
        self._made: list[Path] = []
        self._fresh = False

    def __enter__(self) -> Plan:
        try:
            return self._open()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> Plan:
        refuse_mixture(self.whole, self.shard)
        if not self._has_ledger() and not self.rebuild:
            if other := ledger_of(self.folder):
                raise MachineError(
                    f"the ledger of {printable(self.folder)} is {printable(other)}: add --ledger {printable(other)}, or"
                    " choose another folder with -o; a second ledger would pay for everything again"
                )
            refuse_lost_ledger(self.folder)
        self._made = make_folder(self.folder)
        self._place = Place.of(self.folder)
        warn_of_network(self.ledger_path)
        self._stack.enter_context(locked(self.folder, self.ledger_path))
        if self.ledger_path.parent.resolve() != self.folder.resolve():
            remember_folder(self.ledger_path, self.folder)
        self._admit()
        self._fresh = not self._has_ledger()
        try:
            try:
                return self._stage()
            except ManifestError:
                if not self.catalog or not learn_missing(self.catalog, self.access):
                    raise
                return self._stage()  # the hub knows a model that it does not list
        except ManifestError:
            if self._fresh:
                self._unmake()
            raise

    def _has_ledger(self) -> bool:
        """Whether there is one; an empty file is what is left of one."""
        return self.ledger_path.exists() and self.ledger_path.stat().st_size > 0

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
            parts.begin(ledger, self.shard)
            staged = None
            fingerprint = self.manifest.fingerprint(self.date, self.catalog)
            same = known and known.fingerprint == fingerprint and self.changed != "rerun"
            if not same or self._inputs_changed(ledger):
                staged = staging.stage(ledger, self._rows(ledger), fingerprint, self._terms(now))
            with ledger.immediate():
                want_lost_again(ledger, self.folder, at=now)
                sends.allow_attempts(ledger, self.limits.attempts)
                if self.retry_failed:
                    failed = decisions.choose(ledger, [JobState.FAILED])
                    decisions.retry(ledger, failed, attempts=self.limits.attempts, at=now)
            if parts.is_merged(ledger) and reads.is_unfinished(ledger):
                take_over(ledger, at=now)
            counts = {str(state): count for state, count in reads.counts(ledger).items()}
        return Plan(self.folder, self.ledger_path, staged, counts)

    def _rows(self, ledger: Ledger) -> Iterator[Row | Problem]:
        """The manifest's rows; input files that are as they were are not read again."""
        return self.manifest.rows(self.date, self.catalog, lambda path: inputs.known_file(ledger, path))

    def _inputs_changed(self, ledger: Ledger) -> bool:
        """Whether a file that rows send along is not what it was when the manifest was read."""
        return any(is_changed(self.manifest.inputs_root, path, mark) for path, mark in inputs.files(ledger))

    def _terms(self, now: float) -> staging.Terms:
        return staging.Terms(
            at=now,
            attempts=self.limits.attempts,
            price=lambda row: model.price(row.parameters) if (model := self._model(row.model)) else None,
            takes_seed=lambda name: not (model := self._model(name)) or model.takes("seed") is not False,
            changed=self.changed,
            shard=self.shard,
            move_aside=lambda moves: move_aside(self.folder, moves),
        )

    def _model(self, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 - the catalogue's Model or None
        return self.catalog.get(name) if self.catalog else None

    def abandon(self) -> None:
        """It is closed without having been run; where it had no ledger before, nothing of it is left."""
        if self._fresh:
            self._unmake()
        self._stack.close()

    def _unmake(self) -> None:
        """A manifest that cannot be used leaves nothing behind."""
        self._stack.close()
        for name in (self.ledger_path.name, f"{self.ledger_path.name}-wal", f"{self.ledger_path.name}-shm"):
            self.ledger_path.with_name(name).unlink(missing_ok=True)
        (self.folder / LOCK).unlink(missing_ok=True)
        for path in self._made:
            with suppress(OSError):
                path.rmdir()

    def rehearse(self) -> reusing.Rehearsal:
        """What a run would send and cost, reckoned beside the batch, in a ledger that is thrown away."""
        with tempfile.TemporaryDirectory(prefix="oxenbatch-") as scratch:
            copy = Path(scratch) / LEDGER
            if self.ledger_path.exists():
                with Ledger.open(self.ledger_path) as ledger:
                    ledger.copy_to(copy)
            with Ledger.open(copy, create=True) as ledger:
                now = self.clock.wall()
                runs.begin_batch(ledger, name=self.manifest.name, hub=self.access.name, at=now, on=str(self.date))
                staging.stage(ledger, self._rows(ledger), "", self._terms(now))
                return reusing.due(ledger, self.reuse, self.access.name)

    def due(self) -> reusing.Rehearsal:
        """What a run would send now; call while it is open."""
        with Ledger.open(self.ledger_path) as ledger:
            return reusing.due(ledger, self.reuse, self.access.name)

    def leave(self, code: int, reason: str) -> Summary:
        """How the batch stands, with nothing tried; `code` and `reason` say why, where anything is left to do."""
        with Ledger.open(self.ledger_path) as ledger:
            summary = standing(ledger, code, reason)
            at = self.clock.wall()
            run_id = runs.begin_run(ledger, version=__version__, at=at, command=self.command)
            runs.end_run(ledger, run_id, exit_code=summary.exit_code, at=at)
            return summary

    # -- the run --------------------------------------------------------------------------------------------------

    def run(self, plan: Plan, watcher: Watcher | None = None) -> Summary:
        """Everything that can be done now is done, and `metadata.jsonl` shows it."""
        with Ledger.open(self.ledger_path) as ledger:
            run_id = runs.begin_run(ledger, version=__version__, at=self.clock.wall(), command=self.command)
        if self.rebuild:
            self._rebuild(run_id)
        if self.reuse:
            self._take_older(run_id)
        try:
            with ExitStack() as held:
                reserve = held.enter_context(Reserve(self.folder))
                account = self._account(held)
                clerk = held.enter_context(ThreadClerk(self.ledger_path, reserve))
                summary = asyncio.run(self._run(clerk, account, reserve, run_id, plan, watcher))
        except BaseException as error:
            code = error.exit_code if isinstance(error, OxenbatchError) else 1
            with suppress(Exception), Ledger.open(self.ledger_path) as ledger:
                runs.end_run(ledger, run_id, exit_code=code, at=self.clock.wall())
            raise
        self._place.check()
        with Ledger.open(self.ledger_path) as ledger:
            runs.end_run(ledger, run_id, exit_code=summary.exit_code, at=self.clock.wall())
            newest = reads.newest_event(ledger)
            if newest != runs.viewed(ledger) or plan.staged or not (self.folder / METADATA).exists():
                write_metadata(ledger, self.folder)
                runs.mark_viewed(ledger, newest)
        return summary

    def _account(self, held: ExitStack) -> Account | None:
        """The register of this user's batches; where it cannot be kept, only configured limits stand in the way."""
        try:
            at = self.clock.wall()
            return held.enter_context(Account(self.access.name, self.ledger_path, at=at, limits=self.account_limits))
        except ConfigProblem as problem:
            if self.account_limits != AccountLimits():
                raise
            log.warning("%s; other batches that run at once are not known", problem)
            return None

    def _rebuild(self, run_id: int) -> None:
        """What the hub has made of this manifest's rows, and no ledger of this user's has, is this batch's."""

        async def history() -> list[Generation]:
            async with Hub(self.access.url, self.access.key, target=self.manifest.target) as hub:
                return await hub.history_since(0.0)

        rows = asyncio.run(history())
        at = self.clock.wall()
        with ExitStack() as held:
            account = self._account(held)
            siblings = account.siblings() if account else []
            with Ledger.open(self.ledger_path) as ledger:
                parts.refuse_rebuild(ledger, siblings)
            elsewhere = sends.elsewhere(siblings, [row.generation_id for row in rows], ())
        with Ledger.open(self.ledger_path) as ledger:
            ours = (row for row in rows if row.generation_id not in elsewhere.owned)
            found = rebuilding.rebuild(ledger, ours, at=at, run_id=run_id)
        log.warning("rebuilt from the hub's history: %d generations are fetched, not bought", found)

    def _take_older(self, run_id: int) -> None:
        with Ledger.open(self.ledger_path) as ledger:
            at = self.clock.wall()
            taken = reusing.take(ledger, self.folder, self.reuse, self.access.name, at=at, run_id=run_id)
        log.warning("%d files are taken from older batches: nothing is paid for them", taken)

    async def _run(
        self,
        clerk: ThreadClerk,
        account: Account | None,
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
            inputs=self.manifest.inputs,
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
                inputs_root=self.manifest.inputs_root,
            )
            loop = asyncio.get_running_loop()
            with suppress(ValueError, RuntimeError):  # not in the main thread: whoever is there has the signals
                for number, stop in ((signal.SIGINT, Stop.SIGINT), (signal.SIGTERM, Stop.SIGTERM)):
                    loop.add_signal_handler(number, runner.interrupt, stop)
            try:
                async with accompanied(give_signs(runner.desk), *([watcher(runner, plan)] if watcher else [])):
                    return await runner.run()
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    loop.remove_signal_handler(number)

    def _model_facts(self) -> dict[str, ModelFacts]:
        if not self.catalog:
            return {}
        return {
            model.id: ModelFacts(model.media_type == "video", model.max_generations, model.schema is not None)
            for model in self.catalog.models
        }


def fetch_lost(ledger_path: Path, damage: Iterable[Damage], access: Access) -> Summary:
    """The paid files are fetched again, and nothing is sent."""
    folder = folder_of(ledger_path)
    clock = SystemClock()
    with locked(folder, ledger_path):
        with Ledger.open(ledger_path) as ledger, ledger.immediate():
            for one in damage:
                state = ledger.state_of(one.sample_id)
                if state is JobState.DOWNLOADED:
                    with suppress(OSError, ValueError):
                        inside(folder, one.file).unlink()
                if state is JobState.SUCCEEDED:
                    continue  # it is to be fetched as it stands
                news.fetch_again(ledger, one.sample_id, at=clock.wall(), note=f"its file is {one.what}")
            run_id = runs.begin_run(ledger, version=__version__, at=clock.wall())

        async def fetch(clerk: ThreadClerk) -> Summary:
            async with Hub(access.url, access.key, clock=clock) as hub:
                runner = Runner(clerk=clerk, hub=hub, folder=folder, limits=Limits(), run_id=run_id, models={},
                                clock=clock, sending=False)  # fmt: skip
                return await runner.run()

        with ThreadClerk(ledger_path) as clerk:
            summary = asyncio.run(fetch(clerk))
        with Ledger.open(ledger_path) as ledger:
            runs.end_run(ledger, run_id, exit_code=summary.exit_code, at=clock.wall())
            write_metadata(ledger, folder)
        return summary


def run(
    manifest: str | Path,
    *,
    output: str | Path | None = None,
    hub: str = DEFAULT_HUB,
    key: str | None = None,
    limits: Limits | None = None,
    date: dt.date | None = None,
) -> Summary:
    """Make every file that the manifest asks for, as `oxenbatch run` does; how it ended.

    `key`: else the environment's, or that of `auth_config.toml`. Raises `OxenbatchError` in its kinds where nothing
    could be begun; what happens after that is in the summary and its exit code.
    """
    loaded = load_manifest(manifest)
    access = Access(origin_of(hub), key or find_key(hub))
    date = date or dt.datetime.now().astimezone().date()
    folder = Path(output) if output else loaded.output_folder(date)
    batch = Batch(loaded, folder, date, access=access, catalog=read_catalog(access),
                  limits=with_manifest(limits or Limits(), loaded, None))  # fmt: skip
    with batch as plan:
        return batch.run(plan)


def with_manifest(limits: Limits, manifest: Manifest, concurrency: int | None) -> Limits:
    """The limits with what the manifest says; a flag (`concurrency`) wins over it."""
    return replace(
        limits,
        concurrency=concurrency or manifest.concurrency or limits.concurrency,
        models=manifest.model_concurrency,
        max_cost=limits.max_cost if limits.max_cost is not None else manifest.max_cost,
    )
