"""The few lines at the bottom of a terminal that are painted over four times a second."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console


class Painter:
    """Keeps some lines at the bottom of the terminal up to date; other words go above them.

    The cursor is never hidden: who is killed at any moment leaves a terminal that can be typed into.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[Text] = []
        self._lock = threading.Lock()
        """The ledger's clerk has a thread of its own, and something to say at times."""

    def paint(self, draw: Callable[..., list[Text]]) -> None:
        """What `draw(width, ascii_only=…)` gives stands there, in place of what did."""
        width, height = self._console.size
        # The last column stays free: some terminals wrap before it is needed.
        lines = draw(max(1, width - 1), ascii_only=self._console.options.ascii_only)
        with self._lock, self._console:  # one write, so that nothing flickers
            self._erase(width)
            self._lines = lines[: max(1, height - 1)]
            self._show()

    def say(self, words: str) -> None:
        """The words stand above, for good."""
        with self._lock, self._console:
            self._erase(self._console.size.width)
            self._console.print(Text(words), soft_wrap=True, highlight=False)
            self._show()

    def clear(self) -> None:
        """Nothing of it is left."""
        with self._lock, self._console:
            self._erase(self._console.size.width)
            self._lines = []

    def _show(self) -> None:
        for line in self._lines:
            self._console.print(line, no_wrap=True, overflow="crop", crop=True, highlight=False)

    def _erase(self, width: int) -> None:
        """The cursor stands where the first of our lines did, and they are gone.

        A terminal that was made narrower has wrapped them: what was one line is several.
        """
        rows = sum(max(1, -(-line.cell_len // width)) for line in self._lines)
        codes: list[object] = [ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)] if rows else []
        codes += [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * rows
        self._console.control(Control(*codes))  # type: ignore[arg-type]  # rich's codes are a union of tuples
