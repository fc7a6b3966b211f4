"""`oxenbatch sandbox`: the stand-in hub, until it is stopped; and the one that `run --sandbox` brings along."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from oxenbatch.cli.options import option
from oxenbatch.errors import MachineError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.sandbox import Sandbox

REHEARSAL_SPEED = 60.0  # a rehearsal's minute is a second: long enough to watch, short enough to wait for


@contextlib.contextmanager
def stand_in(folder: Path) -> Iterator[Sandbox]:
    """A stand-in hub for a batch in `folder`; it remembers its generations beside the folder, as the real one would."""
    from oxenbatch.sandbox import Sandbox, SandboxUnavailable  # noqa: PLC0415 - not for --help

    made = [path for path in (folder.parent, *folder.parent.parents) if not path.exists()]
    journal = folder.parent / f".{folder.name}.sandbox.jsonl"
    speed = float(os.environ.get("OXENBATCH_SPEED", REHEARSAL_SPEED))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        journal.touch()
        with Sandbox(speed=speed, journal=journal, faults=os.environ.get("OXENBATCH_FAULTS")) as hub:
            yield hub
    except SandboxUnavailable as error:
        raise MachineError(str(error)) from error
    except OSError as error:
        raise MachineError(f"cannot write into {printable(folder.parent)}: {error.strerror or error}") from error
    finally:
        if not folder.exists():  # nothing was begun: nothing is left behind
            journal.unlink(missing_ok=True)
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()


@click.command(short_help="Serve a stand-in hub on this machine until stopped.")
@option("--port", type=click.IntRange(0, 65535), default=0, help="The port to listen on. [any free one]")
@option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
        help="How much faster than the real hub time runs.")  # fmt: skip
@option(
    "--faults", type=click.Path(exists=True, dir_okay=False), help="A JSON file of faults; read again when it changes."
)
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
        main([f"--{name}={value}" for name, value in options.items() if value is not None])
    except SandboxUnavailable as error:
        raise MachineError(str(error)) from error
