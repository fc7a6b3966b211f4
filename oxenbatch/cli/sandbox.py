"""`oxenbatch sandbox`: the stand-in hub, until it is stopped; and the one that `run --sandbox` brings along."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Final

import click

from oxenbatch.cli.options import option
from oxenbatch.errors import ConfigProblem, MachineError, printable
from oxenbatch.shards import FOLDER as SHARDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.sandbox import Sandbox

DATE_DEPTH: Final = 3  # {year}/{month}/{day}
REHEARSAL_SPEED: Final = 60.0  # a rehearsal's minute is a second: long enough to watch, short enough to wait for


def journal_of(folder: Path, name: str = "") -> Path:
    """Where the stand-in hub of the batch in `folder` remembers its generations.

    Beside the folder, or, for the dated batches of the manifest `name`, beside the first folder that they share: what
    one night has left is finished by the next, so they must meet the same hub.
    """
    if folder.parent.name == SHARDS:
        folder = folder.parent.parent  # all shards of a rehearsal are one batch, at one hub
    beside = folder.parent / f".{folder.name}.sandbox.jsonl"
    if beside.exists():
        return beside
    shared = (parent.parent / f".{name}.sandbox.jsonl" for parent in (folder, *folder.parents[:DATE_DEPTH]))
    return next((journal for journal in shared if journal.exists()), beside)


@contextlib.contextmanager
def stand_in(journal: Path) -> Iterator[Sandbox]:
    """A stand-in hub that remembers its generations in `journal` over restarts, as the real one would."""
    from oxenbatch.sandbox import Sandbox, SandboxUnavailable  # noqa: PLC0415 - not for --help

    folder = journal.parent
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    fresh = not journal.exists()
    said = os.environ.get("OXENBATCH_SPEED", "")
    try:
        speed = float(said) if said else REHEARSAL_SPEED
    except ValueError:
        raise ConfigProblem(f"OXENBATCH_SPEED is {printable(said)!r}, expected a number") from None
    if journal.is_symlink():
        raise MachineError(
            f"{printable(journal)} is a link, and what the stand-in hub remembers would be written there"
        )
    hub = Sandbox(speed=speed, journal=journal, faults=os.environ.get("OXENBATCH_FAULTS"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal.touch()
        hub.start()
    except SandboxUnavailable as error:
        raise MachineError(str(error)) from error
    except OSError as error:
        raise MachineError(f"cannot write into {printable(folder)}: {error.strerror or error}") from error
    try:
        yield hub
    finally:
        hub.stop()
        if fresh and not any(path != journal for path in folder.iterdir()):  # nothing was begun: nothing is left
            journal.unlink(missing_ok=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()


def _life(_ctx: click.Context, _param: click.Parameter, said: str | None) -> str | None:
    from oxenbatch.sandbox.lives import Life  # noqa: PLC0415 - not for --help

    try:
        if said is not None:
            Life.parse(said)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return said


@click.command(short_help="Serve a stand-in hub on this machine until stopped.")
@option("--port", type=click.IntRange(0, 65535), default=0, help="The port to listen on. [any free one]")
@option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
        help="How much faster than the real hub time runs.")  # fmt: skip
@option(
    "--faults", type=click.Path(exists=True, dir_okay=False), help="A JSON file of faults; read again when it changes."
)
@option("--life", metavar="SECONDS", callback=_life,
        help="Of a generation: 2, 2~0.5 (lognormal about it), 12x (its duration). [as the real ones]")  # fmt: skip
@option("--file-bytes", type=click.IntRange(0), help="Fill results up to so many bytes.")
@option("--journal", type=click.Path(dir_okay=False), help="Remember generations in this file over restarts.")
def sandbox(**options: Any) -> None:
    """Serve a stand-in hub on loopback: every call of the real one, real files, no cost.

    \b
    Example:
      oxenbatch sandbox --port 8123 --speed 60
      OXEN_API_KEY=sandbox oxenbatch run prompts.yaml --hub http://127.0.0.1:8123
    """
    from oxenbatch.sandbox import SandboxUnavailable  # noqa: PLC0415 - not for --help
    from oxenbatch.sandbox.__main__ import main  # noqa: PLC0415

    try:
        main([f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None])
    except SandboxUnavailable as error:
        raise MachineError(str(error)) from error
