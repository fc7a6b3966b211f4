"""The view as lines for a terminal of any width, with or without colours. Pure: a view in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from oxenbatch.cli.tables import GAP, Column, fit, layout, padded, width_of
from oxenbatch.cli.view import span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxenbatch.cli.view import ModelLine, Tally, View

NARROW: Final = 72  # below this, what stands beside the bar has a line of its own
MODELS_SHOWN: Final = 8  # more than that nobody reads four times a second
BAR_LEAST: Final = 10
BAR_MOST: Final = 60

_MODEL = (
    Column("model", least=12),
    Column("done", right=True),
    Column("active", right=True, gives_way=2),
    Column("pending", right=True, gives_way=3),
    Column("failed", right=True),
    Column("held", right=True),
    Column("each", right=True, gives_way=4),
)


def picture(view: View, width: int, *, ascii_only: bool = False) -> list[Text]:
    """The lines that show the view in `width` cells; none is wider."""

    def cut(texts: Iterable[str], style: str = "") -> list[Text]:
        return [Text(fit(text, width, more="..." if ascii_only else "…"), style) for text in texts]

    heading = [f"{view.folder}{GAP}{view.heading}"] if view.heading else []
    figures = _figures(view, width)
    beside = GAP.join(figures)
    room = min(BAR_MOST, width - width_of(beside) - len(GAP))
    if width >= NARROW and room >= BAR_LEAST:
        sums = [_bar(view.tally.share, room, ascii_only=ascii_only) + GAP + beside]
    else:
        bar = _bar(view.tally.share, min(BAR_MOST, width), ascii_only=ascii_only)
        sums = [bar, *cut([GAP.join(figures[:2]), GAP.join(figures[2:])] if width < NARROW else [beside])]
    return [
        *cut(heading, "bold"),
        *sums,
        *cut(_models(view, width), "dim"),
        *cut(view.failures, "red"),
        *cut(view.moods, "yellow"),
    ]


def _figures(view: View, width: int) -> list[str]:
    tally = view.tally
    figures = [f"{tally.done} of {tally.total}", f"{int(tally.share * 100)}%"]
    if width >= NARROW:
        figures += [f"{count} {name}" for count, name in _rest(tally) if count]
    figures += [view.left_words] if view.left_words else []
    return [*figures, view.money_words]


def _rest(tally: Tally) -> list[tuple[int, str]]:
    return [(tally.active, "active"), (tally.pending, "pending"), (tally.failed, "failed"), (tally.held, "held")]


def _bar(share: float, width: int, *, ascii_only: bool) -> Text:
    """A bar that tells its share by its characters, so that colours may be off."""
    full, empty = ("#", "-") if ascii_only else ("━", "─")
    filled = int(share * width)
    return Text.assemble((full * filled, "green"), (empty * (width - filled), "dim"))


def _models(view: View, width: int) -> list[str]:
    """A line a model, those that still have work first; one model alone needs none."""
    if len(view.models) < 2:
        return []
    busy = sorted(view.models, key=lambda one: (not one.tally.active, not one.tally.pending, one.model))
    rows = [_cells(one) for one in busy[:MODELS_SHOWN]]
    natural = [max(width_of(row[i]) for row in rows) for i in range(len(_MODEL))]
    widths = layout(_MODEL, natural, width - len(GAP))
    lines = [
        GAP + GAP.join(
            padded(fit(cell, size), size, right=column.right)
            for cell, column, size in zip(row, _MODEL, widths, strict=True) if size
        ).rstrip()
        for row in rows
    ]  # fmt: skip
    more = len(view.models) - MODELS_SHOWN
    return [*lines, *([f"{GAP}and {more} more models"] if more > 0 else [])]


def _cells(one: ModelLine) -> list[str]:
    rest = [f"{count} {name}" if count else "" for count, name in _rest(one.tally)]
    return [
        one.model,
        f"{one.tally.done} of {one.tally.total}",
        *rest,
        f"{span(one.seconds)} each" if one.seconds else "",
    ]
