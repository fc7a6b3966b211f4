"""`oxenbatch doctor`: what works, what does not, what to do."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from oxenbatch.cli.options import option, screen_width
from oxenbatch.errors import OxenbatchError, gravest, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oxenbatch.doctor import Finding

NARROW: Final = 60  # columns; below this, words have no room beside a name
SIGNS: Final = {"works": "ok", "mind": "mind", "fails": "FAILS", "unknown": "-"}


@click.command(short_help="Key, hub, clock, disk, terminal: what works, what does not, what to do.")
@click.argument("batch", required=False, metavar="[BATCH]")
@option("--hub", also_envvar=["OXEN_BASE_URL"], metavar="URL", help="The hub's address. [https://hub.oxen.ai]")
@option("--sandbox", is_flag=True, help="Look at a stand-in hub on this machine, as `run --sandbox` uses it.")
@option("--offline", is_flag=True, help="Ask no network.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(batch: str | None, *, hub: str | None, sandbox: bool, offline: bool, as_json: bool) -> None:
    """Look at everything that a run needs, and say what works, what does not, and what to do about it.

    BATCH is the output folder that is to be looked at; else the folder in which you are. Nothing is sent to the queue
    and nothing is left behind. The exit code is that of the gravest finding, as a run would end with it: 0 where
    nothing stands in a run's way, 77 for the key, 69 for the hub, 74 for this machine, 78 for a setting.

    \b
    Examples:
      oxenbatch doctor
      oxenbatch doctor out/ocean-loops
      oxenbatch doctor --offline --json
    """
    findings = list(_look(batch, hub, sandbox=sandbox, offline=offline))
    code = gravest({finding.exit_code for finding in findings})
    if as_json:
        click.echo(json.dumps({"exit_code": code, "findings": [asdict(one) for one in findings]}, ensure_ascii=False))
        sys.exit(code)
    for one in findings:
        for line in _lines(one, screen_width()):
            click.echo(line)
    click.echo("nothing stands in a run's way" if code == 0 else f"a run would end with exit code {code}")
    sys.exit(code)


def _lines(one: Finding, width: int | None) -> Iterator[str]:
    """The finding, its words beside its name, or below it where the terminal is narrow."""
    from oxenbatch.cli.tables import fold  # noqa: PLC0415 - not for --help

    beside = width is None or width >= NARROW
    indent = " " * (20 if beside else 7)
    texts = [printable(one.words, 1000), *([f"-> {printable(one.remedy, 1000)}"] if one.remedy else [])]
    lines = [line for text in texts for line in (fold(text, max(10, width - len(indent)), 12) if width else [text])]
    head = f"{_mark(one)}  {one.what:<12}"
    yield f"{head} {lines.pop(0)}" if beside else head.rstrip()
    yield from (indent + line for line in lines)


def _mark(one: Finding) -> str:
    mark = f"{SIGNS[one.verdict]:<5}"
    colour = {"works": "green", "mind": "yellow", "fails": "red"}.get(one.verdict)
    return mark if colour is None or "NO_COLOR" in os.environ else click.style(mark, fg=colour)


def _look(batch: str | None, hub: str | None, *, sandbox: bool, offline: bool) -> Iterator[Finding]:
    from oxenbatch import doctor as looking  # noqa: PLC0415 - not for --help
    from oxenbatch.addresses import origin_of  # noqa: PLC0415
    from oxenbatch.hub import DEFAULT_HUB  # noqa: PLC0415

    yield looking.versions()
    yield looking.settings()
    if sandbox:
        yield from _look_at_a_stand_in()
    else:
        address = hub or DEFAULT_HUB
        try:
            url = origin_of(address)
        except OxenbatchError as error:
            yield looking.failing("hub", error)
        else:
            finding, key = looking.key(address)
            yield finding
            if offline:
                yield looking.kept_catalogue(url, time.time())
            else:
                yield from looking.hub(url, key)
    folder, ledger = _place(batch)
    yield looking.disk(folder)
    yield from looking.output(folder)
    if ledger is not None:
        yield looking.existing_batch(ledger)
    yield _terminal()
    yield from looking.extras()


def _look_at_a_stand_in() -> Iterator[Finding]:
    import tempfile  # noqa: PLC0415

    from oxenbatch import doctor as looking  # noqa: PLC0415
    from oxenbatch.cli.sandbox import stand_in  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="oxenbatch-") as name:
        try:
            with stand_in(Path(name) / "doctor.jsonl") as served:
                yield from looking.hub(served.url, served.key)
        except OxenbatchError as error:
            yield looking.failing("hub", error, "pip install 'oxenbatch[sandbox]'")


def _place(batch: str | None) -> tuple[Path, Path | None]:
    """The output folder to look at, and its ledger where there is one."""
    from oxenbatch.cli.access import LEDGER, ledgers_of  # noqa: PLC0415 - not for --help

    if batch is None:
        return Path(), None
    path = Path(batch)
    if path.is_dir() and not (path / LEDGER).is_file():
        return path, None
    if not path.exists():
        return path, None
    ledger = ledgers_of(batch)[-1]
    return ledger.parent, ledger


def _terminal() -> Finding:
    from oxenbatch.cli.progress import style_for  # noqa: PLC0415
    from oxenbatch.doctor import Finding  # noqa: PLC0415

    encoding = (sys.stderr.encoding or "").lower().replace("-", "")
    style = style_for("auto", sys.stderr)
    width = screen_width()
    words = f"{f'{width} columns' if width else 'no terminal on stdout'}, {encoding or 'no encoding'}"
    words += ", a live picture" if style == "bar" else ", a plain line every 30 s"
    words += ", no colours" if "NO_COLOR" in os.environ else ""
    if not encoding.startswith("utf"):
        return Finding("terminal", "mind", words, "set LC_ALL=C.UTF-8: prompts in other letters are shown as escapes")
    return Finding("terminal", "works", words)
