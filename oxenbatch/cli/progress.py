"""What a run says while it works: a live picture on a terminal, a plain line every 30 s without one."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Protocol

from oxenbatch.cli.talk import talk
from oxenbatch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

    from oxenbatch.batch import Watcher
    from oxenbatch.cli.painter import Painter
    from oxenbatch.cli.view import View

Style = Literal["auto", "bar", "plain", "none"]
PLAIN_EVERY_S: Final = 30.0  # a screen reader must come to the end of a line, and a log stay short
PLAIN_SAME_S: Final = 300.0  # where nothing changes, a word that it is still alive


class Sink(Protocol):
    """Somebody who is shown how a run goes on."""

    def show(self, view: View, now: float) -> None:
        """The view at `now`, monotonic seconds."""


def style_for(asked: Style, stream: TextIO, *, quiet: bool = False) -> Style:
    """How to show it on this stream: a bar only where there is a terminal that can move its cursor."""
    if quiet or asked == "none":
        return "none"
    terminal = stream.isatty() and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    return "bar" if terminal and asked != "plain" else "plain"


class PlainLines:
    """A line at most every 30 seconds, and only where something is new."""

    def __init__(self, say: Callable[[str], None], *, at_once: bool = False) -> None:
        self._say = say
        self._at_once = at_once
        """The first line comes at once: nothing else has been said of it."""
        self._last = ""
        self._said_at: float | None = None

    def show(self, view: View, now: float) -> None:
        """Say the view's line, if it is time."""
        if self._said_at is None and not self._at_once:
            self._said_at = now  # what is to be done has just been said
        waited = PLAIN_SAME_S if self._said_at is None else now - self._said_at
        if waited < PLAIN_EVERY_S or (str(view.tally) == self._last and waited < PLAIN_SAME_S):
            return
        self._last, self._said_at = str(view.tally), now
        self._say(f"{printable(view.folder)}: {view.line}")


class Progress:
    """Shows how a run goes on, on a stream of its own."""

    def __init__(self, asked: Style, *, quiet: bool, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.style = style_for(asked, self._stream, quiet=quiet)
        self._painter: Painter | None = None
        self._plain = PlainLines(self.say)

    def say(self, words: str) -> None:
        """The words stand above the live picture, or where there is none, on a line of their own."""
        if self._painter is None:
            talk(words, self._stream)
        else:
            self._painter.say(words)

    def watcher(self, sinks: Sequence[Sink]) -> Watcher | None:
        """What shows a run here, and to these; None where nobody looks."""
        if self.style == "none" and not sinks:
            return None
        from oxenbatch.cli.observe import Observer  # noqa: PLC0415 - only who looks needs it

        return Observer(self, sinks).watch

    def show(self, view: View, now: float) -> None:
        """The run is as the view says."""
        if self.style == "plain":
            self._plain.show(view, now)
        elif self.style == "bar":
            self.paint([view])

    def paint(self, views: list[View]) -> None:
        """The views stand at the bottom of the terminal, one above the other."""
        from oxenbatch.cli.picture import picture  # noqa: PLC0415 - only a terminal needs it

        if self._painter is None:
            from rich.console import Console  # noqa: PLC0415

            from oxenbatch.cli.painter import Painter  # noqa: PLC0415

            self._painter = Painter(Console(file=self._stream, highlight=False))
        pictures = [partial(picture, view) for view in views]
        self._painter.paint(lambda width, **how: [line for draw in pictures for line in draw(width, **how)])

    def end(self) -> None:
        """The live picture is gone."""
        if self._painter is not None:
            self._painter.clear()
            self._painter = None
