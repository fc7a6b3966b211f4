"""The live lines on a terminal: read as a terminal reads them."""

from __future__ import annotations

import io
import re
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.text import Text

from oxenbatch.cli.painter import Painter

if TYPE_CHECKING:
    from collections.abc import Sequence

CODE = re.compile(r"\r|\n|\x1b\[(\d*)([A-Za-z])|[^\r\n\x1b]")


@pytest.fixture(autouse=True)
def able_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever terminal these tests are run on, `dumb` too: what is drawn is read by our own."""
    monkeypatch.setenv("TERM", "xterm")


class Terminal(io.StringIO):
    """What a terminal shows after all that was written to it: returns, line ends, up and erase, as ECMA-48 has them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for code in CODE.finditer(text):
            self._obey(code[0], code[2], int(code[1] or 0))
        return len(text)

    def _obey(self, char: str, letter: str | None, number: int) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row, self.column = self.row + 1, 0
            self.rows += [""] * (self.row + 1 - len(self.rows))
        elif letter == "A":
            self.row = max(0, self.row - (number or 1))
        elif letter == "K":
            assert number == 2
            self.rows[self.row] = ""
        elif letter is None:
            line = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = line[: self.column] + char + line[self.column + 1 :]
            self.column += 1
        else:
            assert letter == "m", f"a code that nobody needs: {char!r}"

    def shown(self) -> list[str]:
        return [row for row in self.rows if row]

    def resize(self, width: int) -> None:
        """Lines that are too wide now are wrapped, as tmux, kitty and Windows Terminal do it."""
        before = self.rows[: self.row]
        wrapped = [
            piece for row in before for piece in ([row[i : i + width] for i in range(0, len(row), width)] or [""])
        ]
        self.rows, self.row = [*wrapped, *self.rows[self.row :]], len(wrapped)
        self.width = width


def painter_on(terminal: Terminal) -> Painter:
    console = Console(file=terminal, force_terminal=True, width=terminal.width, height=20, color_system=None)
    return Painter(console)


def draws(texts: Sequence[str]) -> partial[list[Text]]:
    def draw(width: int, *, ascii_only: bool) -> list[Text]:
        return [Text(text[:width]) for text in texts]

    return partial(draw)


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(60)


def test_what_is_painted_takes_the_place_of_what_was(terminal: Terminal) -> None:
    painter = painter_on(terminal)
    painter.paint(draws(["one", "two", "three"]))
    painter.paint(draws(["1"]))
    assert terminal.shown() == ["1"]
    painter.paint(draws(["a", "b"]))
    assert terminal.shown() == ["a", "b"]


def test_words_stand_above_for_good(terminal: Terminal) -> None:
    painter = painter_on(terminal)
    painter.say("first")
    painter.paint(draws(["bar", "models"]))
    painter.say("a warning")
    painter.say("x" * 150)  # longer than the terminal is wide: whole, wherever it ends
    painter.paint(draws(["bar 2"]))
    assert terminal.shown() == ["first", "a warning", "x" * 150, "bar 2"]
    painter.clear()
    assert terminal.shown() == ["first", "a warning", "x" * 150]


def test_a_terminal_made_narrower_keeps_nothing_of_the_old_picture(terminal: Terminal) -> None:
    painter = painter_on(terminal)
    painter.say("above")
    painter.paint(draws(["=" * 59, "short", "-" * 45]))
    terminal.resize(25)
    painter._console.width = 25
    painter.paint(draws(["=" * 24, "short"]))
    assert terminal.shown() == ["above", "=" * 24, "short"]


def test_a_picture_is_never_taller_than_the_terminal(terminal: Terminal) -> None:
    painter = painter_on(terminal)
    painter.paint(draws([str(n) for n in range(50)]))
    assert terminal.shown() == [str(n) for n in range(19)]


def test_the_cursor_is_never_hidden_so_a_kill_leaves_a_good_terminal(terminal: Terminal) -> None:
    painter = painter_on(terminal)
    painter.paint(draws(["one"]))  # the terminal above asserts that no other code comes
    painter.clear()
    assert terminal.shown() == []


def test_words_from_another_thread_do_not_tear_the_picture(terminal: Terminal) -> None:
    painter = painter_on(terminal)
    threads = [threading.Thread(target=painter.say, args=(f"words {n}",)) for n in range(20)]
    for thread in threads:
        thread.start()
        painter.paint(draws(["bar", "models"]))
    for thread in threads:
        thread.join()
    assert sorted(terminal.shown()[:20]) == sorted(f"words {n}" for n in range(20))
    assert terminal.shown()[20:] == ["bar", "models"]
