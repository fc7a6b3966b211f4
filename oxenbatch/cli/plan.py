"""`oxenbatch check`: everything that can be known before money is spent."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oxenbatch.cli.access import LEDGER, catalog_for, catalog_options
from oxenbatch.cli.forecasts import Checked, as_json, lines_of
from oxenbatch.cli.options import Dollars, date_of, dollars, manifest_options, option, overrides_of, plural
from oxenbatch.errors import (
    HubUnreachable,
    MachineError,
    ManifestError,
    OxenbatchError,
    Problem,
    UsageProblem,
    gravest,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxenbatch.access import Access
    from oxenbatch.catalog import Catalog
    from oxenbatch.forecast import Forecast
    from oxenbatch.manifest import Manifest


@click.command(short_help="Validate a manifest and say what it would make and cost; spends nothing.")
@click.argument("manifests", nargs=-1, required=True, metavar="MANIFEST...")
@option("-o", "--output", type=click.Path(path_type=Path), help="The output folder, in place of the manifest's own.")
@manifest_options
@option("--max-cost", type=Dollars(), help="Dollars that the batch may cost, at most: say whether that is enough.")
@option("--lock", is_flag=True, help="Write the schemas and prices in use to MANIFEST.lock.")
@option("--locked", is_flag=True, help="Exit with 65 where they are not as in MANIFEST.lock.")
@catalog_options
@option("--ledger", type=click.Path(path_type=Path), help="The ledger's file, where it is not in the output folder.")
@option("-q", "--quiet", is_flag=True, help="Say nothing where all is well.")
@option("--json", "as_json", is_flag=True, help="One JSON object on stdout, problems among it.")
def check(manifests: tuple[str, ...], **options: Any) -> None:
    """Validate everything in the manifests without spending: rows, templates, paths, and every parameter against its
    model's schema; then say what a run would make, and what it would cost.

    Where a run has begun, its ledger is looked at as well: what is new, changed, done, and left over. No key is
    needed; offline, the copy of the hub's catalogue that was kept is used. Exit code 0: a run can begin; 65: it cannot.

    \b
    Examples:
      oxenbatch check prompts.yaml
      oxenbatch check prompts.yaml --lock
      oxenbatch check prompts.yaml --offline --json | jq .cost
    """
    if len(manifests) > 1 and (options["output"] or options["ledger"]):
        raise click.UsageError("each manifest has its own output: with -o or --ledger, give one manifest")
    sys.exit(CheckCommand(options).check_all(manifests))


class CheckCommand:
    """One call of `oxenbatch check`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.now: list[str] = []
        """Warnings about the manifest that is being looked at."""

    def check_all(self, manifests: tuple[str, ...]) -> int:
        """Every manifest is looked at, and told; the gravest exit code."""
        checked = [self._check(name) for name in manifests]
        code = gravest({one.code for one in checked})
        if self.options["as_json"]:
            click.echo(json.dumps(as_json(checked, code), ensure_ascii=False))
        else:
            for one in checked:
                self._tell(one)
        return code

    def _check(self, name: str) -> Checked:
        from oxenbatch.manifest import load_manifest  # noqa: PLC0415 - not for --help

        one = Checked(name)
        self.now = one.warnings
        try:
            manifest = load_manifest(name, overrides=overrides_of(self.options), stdin=sys.stdin.buffer)
            self._look(one, manifest)
        except OxenbatchError as error:
            one.refuse(error)
        return one

    def _look(self, one: Checked, manifest: Manifest) -> None:
        from oxenbatch import kept  # noqa: PLC0415
        from oxenbatch.dated import unfinished_dated  # noqa: PLC0415

        o = self.options
        date = date_of(o)
        one.folder = folder = o["output"] or manifest.output_folder(date)
        ledger = o["ledger"] or folder / LEDGER
        ledger_path = ledger if ledger.is_file() and ledger.stat().st_size else None
        if ledger_path is None:
            _can_be_made(folder)
        lock = kept.read_lock(manifest.path) if not o["lock"] else None
        access, catalog = self._catalog()
        if catalog is None and lock is not None:
            one.warnings.append("the schemas and prices of the lock are used")
            catalog = lock.catalog()
        one.found, catalog = self._forecast(manifest, date, catalog, access, ledger_path)
        one.fetched_at = catalog.fetched_at if catalog else None
        one.warnings += catalog.warnings if catalog else []
        problems = list(one.found.problems)
        if o["locked"]:
            problems += kept.broken(lock, catalog, access.name, one.name)
            problems += kept.unlocked(lock, one.found.models, one.name) if lock else []
        elif lock is not None and catalog is not None and lock.hub == access.name:
            one.warnings += [f"{model}: {words} (since {lock.locked_at})" for model, words in lock.changes(catalog)]
        if problems:
            raise ManifestError(problems)
        if manifest.dated and not o["date"] and not o["output"] and (earlier := unfinished_dated(manifest, date)):
            one.warnings.append(f"a run finishes {earlier[0]} first")
        self._warn_of_money(one, manifest)
        self._warn_of_ledger(one, ledger_path, access)
        self._refuse_changed(one)
        if o["lock"]:
            one.lock = _write_lock(manifest, catalog, one.found.models, access)

    def _catalog(self) -> tuple[Access, Catalog | None]:
        o = self.options
        return catalog_for(
            self.now.append, hub=o["hub"], sandbox=o["sandbox"], offline=o["offline"], refresh=o["refresh"]
        )

    def _forecast(
        self, manifest: Manifest, date: dt.date, catalog: Catalog | None, access: Access, ledger_path: Path | None
    ) -> tuple[Forecast, Catalog | None]:
        """The forecast; the hub is asked anew about models that a copy of its catalogue does not have."""
        from oxenbatch.access import learn_missing, read_catalog  # noqa: PLC0415
        from oxenbatch.forecast import forecast  # noqa: PLC0415

        rerun = self.options["changed"] == "rerun"
        found = forecast(manifest, date, catalog, ledger_path, rerun=rerun)
        if not found.problems or catalog is None or not catalog.missed or access.offline or not access.url:
            return found, catalog
        if catalog.fetched_at is not None:
            missed = catalog.missed
            catalog = read_catalog(access, self.now.append) or catalog
            catalog.missed |= {name for name in missed if name not in {model.id for model in catalog}}
        learn_missing(catalog, access)
        return forecast(manifest, date, catalog, ledger_path, rerun=rerun), catalog

    def _warn_of_money(self, one: Checked, manifest: Manifest) -> None:
        assert one.found is not None  # noqa: S101 - looked at just before
        limit = self.options["max_cost"] if self.options["max_cost"] is not None else manifest.max_cost
        sending = one.found.to_send
        if limit is None:
            return
        if sending.cost > limit:
            one.warnings.append(
                f"about ${dollars(sending.cost)} is more than the ${dollars(limit)} that the batch may cost: a run"
                " stops there (exit 5)"
            )
        if sending.unpriced:
            one.warnings.append(
                f"{plural(sending.unpriced, 'generation')} without a known price: with a limit of ${dollars(limit)} a"
                " run sends them only with --allow-unpriced"
            )

    def _warn_of_ledger(self, one: Checked, ledger_path: Path | None, access: Access) -> None:
        from oxenbatch.ledger import reads  # noqa: PLC0415
        from oxenbatch.ledger.book import Ledger  # noqa: PLC0415

        if ledger_path is None:
            return
        with Ledger.open(ledger_path) as ledger:
            batch = reads.batch(ledger)
        if batch is not None and batch.hub != access.name:
            one.warnings.append(f"{printable(one.folder)} was made on {printable(batch.hub)}, not {access.name}")

    def _refuse_changed(self, one: Checked) -> None:
        changes = one.found.changes if one.found else None
        if changes is None or self.options["changed"] != "stop" or not changes.changed.rows:
            return
        remedy = "--changed rerun makes it anew (and pays again), --changed keep keeps what there is"
        problems = [
            Problem(f"{printable(row['id'])!r} was sent with another request before: {remedy}", row["where"])
            for row in changes.changed.named
        ]
        raise ManifestError(problems, total=changes.changed.rows)

    # -- words ----------------------------------------------------------------------------------------------------

    def _tell(self, one: Checked) -> None:
        from oxenbatch.cli import tell  # noqa: PLC0415 - it imports us

        if one.found is not None and not one.found.problems and not (self.options["quiet"] and one.code == 0):
            for line in lines_of(one, one.found):
                click.echo(line)
        if not (self.options["quiet"] and one.code == 0):
            for warning in one.warnings:
                click.echo(f"warning: {printable(warning, 2000)}", err=True)
        if one.code == ManifestError.exit_code:
            tell(ManifestError(one.problems, total=one.problem_count))
        elif one.problems:
            click.echo(f"oxenbatch: {one.problems[0]}", err=True)
        if one.lock is not None:
            click.echo(f"wrote {printable(one.lock)}", err=True)


def _can_be_made(folder: Path) -> None:
    """The output folder is not there yet, and could be; `MachineError` where a run would fail over it."""
    from oxenbatch.folder import refuse_lost_ledger  # noqa: PLC0415 - not for --help

    refuse_lost_ledger(folder)
    there = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "cannot be written into" if there.is_dir() else "is no folder"
        raise MachineError(f"cannot make {printable(folder)}: {printable(there)} {what}")


def _write_lock(manifest: Manifest, catalog: Catalog | None, models: Iterable[str], access: Access) -> Path:
    from oxenbatch import kept  # noqa: PLC0415 - not for --help
    from oxenbatch.catalog.lock import Lock  # noqa: PLC0415

    if manifest.path is None:
        raise UsageProblem("--lock writes beside the manifest, and standard input has no place")
    if catalog is None:
        raise HubUnreachable("--lock needs the hub's catalogue, and it cannot be had")
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return kept.write_lock(manifest.path, Lock.of(catalog, models, hub=access.name, at=now))
