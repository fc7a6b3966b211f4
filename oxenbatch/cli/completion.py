"""What the shell offers after Tab: batches, jobs and models; and the script that makes it ask."""

from __future__ import annotations

import contextlib
import os
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from oxenbatch.cli.options import MANIFESTS

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE: Final = "_OXENBATCH_COMPLETE"  # what the script sets: click's own name for it
OFFERED: Final = 100  # more than that no shell shows at once
LOOKED_AT: Final = 2000  # entries of a folder: a Tab must not wait for a million files
SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
WHERE: Final = {
    "bash": "~/.local/share/bash-completion/completions/oxenbatch",
    "zsh": "a folder of $fpath, as _oxenbatch (or eval it in ~/.zshrc, after compinit)",
    "fish": "~/.config/fish/completions/oxenbatch.fish",
}


def complete_batch(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's signature
    """Folders that hold a batch, folders on the way to one, and manifests."""
    return [CompletionItem(name) for name in islice(_batches(incomplete), OFFERED)]


def complete_manifest(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's signature
    """Manifests, and folders on the way to one."""
    return [CompletionItem(name) for name in islice(_batches(incomplete, batches=False), OFFERED)]


def _batches(incomplete: str, *, batches: bool = True) -> Iterator[str]:
    from oxenbatch.cli.access import LEDGER  # noqa: PLC0415 - it completes batches with us

    head, _, begun = incomplete.rpartition("/")
    folder = Path(os.path.expanduser(head + "/" if head or incomplete.startswith("/") else "."))  # noqa: PTH111 - `~` alone too
    prefix = f"{head}/" if head or incomplete.startswith("/") else ""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(islice(entries, LOOKED_AT), key=lambda one: one.name):
            if not entry.name.startswith(begun) or (entry.name.startswith(".") and not begun):
                continue
            if entry.is_dir():
                is_batch = batches and (Path(entry.path) / LEDGER).is_file()
                yield prefix + entry.name + ("" if is_batch else "/")
            elif Path(entry.name).suffix.lower() in MANIFESTS:
                yield prefix + entry.name


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's signature
    """Models of the catalogues that were kept from earlier runs: no network is asked."""
    from oxenbatch import kept  # noqa: PLC0415 - only after Tab

    ids = {model.id: model for catalog in kept.all_cached(kept.cache_folder()) for model in catalog.models}
    return [CompletionItem(name, help=ids[name].media_type) for name in sorted(ids) if name.startswith(incomplete)]


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click's signature
    """Jobs of the batch that stands before it on the line."""
    from oxenbatch.cli.access import the_ledger_of  # noqa: PLC0415 - it completes batches with us
    from oxenbatch.errors import OxenbatchError  # noqa: PLC0415
    from oxenbatch.ledger import reads  # noqa: PLC0415
    from oxenbatch.ledger.book import Ledger  # noqa: PLC0415

    name = ctx.params.get("batch") or next(iter(ctx.args), None)  # an option without its value yet stops the parser
    if not name:
        return []
    with contextlib.suppress(OxenbatchError), Ledger.read(the_ledger_of(str(name))) as ledger:
        return [CompletionItem(job) for job in reads.job_names(ledger, incomplete, OFFERED)]
    return []


@click.command(short_help="Print the script that completes commands, batches and models in a shell.")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script that lets Tab complete commands, options, batches, jobs and models.

    \b
    Examples:
      oxenbatch completion bash > ~/.local/share/bash-completion/completions/oxenbatch
      eval "$(oxenbatch completion zsh)"
      oxenbatch completion fish > ~/.config/fish/completions/oxenbatch.fish
    """
    from oxenbatch.cli import cli  # noqa: PLC0415 - it imports us

    click.echo(SHELLS[shell](cli, {}, "oxenbatch", VARIABLE).source())
    if sys.stdout.isatty():
        click.echo(f"put this into {WHERE[shell]}", err=True)
