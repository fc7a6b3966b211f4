"""The view as lines for a terminal of any width, with or without colours. Pure: a view in, lines out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.text import Text

from oxenbatch.cli.tables import GAP, Column, fit, fold, layout, packed, padded, width_of
from oxenbatch.cli.view import span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from oxenbatch.cli.view import ModelLine, Tally, View

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
    more = "..." if ascii_only else "…"

    def cut(texts: Iterable[str], style: str = "", rows: int = 1) -> list[Text]:
        return [Text(line, style) for text in texts for line in fold(text, width, rows, more=more)]

    figures = _figures(view)
    beside = GAP.join(figures)
    room = min(BAR_MOST, width - width_of(beside) - len(GAP))
    if room >= BAR_LEAST:
        sums = [_bar(view.tally.share, room, ascii_only=ascii_only) + GAP + beside]
    else:
        sums = [_bar(view.tally.share, min(BAR_MOST, width), ascii_only=ascii_only), *cut(packed(figures, width))]
    return [
        *cut([f"{view.folder}{GAP}{view.heading}"] if view.heading else [], "bold"),
        *sums,
        *cut(_models(view, width, more), "dim"),
        *cut(view.failures, "red", 2),
        *cut(view.moods, "yellow", 2),
    ]


def _figures(view: View) -> list[str]:
    tally = view.tally
    figures = [f"{tally.done} of {tally.total}", f"{int(tally.share * 100)}%"]
    figures += [f"{count} {name}" for count, name in _rest(tally) if count]
    return [*figures, *filter(None, [view.left_words]), view.money_words]


def _rest(tally: Tally) -> list[tuple[int, str]]:
    return [(tally.active, "active"), (tally.pending, "pending"), (tally.failed, "failed"), (tally.held, "held")]


def _bar(share: float, width: int, *, ascii_only: bool) -> Text:
    """A bar that tells its share by its characters, so that colours may be off."""
    full, empty = ("#", "-") if ascii_only else ("━", "─")
    filled = int(share * width)
    return Text.assemble((full * filled, "green"), (empty * (width - filled), "dim"))


def _models(view: View, width: int, more: str) -> list[str]:
    """A line a model, those that still have work first; one model alone needs none."""
    if len(view.models) < 2:
        return []
    busy = sorted(view.models, key=lambda one: (not one.tally.active, not one.tally.pending, one.model))
    rows = [_cells(one) for one in busy[:MODELS_SHOWN]]
    natural = [max(width_of(row[i]) for row in rows) for i in range(len(_MODEL))]
    widths = layout(_MODEL, natural, width - len(GAP))
    lines = [
        GAP + GAP.join(
            padded(fit(cell, size, more=more), size, right=column.right)
            for cell, column, size in zip(row, _MODEL, widths, strict=True) if size
        ).rstrip()
        for row in rows
    ]  # fmt: skip
    others = len(view.models) - MODELS_SHOWN
    return [*lines, *([f"{GAP}and {others} more models"] if others > 0 else [])]


def _cells(one: ModelLine) -> list[str]:
    rest = [f"{count} {name}" if count else "" for count, name in _rest(one.tally)]
    return [
        one.model,
        f"{one.tally.done} of {one.tally.total}",
        *rest,
        f"{span(one.seconds)} each" if one.seconds else "",
    ]
