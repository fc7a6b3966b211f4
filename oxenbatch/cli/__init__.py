"""Words in, words out: the only place where errors become exit codes.

Commands are imported when they are called: a `--help` does not wait for a database or a network library.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import resource
import sys
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from oxenbatch import __version__
from oxenbatch.cli.summaries import SUMMARIES
from oxenbatch.cli.talk import talk, unread
from oxenbatch.errors import ManifestError, OxenbatchError, did_you_mean, printable

if TYPE_CHECKING:
    from types import TracebackType

COMMANDS: Final[dict[str, str]] = {
    "run": "oxenbatch.cli.run:run",
    "check": "oxenbatch.cli.plan:check",
    "status": "oxenbatch.cli.status:status",
    "ls": "oxenbatch.cli.read:ls",
    "show": "oxenbatch.cli.read:show",
    "retry": "oxenbatch.cli.decide:retry",
    "cancel": "oxenbatch.cli.decide:cancel",
    "audit": "oxenbatch.cli.check:audit",
    "resolve": "oxenbatch.cli.decide:resolve",
    "verify": "oxenbatch.cli.check:verify",
    "reject": "oxenbatch.cli.decide:reject",
    "export": "oxenbatch.cli.export:export",
    "report": "oxenbatch.cli.export:report",
    "publish": "oxenbatch.cli.publish:publish",
    "merge": "oxenbatch.cli.merge:merge",
    "models": "oxenbatch.cli.catalog:models",
    "model": "oxenbatch.cli.catalog:model",
    "init": "oxenbatch.cli.start:init",
    "schema": "oxenbatch.cli.start:schema",
    "doctor": "oxenbatch.cli.doctor:doctor",
    "completion": "oxenbatch.cli.completion:completion",
    "sandbox": "oxenbatch.cli.sandbox:sandbox",
}
MEANT: Final = {
    "help": "--help", "version": "--version", "list": "ls", "info": "show", "start": "run", "resume": "run",
    "generate": "run", "continue": "run", "stop": "cancel", "kill": "cancel", "watch": "status --watch BATCH",
    "progress": "status --watch BATCH", "redo": "retry", "rerun": "retry", "why": "status",
}  # fmt: skip
"""Words that other tools use for what ours are called."""
PROBLEMS_SHOWN: Final = 50  # a screenful; the rest is counted
PIPE_CODE: Final = 141  # as of a program that SIGPIPE has ended
WORDS_MAX: Final = 4000  # characters of one error: a long path and a long sentence


class ReaderLeft(Exception):
    """Whoever read our output has left, as `head` does. Click would make a bug's exit code of it."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """The context; a help that nobody reads to its end is no bug."""
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError as error:
            raise ReaderLeft from error

    def invoke(self, ctx: click.Context) -> Any:
        """The command has done its work, or nobody reads on."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderLeft from error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order of a user's day."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands and a line about each, of which only those are imported that have no line in `SUMMARIES`."""
        lines: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            if name not in SUMMARIES and (command := self.get_command(ctx, name)):
                lines.append((name, command.get_short_help_str(110)))
            elif name in SUMMARIES:
                lines.append((name, SUMMARIES[name]))
        with formatter.section("Commands"):
            formatter.write_dl(lines)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """The command, imported now."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, name = place.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101 - a slip in COMMANDS, found by the shape's test
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named; where there is none, what may have been meant."""
        name = args[0]
        if name in COMMANDS or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        from pathlib import Path  # noqa: PLC0415 - only a mistake needs these

        from oxenbatch.cli.options import MANIFESTS  # noqa: PLC0415

        meant = MEANT.get(name)
        if Path(name).suffix.lower() in MANIFESTS:
            hint = f": to run it, type `oxenbatch run {printable(name, 80)}`"
        elif Path(name).is_dir():
            hint = f": to see where it stands, type `oxenbatch status {printable(name, 80)}`"
        elif meant:
            hint = f": type `oxenbatch {meant}`"
        else:
            hint = did_you_mean(name, COMMANDS)
        raise click.UsageError(f"there is no command '{printable(name, 80)}'{hint}", ctx)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="oxenbatch", message="%(prog)s %(version)s")
def cli() -> None:
    """A manifest of prompts becomes files on disk, through the Oxen.ai hub's queue.

    Nothing is paid twice and nothing is lost, however often a run is interrupted: run it again.

    \b
    Try it without a key and without paying:
      oxenbatch run prompts.yaml --sandbox
    """


def main() -> None:
    """The console script."""
    sys.excepthook = tell_bug
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # it would hold the key
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter gets its number, and no traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        with contextlib.suppress(BrokenPipeError):
            error.show()
        unread()
        leave(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        talk("Aborted.")
        leave(130)
    except OxenbatchError as error:
        tell(error)
        leave(error.exit_code)
    except ReaderLeft:
        unread()
        sys.exit(PIPE_CODE)


def leave(code: int) -> NoReturn:
    """A command ends before it has begun; `run` says so to machines as well, as at each of its ends."""
    _tell_machines(code)
    sys.exit(code)


def _tell_machines(code: int) -> None:
    if sys.argv[1:2] == ["run"]:
        from oxenbatch.cli.endings import machines_line  # noqa: PLC0415 - not for --help

        talk(f"oxenbatch: {machines_line(code, [])}")


def tell_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An uncaught error's traceback on stderr; what a stranger's text in it would do to a terminal is only shown."""
    import traceback  # noqa: PLC0415 - only a bug needs it

    for line in "".join(traceback.format_exception(kind, error, trace)).splitlines():
        click.echo(printable(line, WORDS_MAX), err=True)
    _tell_machines(1)


def tell(error: OxenbatchError) -> None:
    """The error on stderr: a sentence, or a manifest's problems, a line each."""
    if not isinstance(error, ManifestError):
        talk(f"oxenbatch: {printable(error, WORDS_MAX)}")
        return
    for problem in error.problems[:PROBLEMS_SHOWN]:
        talk(printable(problem, WORDS_MAX))
    more = error.total - min(len(error.problems), PROBLEMS_SHOWN)
    if more:
        talk(f"… and {more} more")
    noun = "problem" if error.total == 1 else "problems"
    talk(f"oxenbatch: {error.total} {noun} in the manifest; nothing was sent")
