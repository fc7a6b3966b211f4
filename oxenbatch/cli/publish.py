"""`oxenbatch publish`: a data set where others can have it."""

from __future__ import annotations

import datetime as dt
import os
import re
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from oxenbatch.account import folder_of
from oxenbatch.cli.access import ledgers_of, origin_named
from oxenbatch.cli.options import MANIFESTS, json_line, option, plural
from oxenbatch.errors import UsageProblem, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from oxenbatch.publish import Part, Publication, Published

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@click.command(short_help="Commit the data set to an Oxen repository, or upload it to Hugging Face.")
@click.argument("batch", metavar="BATCH")
@option("--to", metavar="NAMESPACE/REPO", help="Push to this repository of the hub; or hf:USER/NAME for Hugging Face.")
@option("--repository", type=click.Path(file_okay=False, path_type=Path),
        help="The Oxen repository on this machine. [a hidden folder beside the output folder]")  # fmt: skip
@option("-m", "--message", help="Of the commit.")
@option("--hub", also_envvar=["OXEN_BASE_URL"], default="https://hub.oxen.ai", show_default=True, metavar="URL",
        help="The hub that --to is at.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would be published; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def publish(
    batch: str, *, to: str | None, repository: Path | None, message: str | None, hub: str, dry_run: bool, as_json: bool
) -> None:
    """Publish the data set: its files, `metadata.jsonl` and a data card, only what is new.

    Without --to it is committed to an Oxen repository on this machine, and pushed where that has been pushed before. A
    folder of dated batches becomes one data set with a folder a date. Killed half-way, it goes on when called again.

    \b
    Examples:
      oxenbatch publish out/ocean-loops
      oxenbatch publish out/nightly --to my-org/nightly
      oxenbatch publish out/ocean-loops --to hf:me/ocean-loops
    """
    from oxenbatch.publish import Publication, huggingface, oxen  # noqa: PLC0415 - not for --help

    kind, _, name = to.partition(":") if to and to.startswith("hf:") else ("", "", to)
    if name is not None and not _NAME.fullmatch(name):
        what = "hf:USER/NAME" if kind else "NAMESPACE/REPO"
        raise UsageProblem(f"--to {printable(to, 100)}: expected {what}, such as my-org/my-set")
    parts, root = parts_of(batch)
    with tempfile.TemporaryDirectory(prefix="oxenbatch-") as scratch:
        publication = Publication(parts, Path(scratch))
        if kind:
            told = huggingface.publish(publication, str(name), message=message, dry_run=dry_run)
        else:
            told = oxen.publish(
                publication,
                repository or _beside(root),
                remote=f"{hub.rstrip('/')}/{name}" if name else None,
                key=partial(key_for, hub=hub, environ=dict(os.environ)),  # as it is now: oxenai gets other settings
                message=message,
                dry_run=dry_run,
            )
        _tell(publication, told, as_json=as_json, dry_run=dry_run)


def key_for(remote: str, *, hub: str, environ: Mapping[str, str]) -> str:
    """The key for this remote; `UsageProblem` where only the repository's own settings say that it goes there."""
    from oxenbatch.addresses import AddressRefused, origin_of  # noqa: PLC0415 - not for --help
    from oxenbatch.settings import find_key, has_own_key  # noqa: PLC0415

    try:
        origin = origin_of(remote)
    except AddressRefused as error:
        raise UsageProblem(f"the repository's remote cannot be pushed to: {error}") from None
    if origin != origin_named(hub) and not has_own_key(remote, environ):
        # A repository may be a stranger's: the key goes where its owner says, not where a file says.
        raise UsageProblem(
            f"this repository says that it is pushed to {printable(remote)}: if that is where your key is to go, say so"
            f" with --hub {printable(origin)}"
        )
    return find_key(remote, environ=environ)


def _beside(root: Path) -> Path:
    """The repository's folder, as somebody who stands here would name it."""
    found = root.parent / f".{root.name}.oxen"
    near = os.path.relpath(found)
    return found if near.startswith("..") else Path(near)


def parts_of(name: str) -> tuple[list[Part], Path]:
    """The batches that BATCH names, each with its folder in the data set, and the folder that they share.

    One batch that stands for itself has no folder of its own; a dated one always has, so that the second night finds
    the first where it was.
    """
    from oxenbatch.publish import Part  # noqa: PLC0415

    ledgers = ledgers_of(name)
    root = _root(Path(name), ledgers)
    parts = []
    for ledger in ledgers:
        prefix = Path(os.path.relpath(folder_of(ledger).absolute(), root)).as_posix()
        parts.append(Part(ledger, "" if prefix == "." else prefix))
    return parts, root


def _root(path: Path, ledgers: list[Path]) -> Path:
    if path.is_dir():
        return path.absolute()
    if path.suffix.lower() not in MANIFESTS:
        return folder_of(ledgers[0]).absolute()
    from oxenbatch.manifest import load_manifest  # noqa: PLC0415

    manifest = load_manifest(path)
    if not manifest.dated:
        return folder_of(ledgers[0]).absolute()
    days = [manifest.output_folder(day).absolute() for day in (dt.date(1, 2, 3), dt.date(9876, 11, 22))]
    return Path(os.path.commonpath(days))


def _tell(publication: Publication, told: Published, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        words = asdict(told) | {"missing": publication.missing, "dry_run": dry_run}
        click.echo(json_line(words))
    else:
        would = "would be " if dry_run else ""
        new = f"{plural(told.added, 'file')} {would}added" if told.added else "no new file"
        gone = f", {told.removed} {would}removed" if told.removed else ""
        version = f", commit {told.commit}" if told.commit else "" if dry_run else ", nothing to commit"
        click.echo(f"{printable(told.to)}: {plural(told.files, 'file')}, {new}{gone}{version}")
        if told.pushed_to:
            click.echo(f"{'would be pushed' if dry_run else 'pushed'} to {printable(told.pushed_to)}")
    if publication.missing:
        click.echo(f"{plural(publication.missing, 'wanted file')} not on disk yet: publish again after the next run",
                   err=True)  # fmt: skip
