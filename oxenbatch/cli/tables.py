"""Tables for eyes: columns that stand under each other, trimmed to the terminal, whole where nobody's screen ends.

Pure: texts in, lines out. Widths are in cells of a terminal, of which a Chinese character takes two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

GAP: Final = "  "
LOOKED_AT: Final = 500  # rows that the widths are taken from: a screenful many times over, and a million rows stream


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, and what gives way where the screen is narrow."""

    title: str
    right: bool = False
    """Numbers stand at the right."""
    least: int = 0
    """It may be trimmed to so many cells; 0: never."""
    gives_way: int = 0
    """Left out where it is narrow; the highest first; 0: never."""


def width_of(text: str) -> int:
    """How many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - not for --help

    return cell_len(text)


def fit(text: str, width: int, *, more: str = "…") -> str:
    """The text in so many cells, cut with `…` where it is longer."""
    if width_of(text) <= width:
        return text
    from rich.cells import set_cell_size  # noqa: PLC0415 - not for --help

    return set_cell_size(text, max(0, width - len(more))).rstrip() + more[:width]


def fold(text: str, width: int, rows: int, *, more: str = "…") -> list[str]:
    """The text in at most so many lines, broken between words; the last is cut where there is still more."""
    lines: list[str] = []
    rest = text
    while width_of(rest) > width and len(lines) < rows - 1:
        from rich.cells import set_cell_size  # noqa: PLC0415 - not for --help

        head = set_cell_size(rest, width)
        head = head[: head.rfind(" ") + 1] if " " in head.strip() else head.rstrip()
        lines.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    return [*lines, fit(rest, width, more=more)]


def packed(parts: Sequence[str], width: int) -> list[str]:
    """The parts beside each other, in as few lines as hold them whole."""
    lines: list[str] = []
    for part in parts:
        if lines and width_of(lines[-1]) + len(GAP) + width_of(part) <= width:
            lines[-1] += GAP + part
        else:
            lines.append(part)
    return lines


def padded(text: str, width: int, *, right: bool = False) -> str:
    """The text with spaces up to the width."""
    spaces = " " * (width - width_of(text))
    return spaces + text if right else text + spaces


def layout(columns: Sequence[Column], natural: Sequence[int], width: int | None) -> list[int]:
    """How wide each column is on a screen of `width` cells (None: no end); 0: it is left out."""
    widths = list(natural)
    if width is None:
        return widths

    def over() -> int:
        shown = [one for one in widths if one]
        return sum(shown) + len(GAP) * (len(shown) - 1) - width

    def trim(to: Sequence[int]) -> None:
        for index in sorted(range(len(widths)), key=lambda i: -widths[i]):
            if columns[index].least and widths[index] > to[index]:
                widths[index] -= min(max(0, over()), widths[index] - to[index])

    trim([max(column.least, 24) for column in columns])  # first what is long is shortened, while it still says enough
    for leaving in sorted((c for c in columns if c.gives_way), key=lambda c: -c.gives_way):
        if over() > 0:
            widths[columns.index(leaving)] = 0
    trim([column.least for column in columns])
    for index, size in enumerate(widths):  # what has left has made room again
        if size:
            widths[index] += min(natural[index] - size, max(0, -over()))
    return widths


def table(columns: Sequence[Column], rows: Iterable[Sequence[str]], width: int | None) -> Iterator[str]:
    """The lines of the table, its titles first; the widths are those of the first rows."""
    source = iter(rows)
    first = [row for row, _ in zip(source, range(LOOKED_AT), strict=False)]
    natural = [max(width_of(text) for text in (c.title, *(row[i] for row in first))) for i, c in enumerate(columns)]
    widths = layout(columns, natural, width)
    yield line([column.title for column in columns], columns, widths, width)
    for row in first:
        yield line(row, columns, widths, width)
    for row in source:
        yield line(row, columns, widths, width)


def line(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], width: int | None) -> str:
    """One row, each cell in its column; nothing is cut where the screen has no end."""
    shown = [
        padded(cell if width is None else fit(cell, size), size, right=column.right)
        for cell, column, size in zip(cells, columns, widths, strict=True)
        if size
    ]
    text = GAP.join(shown).rstrip()
    return text if width is None else fit(text, width)
