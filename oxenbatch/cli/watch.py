"""`status --watch`: a run in another terminal, or under cron, from the ledger alone and without its lock."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import platform
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from oxenbatch.cli.observe import LOOK_S, SELDOM_S, Eyes
from oxenbatch.cli.progress import PlainLines, Progress
from oxenbatch.cli.view import span
from oxenbatch.errors import printable
from oxenbatch.ledger import reads, runs
from oxenbatch.ledger.book import Ledger
from oxenbatch.runner.mood import Mood

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.cli.progress import Style
    from oxenbatch.cli.view import View
    from oxenbatch.ledger.follow import Seen

JSON_EVERY_S: Final = 1.0  # a program has no eyes to please


def how_it_ended(run: dict[str, Any]) -> str:
    """How a run that goes on no more came to its end."""
    if run["ended_at"] is None:
        return "it was killed, or its machine went down"
    return f"it ended with exit code {run['exit_code']}"


def heading_of(run: dict[str, Any], *, now: float) -> str:
    """Which run it is, and since when."""
    since = dt.datetime.fromtimestamp(run["started_at"]).astimezone()
    here = "" if run["host"] == platform.node() else f" on {printable(run['host'], 40)}"
    return f"run {run['id']}, process {run['pid']}{here}, since {since:%H:%M:%S}, {span(now - run['started_at'])}"


def view_as_json(view: View, seen: Seen, mood: Mood, *, running: bool) -> dict[str, Any]:
    """The view for programs: docs/json.md."""
    tally = view.tally
    return {
        "at": round(time.time(), 3),
        "folder": view.folder,
        "running": running,
        "done": tally.done,
        "active": tally.active,
        "pending": tally.pending,
        "failed": tally.failed,
        "held": tally.held,
        "states": {str(state): count for state, count in sorted(seen.counts.items()) if count},
        "models": {one.model: {str(state): n for state, n in one.counts.items()} for one in seen.models},
        "committed": str(view.spent),
        "max_cost": None if view.cap is None else str(view.cap),
        "seconds_left": None if view.left_s is None else round(view.left_s, 1),
        "mood": json.loads(mood.as_json()),
        "exit_code": seen.run["exit_code"] if seen.run and not running else None,
    }


@dataclass(slots=True)
class _Watched:
    eyes: Eyes
    plain: PlainLines
    shown: View | None = None
    running: bool = True
    said: dict[str, Any] = field(default_factory=dict)


class Watch:
    """Several batches at once; over when none of their runs goes on."""

    def __init__(self, paths: list[Path], *, style: Style, as_json: bool) -> None:
        self._as_json = as_json
        self._progress = Progress("none" if as_json else style, quiet=False, stream=sys.stdout)
        self._batches = [_Watched(Eyes(path), PlainLines(self._progress.say, at_once=True)) for path in paths]

    async def run(self) -> None:
        """Show them until the last of their runs has ended."""
        try:
            while True:
                for one in self._batches:
                    if one.running:
                        await self._look(one)
                if self._progress.style == "bar":
                    self._progress.paint([one.shown for one in self._batches if one.shown and one.running])
                if not any(one.running for one in self._batches):
                    return
                quick = LOOK_S if self._progress.style == "bar" else SELDOM_S
                await asyncio.sleep(JSON_EVERY_S if self._as_json else quick)
        finally:
            self._progress.end()
            for one in self._batches:
                one.eyes.close()

    async def _look(self, one: _Watched) -> None:
        seen, now = await one.eyes.look(), time.time()
        if seen is None or seen.run is None:
            one.running = False
            return
        one.running = runs.goes_on(seen.run, now=now)
        signed = seen.run["seen_at"] or now
        mood = Mood.from_json(seen.run["mood"], now - signed) if one.running else Mood()
        one.shown = one.eyes.view(seen, mood, running=one.running, heading=heading_of(seen.run, now=now))
        if self._as_json:
            self._tell(one, view_as_json(one.shown, seen, mood, running=one.running), mood)
        elif not one.running:
            self._progress.say(f"{one.shown.folder}: {one.shown.tally}; {how_it_ended(seen.run)}")
        elif self._progress.style == "plain":
            one.plain.show(one.shown, time.monotonic())

    def _tell(self, one: _Watched, told: dict[str, Any], mood: Mood) -> None:
        """One object a line, where something but the time has changed."""
        news = told | {"at": 0, "seconds_left": 0, "mood": mood.lasting}
        if news != one.said:
            one.said = news
            click.echo(json.dumps(told, ensure_ascii=False))
            sys.stdout.flush()


def watch(paths: list[Path], *, style: Style, as_json: bool) -> bool:
    """Show these batches while a run works on one of them; whether any did."""
    going: list[Path] = []
    for path in paths:
        with Ledger.read(path) as ledger:
            if runs.goes_on(reads.last_run(ledger), now=time.time()):
                going.append(path)
    if going:
        try:
            asyncio.run(Watch(going, style=style, as_json=as_json).run())
        except KeyboardInterrupt:  # the usual way to stop looking, while the run goes on
            sys.exit(130)
    return bool(going)
