"""`oxenbatch run`: the main job."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from oxenbatch.cli.logs import set_up
from oxenbatch.cli.options import Dollars, Duration, dollars, option, plural
from oxenbatch.cli.progress import Progress
from oxenbatch.errors import OxenbatchError, gravest, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxenbatch.access import Access
    from oxenbatch.batch import Batch, Plan
    from oxenbatch.catalog import Catalog
    from oxenbatch.manifest import Manifest
    from oxenbatch.plan import Limits
    from oxenbatch.runner import Summary

GOES_ON: Final = frozenset({0, 3, 4, 75})
"""Exit codes of one batch that say nothing against running the next."""


@click.command(short_help="Make every file that a manifest asks for; starting is resuming.")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@option("-o", "--output", type=click.Path(path_type=Path), help="The output folder, in place of the manifest's own.")
@option("-c", "--concurrency", type=click.IntRange(1, 1000), help="Generations active at the hub, at most. [8]")
@option("--model", help="The model for rows that name none; over the manifest's defaults.")
@option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter for every row; a row's own wins."
)
@option("-n", "--limit", type=click.IntRange(1), help="Only the first N rows.")
@option("--date", type=click.DateTime(["%Y-%m-%d"]), help="The date that {date} stands for. [today]")
@option("--extra-columns", type=click.Choice(["error", "metadata", "ignore"]), default="error", show_default=True,
        help="Columns that are neither ours nor the model's.")  # fmt: skip
@option("--changed", type=click.Choice(["stop", "rerun", "keep"]), default="stop", show_default=True,
        help="Rows whose id stayed and whose request changed after it was sent.")  # fmt: skip
@option("--max-rows", type=click.IntRange(1), help="More rows than this are a mistake: nothing is sent.")
@option("--format", "form", type=click.Choice(["yaml", "csv", "tsv", "jsonl", "json", "txt"]),
        help="How the manifest is written, where its name does not say (`-` is standard input).")  # fmt: skip
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
@option("--in-order", is_flag=True, help="Send in the manifest's order. [what takes longest first]")
@option("--dry-run", is_flag=True, help="Say what would be sent and what it would cost; send nothing.")
@option("--sandbox", is_flag=True, help="Use a stand-in hub on this machine: no key, no cost, real files.")
@option("--hub", also_envvar=["OXEN_BASE_URL"], default="https://hub.oxen.ai", show_default=True, metavar="URL",
        help="The hub's address.")  # fmt: skip
@option("--ledger", type=click.Path(path_type=Path), help="The ledger's file, where it is not in the output folder.")
@option("-q", "--quiet", is_flag=True, help="Say nothing where all is well.")
@option("-v", "--verbose", count=True, help="Say more; twice: everything.")
@option("--progress", type=click.Choice(["auto", "bar", "plain", "none"]), default="auto", show_default=True)
@option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Of log lines.")
@option("--log-file", type=click.Path(dir_okay=False, path_type=Path), help="Write what happens to this file as well.")
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
    """
    if len(manifests) > 1 and (options["output"] or options["ledger"]):
        raise click.UsageError("each manifest has its own output: with -o or --ledger, give one manifest")
    sys.exit(RunCommand(options).run_all(manifests))


class RunCommand:
    """One call of `oxenbatch run`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.quiet: bool = options["quiet"]
        self.progress = Progress(options["progress"], quiet=self.quiet)
        set_up(
            self.progress.say,
            verbose=options["verbose"],
            quiet=self.quiet,
            form=options["log_format"],
            file=options["log_file"],
        )
        self.summaries: list[tuple[Plan, Summary]] = []

    def run_all(self, manifests: tuple[str, ...]) -> int:
        """Every manifest is run as far as it goes; the gravest exit code."""
        from oxenbatch.access import read_catalog  # noqa: PLC0415 - not for --help
        from oxenbatch.cli import tell  # noqa: PLC0415 - it imports us
        from oxenbatch.manifest import load_manifest  # noqa: PLC0415 - not for --help

        codes = {0}
        try:
            overrides = self._overrides()
            loaded = [load_manifest(name, overrides=overrides, stdin=sys.stdin.buffer) for name in manifests]
            with self._access(loaded[0]) as access:
                catalog = read_catalog(access, self._say)
                for manifest in loaded:
                    codes.add(self._run_manifest(manifest, access, catalog))
                    if not codes <= GOES_ON:
                        break
        except OxenbatchError as error:
            tell(error)
            codes.add(error.exit_code)
        code = gravest(codes)
        self._tell(code)
        return code

    def _overrides(self) -> Any:
        from oxenbatch.manifest import Overrides, parse_parameter  # noqa: PLC0415 - not for --help

        o = self.options
        return Overrides(
            model=o["model"],
            parameters=dict(parse_parameter(text) for text in o["params"]),
            limit=o["limit"],
            extra_columns=o["extra_columns"],
            max_rows=o["max_rows"],
            format=o["form"],
        )

    @contextlib.contextmanager
    def _access(self, manifest: Manifest) -> Iterator[Access]:
        """The hub to use, and the key for it: the stand-in in a process of its own, or the real one."""
        from oxenbatch.access import Access  # noqa: PLC0415 - not for --help

        if not self.options["sandbox"]:
            from oxenbatch.addresses import origin_of  # noqa: PLC0415
            from oxenbatch.settings import find_key  # noqa: PLC0415

            url = origin_of(self.options["hub"])
            yield Access(url, find_key(self.options["hub"]))
            return
        from oxenbatch.cli.sandbox import stand_in  # noqa: PLC0415
        from oxenbatch.folder import locked  # noqa: PLC0415

        folder = self._folder(manifest, self._today())
        if folder.is_dir():
            with locked(folder, self.options["ledger"] or folder / "ledger.db"):
                pass  # another run has this folder's stand-in hub as well: it is told as what it is
        with stand_in(self._journal(manifest, folder)) as hub:
            yield Access(hub.url, hub.key)

    def _journal(self, manifest: Manifest, folder: Path) -> Path:
        """The stand-in hub's memory: one for all the dates of a manifest."""
        if not manifest.dated or self.options["output"]:
            return folder.parent / f".{folder.name}.sandbox.jsonl"
        other_day = manifest.output_folder(dt.date(1, 2, 3))
        shared = Path(os.path.commonpath([folder.absolute(), other_day.absolute()]))
        return shared / f".{manifest.name}.sandbox.jsonl"

    def _run_manifest(self, manifest: Manifest, access: Access, catalog: Catalog | None) -> int:
        """The newest unfinished dated batch first, then today's."""
        from oxenbatch.batch import unfinished_dated  # noqa: PLC0415

        today = self._today()
        if manifest.dated and not self.options["date"] and not self.options["output"]:
            earlier = unfinished_dated(manifest, today)
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
        from oxenbatch.batch import Batch  # noqa: PLC0415

        limits = self._limits(manifest)
        batch = Batch(
            manifest,
            folder,
            date,
            access=access,
            catalog=catalog,
            limits=limits,
            changed=self.options["changed"],
            retry_failed=self.options["retry_failed"],
            rebuild=self.options["rebuild"],
            ledger=self.options["ledger"],
        )
        if self.options["dry_run"]:
            return self._dry_run(batch)
        with batch as plan:
            self._announce(plan)
            summary = batch.run(plan, self.progress.watch)
        self.summaries.append((plan, summary))
        self._report(plan, summary)
        return summary.exit_code

    def _dry_run(self, batch: Batch) -> int:
        would = batch.rehearse()
        words = f"would send {plural(would.samples, 'generation')}, for about ${dollars(would.cost)}"
        if would.unpriced:
            words += f" and {would.unpriced} whose price is not known"
        click.echo(words)
        return 0

    def _today(self) -> dt.date:
        chosen = self.options["date"]
        return chosen.date() if chosen else dt.datetime.now().astimezone().date()

    def _folder(self, manifest: Manifest, date: dt.date) -> Path:
        return self.options["output"] or manifest.output_folder(date)

    def _limits(self, manifest: Manifest) -> Limits:
        from oxenbatch.batch import with_manifest  # noqa: PLC0415
        from oxenbatch.plan import Limits  # noqa: PLC0415

        o = self.options
        limits = Limits(
            attempts=o["attempts"],
            max_cost=o["max_cost"],
            allow_unpriced=o["allow_unpriced"],
            limit_sends=o["limit_sends"],
            settle_s=o["settle"],
            max_outage_s=o["max_outage"],
            deadline_s=o["deadline"],
            wait=not o["no_wait"],
            fail_fast=o["fail_fast"],
            on_unknown=o["on_unknown"],
            in_order=o["in_order"],
            canary="unknown" if o["canary"] is None else "all" if o["canary"] else "none",
        )
        if o["timeout"] is not None:
            limits = replace(limits, image_timeout_s=o["timeout"], video_timeout_s=o["timeout"])
        return with_manifest(limits, manifest, o["concurrency"])

    # -- words ----------------------------------------------------------------------------------------------------

    def _say(self, words: str) -> None:
        if not self.quiet:
            click.echo(words, err=True)

    def _announce(self, plan: Plan) -> None:
        total = sum(plan.counts.values())
        done = plan.counts["downloaded"]
        added = plan.staged.samples_added if plan.staged and done else 0
        new = f", {added} of them new" if added else ""
        self._say(
            f"{printable(plan.folder)}: {plural(total, 'file')} wanted{new}"
            + (f", {done} there already" if done else "")
        )

    def _report(self, plan: Plan, summary: Summary) -> None:
        from oxenbatch.cli.read import failure_lines  # noqa: PLC0415

        if self.quiet and summary.exit_code == 0:
            return
        for reason in summary.reasons:
            click.echo(f"stopped: {printable(reason)}", err=True)
        for line in failure_lines(plan.ledger, plan.folder):
            click.echo(line, err=True)
        click.echo(
            f"{printable(plan.folder)}: {plural(summary.done, 'file')},"
            f" {'would cost ' if self.options['sandbox'] else ''}${dollars(summary.cost)}"
            f"{'' if self.options['sandbox'] else ' charged'},"
            f" {plural(summary.sends, 'request')} sent in this run",
            err=True,
        )

    def _tell(self, code: int) -> None:
        """The machines' line on stderr, and the summary on stdout where it is asked for."""
        if self.options["as_json"]:
            click.echo(json.dumps({"exit_code": code, "batches": [_as_json(*pair) for pair in self.summaries]}))
        if (self.quiet and code == 0) or self.options["dry_run"]:
            return
        s = [summary for _, summary in self.summaries]
        click.echo(
            f"oxenbatch: exit={code} done={sum(x.done for x in s)} active={sum(x.active for x in s)}"
            f" pending={sum(x.pending for x in s)} held={sum(x.held for x in s)} failed={sum(x.failed for x in s)}"
            f" cost={dollars(sum((x.cost for x in s), start=Decimal(0)))}",
            err=True,
        )


def _as_json(plan: Plan, summary: Summary) -> dict[str, Any]:
    return {
        "folder": str(plan.folder),
        "ledger": str(plan.ledger),
        "exit_code": summary.exit_code,
        "done": summary.done,
        "active": summary.active,
        "pending": summary.pending,
        "held": summary.held,
        "failed": summary.failed,
        "states": {str(state): count for state, count in summary.counts.items()},
        "cost": str(summary.cost),
        "committed": str(summary.committed),
        "sends": summary.sends,
        "reasons": summary.reasons,
    }
