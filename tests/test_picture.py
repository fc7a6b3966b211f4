"""The picture of a run, verbatim, at the widths that people have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from views import FLUX, NOW, a_view, seen

from oxenbatch.cli.picture import picture
from oxenbatch.cli.view import view_of
from oxenbatch.jobs import JobState
from oxenbatch.ledger.follow import ModelSeen
from oxenbatch.runner.mood import Mood

HEADING = "run 3, process 4123, since 03:00:12, 10 min"


def lines(width: int, *, heading: str = HEADING, ascii_only: bool = False) -> list[str]:
    return [line.plain for line in picture(a_view(heading=heading), width, ascii_only=ascii_only)]


# What a terminal of 200, 80 and 40 columns shows; the last column stays free.
WIDE = """\
out/ocean-loops  run 3, process 4123, since 03:00:12, 10 min
━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━───────────\
  409 of 500  82%  10 active  78 pending  3 failed  about 7 min left  $3.21 of $25.00
  black-forest-labs-flux-2-klein-4b   400 of 450  6 active  44 pending              3 s each
  kling-video-v2-6-pro-text-to-video     9 of 50  4 active  34 pending  3 failed  2 min each
2 failed: The prompt was rejected by the content policy
1 failed: Upstream\\u001b[31m provider error
sending waits 23 s: Rate limit exceeded
kling-video-v2-6-pro-text-to-video pauses for 5 min: Upstream provider error
the hub's announcements are not heard: its list is asked instead
2 sends without an answer: looked for at the hub"""

EIGHTY = """\
out/ocean-loops  run 3, process 4123, since 03:00:12, 10 min
━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━───────────
409 of 500  82%  10 active  78 pending  3 failed  about 7 min left
$3.21 of $25.00
  black-forest-labs-flux-2-klein-4b  400 of 450  6 active  44 pending
  kling-video-v2-6-pro-text-to-vid…     9 of 50  4 active  34 pending  3 failed
2 failed: The prompt was rejected by the content policy
1 failed: Upstream\\u001b[31m provider error
sending waits 23 s: Rate limit exceeded
kling-video-v2-6-pro-text-to-video pauses for 5 min: Upstream provider error
the hub's announcements are not heard: its list is asked instead
2 sends without an answer: looked for at the hub"""

FORTY = """\
out/ocean-loops  run 3, process 4123,…
━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━───────
409 of 500  82%  10 active  78 pending
3 failed  about 7 min left
$3.21 of $25.00
  black-forest-l…  400 of 450
  kling-video-v2…     9 of 50  3 failed
2 failed: The prompt was rejected by
the content policy
1 failed: Upstream\\u001b[31m provider
error
sending waits 23 s: Rate limit exceeded
kling-video-v2-6-pro-text-to-video
pauses for 5 min: Upstream provider er…
the hub's announcements are not heard:
its list is asked instead
2 sends without an answer: looked for
at the hub"""


@pytest.mark.parametrize(("width", "shown"), [(199, WIDE), (79, EIGHTY), (39, FORTY)])
def test_the_picture_is_this(width: int, shown: str) -> None:
    assert "\n".join(lines(width)) == shown


def test_a_terminal_that_knows_ascii_alone_gets_no_other_letter_of_ours() -> None:
    told = lines(79, ascii_only=True)
    assert told[1] == "#" * 49 + "-" * 11
    assert all(line.isascii() for line in told)


@given(st.integers(1, 240), st.booleans())
def test_no_line_is_wider_than_the_terminal(width: int, ascii_only: bool) -> None:
    for line in lines(width, ascii_only=ascii_only):
        assert cell_len(line) <= width


def test_wide_letters_take_two_cells() -> None:
    view = replace(a_view(), failures=("1 failed: " + "海" * 40,), models=())
    for line in picture(view, 39):
        assert line.cell_len <= 39


def test_one_model_alone_needs_no_line_of_its_own() -> None:
    view = a_view(Mood(), models=(ModelSeen(FLUX, {JobState.PENDING: 3}, None),), failures=())
    assert [line.plain for line in picture(view, 79)] == ["─" * 39 + "  0 of 3  0%  3 pending  $3.21 of $25.00"]


def test_of_many_models_those_that_work_are_shown_and_the_rest_is_counted() -> None:
    states = [JobState.DOWNLOADED] * 20 + [JobState.PENDING, JobState.PROCESSING]
    models = tuple(ModelSeen(f"model-{n:02}", {state: 1}, None) for n, state in enumerate(states))
    view = a_view(Mood(), models=models, failures=())
    told = [line.plain.split()[0] for line in picture(view, 79)[1:]]
    assert told == ["model-21", "model-20", *(f"model-{n:02}" for n in range(6)), "and"]


def test_a_run_that_is_over_has_no_mood_and_no_time_left() -> None:
    view = view_of(seen(), "out", Mood(stops=("max-cost is reached",)), parallel=8.0, now=NOW, running=False)
    assert (view.moods, view.left_s) == ((), None)
