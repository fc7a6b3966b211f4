"""`oxenbatch run`: the main job."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from oxenbatch.cli import endings, several
from oxenbatch.cli.access import ledgers_of, origin_named
from oxenbatch.cli.completion import complete_manifest
from oxenbatch.cli.limits import limits_of
from oxenbatch.cli.logs import set_up
from oxenbatch.cli.nightly import Night
from oxenbatch.cli.options import (
    Dollars,
    Duration,
    date_of,
    dollars,
    json_line,
    manifest_options,
    option,
    overrides_of,
)
from oxenbatch.cli.progress import Progress
from oxenbatch.cli.recall import command_of
from oxenbatch.cli.talk import talk
from oxenbatch.errors import ManifestError, OxenbatchError, Problem, gravest, printable
from oxenbatch.shards import FOLDER as SHARDS
from oxenbatch.shards import Shard

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxenbatch.access import Access
    from oxenbatch.batch import Batch, Plan
    from oxenbatch.catalog import Catalog
    from oxenbatch.manifest import Manifest
    from oxenbatch.reuse import Rehearsal
    from oxenbatch.runner import Summary

log = logging.getLogger(__name__)

GOES_ON: Final = frozenset({0, 3, 4, 5, 75})
"""Exit codes of one batch that say nothing against running the next: its own limit, and what is paid is collected."""


@click.command(short_help="Make every file that a manifest asks for; starting is resuming.")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...", shell_complete=complete_manifest)
@option("-o", "--output", type=click.Path(path_type=Path), help="The output folder, in place of the manifest's own.")
@option("-c", "--concurrency", type=click.IntRange(1, 1000), help="Generations active at the hub, at most. [8]")
@manifest_options
@option("--max-cost", type=Dollars(), help="Dollars that this batch may cost, at most.")
@option("--allow-unpriced", is_flag=True, help="Send models without a known price although there is a --max-cost.")
@option("--attempts", type=click.IntRange(1, 100), default=3, show_default=True, help="Tries for each sample.")
@option("--retry-failed", is_flag=True, help="Put failed samples back first.")
@option(
    "--rebuild",
    is_flag=True,
    help="The ledger is lost: take over from the hub's history what it made for this manifest.",
)
@option("--canary/--no-canary", default=None,
        help="Make each model's first row before the rest. [only models without a known schema]")  # fmt: skip
@option("--limit-sends", type=click.IntRange(0), help="POSTs in this run, at most.")
@option("--timeout", type=Duration(), help="For one generation. [15m an image, 60m a video]")
@option("--deadline", type=Duration(), help="Stop sending after this, collect, and leave the rest for the next run.")
@option("--max-outage", type=Duration(), default="30m", show_default=True, help="Wait so long for a hub that is gone.")
@option("--settle", type=Duration(), default="120s", show_default=True,
        help="How long a send may surface late at the hub before it counts as never landed.")  # fmt: skip
@option("--no-wait", is_flag=True, help="Enqueue what fits, then leave; the next run collects.")
@option("--fail-fast", is_flag=True, help="Send nothing more after the first failure.")
@option("--on-unknown", type=click.Choice(["hold", "resubmit"]), default="hold", show_default=True,
        help="A send that nobody can decide about.")  # fmt: skip
@option("--reuse", multiple=True, metavar="BATCH", help="Take files that an older batch has bought; may be repeated.")
@option("--confirm-above", type=Dollars(), help="Ask first where it would cost more than this; on a terminal only.")
@option("--yes", is_flag=True, help="Do not ask.")
@option("--offline", is_flag=True, help="Record and check the rows with what is kept; ask nothing of the hub.")
@option("--locked", is_flag=True, help="Exit with 65 where schemas or prices are not as in MANIFEST.lock.")
@option("--in-order", is_flag=True, help="Send in the manifest's order. [what takes longest first]")
@option("--dry-run", is_flag=True, help="Say what would be sent and what it would cost; send nothing.")
@option("--sandbox", is_flag=True, help="Use a stand-in hub on this machine: no key, no cost, real files.")
@option("--hub", also_envvar=["OXEN_BASE_URL"], default="https://hub.oxen.ai", show_default=True,
        metavar="URL", help="The hub's address.")  # fmt: skip
@option("--shard", metavar="K/N", help="Only part K of N of the rows, with its part of the limits, for a job array.")
@option("--dask", metavar="ADDRESS",
        help="Spread the batch over the workers of this dask scheduler; `local` starts some here.")  # fmt: skip
@option("--shards", type=click.IntRange(1), help="With --dask: cut the batch into so many. [as many as run at once]")
@option("--ledger", type=click.Path(path_type=Path), help="The ledger's file, where it is not in the output folder.")
@option("-q", "--quiet", is_flag=True, help="Say nothing where all is well.")
@option("-v", "--verbose", count=True, help="Say more; twice: everything.")
@option("--progress", type=click.Choice(["auto", "bar", "plain", "none"]), default="auto", show_default=True,
        help="A live picture, or a line at most every 30 s for screen readers and logs.")  # fmt: skip
@option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of log lines.")
@option("--log-file", type=click.Path(dir_okay=False, path_type=Path), help="Write what happens to this file as well.")
@option("--metrics-file", type=click.Path(dir_okay=False, path_type=Path),
        help="Keep this text file up to date for Prometheus.")  # fmt: skip
@option("--notify", multiple=True, metavar="URL", help="Tell this address how it ended (mailto://, slack://, …).")
@option("--heartbeat", metavar="URL", help="Call this address at the start, and at the end as it went.")
@option("--json", "as_json", is_flag=True, help="The run's summary on stdout, as JSON.")
def run(manifests: tuple[str, ...], **options: Any) -> None:
    """Make every file that the manifests ask for.

    Each row becomes a job in the ledger of the output folder; run it again to go on after an interruption: what is
    there is neither made nor paid again. The last line on stderr tells machines how it ended.

    \b
    Examples:
      oxenbatch run prompts.yaml
      oxenbatch run prompts.txt --model nano-banana-2 -c 16 --max-cost 5
      oxenbatch run prompts.yaml --sandbox
      oxenbatch run prompts.yaml --dask tcp://10.0.0.1:8786
    """
    if len(manifests) > 1 and (options["output"] or options["ledger"]):
        raise click.UsageError("each manifest has its own output: with -o or --ledger, give one manifest")
    for flag in ("shard", "ledger", "dry_run"):
        if options["dask"] and options[flag]:
            raise click.UsageError(f"--{flag.replace('_', '-')} does not go with --dask")
    if options["sandbox"] and options["dask"] not in (None, "local"):
        raise click.UsageError("other machines do not see this one's stand-in hub: use --dask local, or --hub")
    command = RunCommand(options)
    with command.night:
        code = command.run_all(manifests)
    sys.exit(code)


class RunCommand:
    """One call of `oxenbatch run`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.quiet: bool = options["quiet"]
        self.shard: Shard | None = None
        self.progress = Progress(options["progress"], quiet=self.quiet)
        set_up(
            self.progress.say,
            verbose=options["verbose"],
            quiet=self.quiet,
            form=options["log_format"],
            file=options["log_file"],
        )
        self.summaries: list[tuple[Plan, Summary]] = []
        self.problems: list[Problem] = []
        self.night = Night()
        self.would: list[dict[str, Any]] = []
        """What a dry run would send, a batch each."""
        self.loaded: list[Manifest] = []
        self.opened: dict[Path, tuple[Batch, Plan]] = {}
        """Batches whose rows are known to be right, by their folders: of several manifests all, before any is run."""

    def run_all(self, manifests: tuple[str, ...]) -> int:
        """Every manifest is run as far as it goes; the gravest exit code."""
        from oxenbatch.access import read_catalog  # noqa: PLC0415 - not for --help
        from oxenbatch.cli import tell  # noqa: PLC0415 - it imports us
        from oxenbatch.manifest import load_manifest  # noqa: PLC0415 - not for --help

        codes = {0}
        try:
            self.night.begin(self.options)
            self.shard = Shard.parse(self.options["shard"]) if self.options["shard"] else None
            overrides = overrides_of(self.options)
            self.loaded = loaded = [
                load_manifest(name, overrides=overrides, stdin=sys.stdin.buffer) for name in manifests
            ]
            today = date_of(self.options)
            several.refuse_shared((manifest, self._folder(manifest, today)) for manifest in loaded)
            with self._access(loaded[0]) as access, contextlib.ExitStack() as held:
                catalog = None if self.options["dask"] else read_catalog(access, self._say)
                catalogs = [self._as_locked(manifest, access, catalog) for manifest in loaded]
                if len(loaded) > 1 and not self.options["dask"] and not self.options["dry_run"]:
                    batches = [
                        self._batch(manifest, self._folder(manifest, today), today, access, its_catalog)
                        for manifest, its_catalog in zip(loaded, catalogs, strict=True)
                    ]
                    self.opened = several.open_all(batches, held, self._refuse_unlocked)
                for manifest, its_catalog in zip(loaded, catalogs, strict=True):
                    codes.add(self._run_manifest(manifest, access, its_catalog))
                    if not codes <= GOES_ON:
                        break
        except OxenbatchError as error:
            tell(error)
            self.night.failed(error)
            codes.add(error.exit_code)
            self.problems = error.problems if isinstance(error, ManifestError) else [Problem(str(error))]
        code = gravest(codes)
        self._tell(code)
        return code

    @contextlib.contextmanager
    def _access(self, manifest: Manifest) -> Iterator[Access]:
        """The hub to use, and the key for it: the stand-in in a process of its own, or the real one."""
        from oxenbatch.access import Access  # noqa: PLC0415 - not for --help

        if not self.options["sandbox"]:
            from oxenbatch.settings import find_key  # noqa: PLC0415

            url = origin_named(self.options["hub"])
            offline = self.options["offline"]
            keyless = offline or self.options["dask"]  # workers have their own
            yield Access(url, None if keyless else find_key(self.options["hub"]), offline=offline)
            return
        from oxenbatch.cli.sandbox import stand_in  # noqa: PLC0415
        from oxenbatch.folder import locked  # noqa: PLC0415

        folder = self._folder(manifest, date_of(self.options))
        if folder.is_dir():
            with locked(folder, self.options["ledger"] or folder / "ledger.db"):
                pass  # another run has this folder's stand-in hub as well: it is told as what it is
        with stand_in(self._journal(manifest, folder)) as hub:
            yield Access(hub.url, hub.key, rehearsal=True)

    def _as_locked(self, manifest: Manifest, access: Access, catalog: Catalog | None) -> Catalog | None:
        """The catalogue, held against the manifest's lock; offline the lock's own, where no other was kept."""
        from oxenbatch import kept  # noqa: PLC0415 - not for --help

        lock = kept.read_lock(manifest.path)
        name = str(manifest.path or "stdin")
        if self.options["locked"]:
            if problems := kept.broken(lock, catalog, access.name, name):
                raise ManifestError(problems)
        elif lock is not None and catalog is not None and lock.hub == access.name:
            for model, words in lock.changes(catalog):
                log.warning("%s: %s since %s: %s", name, model, lock.locked_at, words)
        return lock.catalog() if catalog is None and lock is not None else catalog

    def _journal(self, manifest: Manifest, folder: Path) -> Path:
        """The stand-in hub's memory: one for all the dates of a manifest."""
        if not manifest.dated or self.options["output"]:
            return folder.parent / f".{folder.name}.sandbox.jsonl"
        other_day = manifest.output_folder(dt.date(1, 2, 3))
        shared = Path(os.path.commonpath([folder.absolute(), other_day.absolute()]))
        return shared / f".{manifest.name}.sandbox.jsonl"

    def _run_manifest(self, manifest: Manifest, access: Access, catalog: Catalog | None) -> int:
        """The newest unfinished dated batch first, then today's."""
        from oxenbatch.dated import unfinished_dated  # noqa: PLC0415

        today = date_of(self.options)
        if manifest.dated and not self.options["date"] and not self.options["output"]:
            earlier = unfinished_dated(manifest, today, self._ledgers_in)
            if earlier:
                self._say(f"first, {printable(earlier[0])} is finished")
                code = self._run_batch(manifest, *earlier, access, catalog)
                if code not in GOES_ON - {75}:
                    return code
                return gravest({code, self._run_batch(manifest, self._folder(manifest, today), today, access, catalog)})
        return self._run_batch(manifest, self._folder(manifest, today), today, access, catalog)

    def _run_batch(
        self, manifest: Manifest, folder: Path, date: dt.date, access: Access, catalog: Catalog | None
    ) -> int:
        if self.options["dask"]:
            return self._run_on_cluster(manifest, folder, date, access)
        batch = self._batch(manifest, folder, date, access, catalog)
        if self.options["dry_run"]:
            return self._dry_run(batch)
        with contextlib.ExitStack() as held:
            if folder in self.opened:
                batch, plan = self.opened.pop(folder)
                held.push(batch)
            else:
                plan = held.enter_context(batch)
            self._say(endings.beginning(plan))
            self._refuse_unlocked(batch)
            if access.offline:
                summary = batch.leave(75, "--offline: nothing was asked of the hub")
            elif not self._confirmed(plan, batch):
                summary = batch.leave(5, "it was not confirmed")
            else:
                summary = batch.run(plan, self.progress.watcher(self.night.sinks))
        self.summaries.append((plan, summary))
        self.night.ended(manifest.name, plan, summary)
        self._report(plan, summary)
        return summary.exit_code

    def _batch(self, manifest: Manifest, folder: Path, date: dt.date, access: Access, catalog: Catalog | None) -> Batch:
        from oxenbatch.batch import Batch  # noqa: PLC0415 - not for --help

        return Batch(
            manifest,
            folder,
            date,
            access=access,
            catalog=catalog,
            limits=limits_of(self.options, manifest),
            changed=self.options["changed"],
            retry_failed=self.options["retry_failed"],
            rebuild=self.options["rebuild"],
            ledger=self.options["ledger"],
            command=command_of(
                click.get_current_context(),
                str(manifest.path or "-"),
                date if manifest.dated or manifest.uses_date else None,
            ),
            shard=self.shard,
            reuse=[path for name in self.options["reuse"] for path in ledgers_of(name)],
        )

    def _refuse_unlocked(self, batch: Batch, due: Rehearsal | None = None) -> None:
        from oxenbatch import kept  # noqa: PLC0415 - not for --help

        manifest = batch.manifest
        lock = kept.read_lock(manifest.path) if self.options["locked"] else None
        if lock and (problems := kept.unlocked(lock, (due or batch.due()).models, str(manifest.path))):
            raise ManifestError(problems)

    def _confirmed(self, plan: Plan, batch: Batch) -> bool:
        """Whether it may be sent: asked of a person at a terminal, above the amount that was said; never in cron."""
        above = self.options["confirm_above"]
        if above is None or self.options["yes"] or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        due = batch.due()
        if not due.samples or (due.cost <= above and not due.unpriced):
            return True
        return click.confirm(f"{printable(plan.folder)}: send {endings.in_words(due)}?", err=True)

    def _dry_run(self, batch: Batch) -> int:
        would = batch.rehearse()
        self._refuse_unlocked(batch, would)
        if self.options["as_json"]:
            self.would.append(
                {"folder": str(batch.folder), "generations": would.samples, "cost": dollars(would.cost),
                 "unpriced": would.unpriced, "models": would.models}
            )  # fmt: skip
        else:
            click.echo(f"would send {endings.in_words(would)}")
        return 0

    def _run_on_cluster(self, manifest: Manifest, folder: Path, date: dt.date, access: Access) -> int:
        from oxenbatch import cluster  # noqa: PLC0415 - not for --help

        o = self.options
        if access.key:  # the stand-in's, for workers that are processes of this one
            os.environ["OXEN_API_KEY"] = access.key
        request = cluster.Request(
            manifest,
            overrides_of(o),
            folder,
            date,
            access.url,
            limits_of(self.options, manifest),
            o["changed"],
            o["rebuild"],
            o["retry_failed"],
            o["shards"],
        )
        plan, summary = cluster.run(o["dask"], request, self._say)
        self.summaries.append((plan, summary))
        self._report(plan, summary)
        return summary.exit_code

    def _ledgers_in(self, folder: Path) -> list[Path]:
        from oxenbatch.folder import LEDGER  # noqa: PLC0415

        if self.options["dask"]:
            return sorted((folder / SHARDS).glob(f"*/{LEDGER}"))
        return [(folder / SHARDS / self.shard.folder if self.shard else folder) / LEDGER]

    def _folder(self, manifest: Manifest, date: dt.date) -> Path:
        return self.options["output"] or manifest.output_folder(date)

    def _say(self, words: str) -> None:
        if not self.quiet:
            talk(words)

    def _report(self, plan: Plan, summary: Summary) -> None:
        if summary.exit_code or not self.quiet:
            for line in endings.report(plan, summary, rehearsal=self.options["sandbox"]):
                talk(line)

    def _unreached(self) -> Iterator[Summary]:
        """How batches stand that this call did not come to: what is on disk is there, whatever stood in the way."""
        run = {plan.ledger for plan, _ in self.summaries}
        for manifest in self.loaded:
            folder = self._folder(manifest, date_of(self.options))
            paths = [self.options["ledger"]] if self.options["ledger"] else self._ledgers_in(folder)
            yield from several.standing(path for path in paths if path not in run)

    def _tell(self, code: int) -> None:
        """The machines' line on stderr, and the summary on stdout where it is asked for."""
        if self.options["as_json"]:
            batches = [endings.as_json(*pair) for pair in self.summaries]
            problems = [problem.as_data() for problem in self.problems]
            said = {"exit_code": code, "batches": batches, "problems": problems}
            talk(json_line(said | ({"would_send": self.would} if self.options["dry_run"] else {})), err=False)
        if self.options["dry_run"]:
            return
        line = endings.machines_line(code, [*(summary for _, summary in self.summaries), *self._unreached()])
        self.night.end(code, line)
        if code or not self.quiet:
            talk(f"oxenbatch: {line}")
