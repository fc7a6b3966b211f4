"""Words in, words out: the only place where errors become exit codes.

Commands are imported when they are called: a `--help` does not wait for a database or a network library.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from oxenbatch import __version__
from oxenbatch.cli.summaries import SUMMARIES
from oxenbatch.errors import ManifestError, OxenbatchError

COMMANDS: Final[dict[str, str]] = {
    "run": "oxenbatch.cli.run:run",
    "status": "oxenbatch.cli.read:status",
    "ls": "oxenbatch.cli.read:ls",
    "show": "oxenbatch.cli.read:show",
    "retry": "oxenbatch.cli.decide:retry",
    "cancel": "oxenbatch.cli.decide:cancel",
    "audit": "oxenbatch.cli.check:audit",
    "resolve": "oxenbatch.cli.decide:resolve",
    "verify": "oxenbatch.cli.check:verify",
    "reject": "oxenbatch.cli.decide:reject",
    "sandbox": "oxenbatch.cli.sandbox:sandbox",
}
PROBLEMS_SHOWN: Final = 50  # a screenful; the rest is counted


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

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
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.Exit as leaving:
        sys.exit(leaving.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Aborted.", err=True)
        sys.exit(130)
    except OxenbatchError as error:
        tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        sys.stderr.close()
        sys.exit(141)


def tell(error: OxenbatchError) -> None:
    """The error on stderr: a sentence, or a manifest's problems, a line each."""
    if not isinstance(error, ManifestError):
        click.echo(f"oxenbatch: {error}", err=True)
        return
    for problem in error.problems[:PROBLEMS_SHOWN]:
        click.echo(str(problem), err=True)
    more = error.total - min(len(error.problems), PROBLEMS_SHOWN)
    if more:
        click.echo(f"… and {more} more", err=True)
    noun = "problem" if error.total == 1 else "problems"
    click.echo(f"oxenbatch: {error.total} {noun} in the manifest; nothing was sent", err=True)
