"""How a run's progress is shown: where there is a terminal, and where there is none."""

from __future__ import annotations

import io

import pytest
from views import a_view

from oxenbatch.cli.progress import PLAIN_EVERY_S, PLAIN_SAME_S, PlainLines, Progress, Style, style_for


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("asked", "terminal", "term", "style"),
    [
        ("auto", True, "xterm-256color", "bar"),
        ("auto", True, "dumb", "plain"),
        ("auto", False, "xterm", "plain"),
        ("bar", True, "xterm", "bar"),
        ("bar", False, "xterm", "plain"),  # codes in a log help nobody
        ("bar", True, "dumb", "plain"),
        ("plain", True, "xterm", "plain"),
        ("none", True, "xterm", "none"),
    ],
)
def test_a_bar_is_shown_only_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, asked: Style, terminal: bool, term: str, style: Style
) -> None:
    monkeypatch.setenv("TERM", term)
    stream = Screen() if terminal else io.StringIO()
    assert style_for(asked, stream) == style
    assert style_for(asked, stream, quiet=True) == "none"


def test_plain_lines_come_every_half_minute_at_most_and_only_with_news() -> None:
    said: list[str] = []
    lines = PlainLines(said.append)
    view = a_view()
    for now in range(100, 100 + int(PLAIN_EVERY_S)):
        lines.show(view, float(now))
    assert said == []
    lines.show(view, 100 + PLAIN_EVERY_S)
    assert said == [f"out/ocean-loops: {view.line}"]

    for now in range(int(PLAIN_SAME_S) - 1):
        lines.show(view, 131.0 + now)
    assert len(said) == 1  # nothing has changed
    lines.show(view, 130 + PLAIN_SAME_S + 1)
    assert len(said) == 2  # and it is still alive


def test_who_watches_from_elsewhere_gets_the_first_line_at_once() -> None:
    said: list[str] = []
    lines = PlainLines(said.append, at_once=True)
    lines.show(a_view(), 5.0)
    lines.show(a_view(), 6.0)
    assert len(said) == 1


@pytest.mark.parametrize("colour", [True, False])
def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch, colour: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if not colour:
        monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen()
    progress = Progress("auto", quiet=False, stream=screen)
    progress.show(a_view(), 0.0)
    assert ("\x1b[32m" in screen.getvalue()) is colour
    assert "409 of 500" in screen.getvalue()
    progress.end()


def test_quiet_says_nothing_but_what_it_is_told_to_say() -> None:
    stream = io.StringIO()
    progress = Progress("auto", quiet=True, stream=stream)
    progress.show(a_view(), 0.0)
    progress.show(a_view(), 1000.0)
    assert stream.getvalue() == ""
    progress.say("an error")
    assert stream.getvalue() == "an error\n"
