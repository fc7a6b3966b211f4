"""CSV, TSV and plain text become entries, a record at a time."""

from __future__ import annotations

import csv
from collections import deque
from typing import TYPE_CHECKING, Final

from oxenbatch.errors import Problem, printable
from oxenbatch.manifest.source import LONGEST_LINE, Entry, Faulty, Source, entry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONG_CELL_LINES: Final = 50
"""A quoted TSV cell longer than this is doubted: where every line of it is a full row, the quote was a stray one."""
MOST_CELL_LINES: Final = 1_000  # no prompt has a thousand lines; it also bounds how far a stray quote makes us look
MOST_CELL_CHARACTERS: Final = 2**20  # ten times the longest prompt
MOST_COLUMNS: Final = 1_000

Record = tuple[list[str], int]
"""The cells, and the line on which they begin."""


def read_text(source: Source) -> Iterator[Entry | Problem]:
    """A prompt a line, literally: only the line's end is taken off, since a space may be meant, and is sent."""
    with source.lines() as lines:
        for number, line in enumerate(lines, 1):
            text = line.removesuffix("\n").removesuffix("\r")
            if text.strip():
                yield Entry({"prompt": text}, source.shown, number)


def read_table(source: Source) -> Iterator[Entry | Faulty | Problem]:
    """Each record under the header's names; a record that does not fit is a problem, and the next one is read."""
    shown = source.shown
    with source.lines() as lines:
        records = csv_records(lines, source.shown) if source.form == "csv" else TsvRecords(lines)
        columns: tuple[str, ...] | None = None
        width = 0
        """How many columns there are, where each has a name."""
        for record in records:
            if isinstance(record, Problem):
                yield Faulty([record]) if columns is not None else record
                continue
            cells, line = record
            if columns is None:
                columns = tuple(name.strip() for name in cells)
                problems = _header_problems(columns, source, line)
                if problems:
                    yield from problems
                    return
                width = len(columns) if "" not in columns else 0
                continue
            if len(cells) == width and "" not in cells:  # nearly every record
                yield Entry(dict(zip(columns, cells, strict=True)), shown, line, columns)
                continue
            if len(cells) > len(columns):
                words = f"has {len(cells)} cells, expected at most {len(columns)} as in the header{_quotes(source)}"
                yield Faulty([entry(words, source.shown, line)])
                continue
            fields = {name: cell for name, cell in zip(columns, cells, strict=False) if cell}
            if fields.pop("", None) is not None:
                words = "has a cell in a column without a name; name the column in the header"
                yield Faulty([entry(words, source.shown, line)])
                continue
            yield Entry(fields, shown, line, columns)


def _quotes(source: Source) -> str:
    return "; a cell that holds a comma is written in double quotes" if source.form == "csv" else ""


def _header_problems(columns: tuple[str, ...], source: Source, line: int) -> list[Problem]:
    problems: list[Problem] = []
    other = {"csv": (";", "\t"), "tsv": (",", ";")}[source.form]
    if len(columns) == 1:
        for mark in other:
            if mark in columns[0]:
                problems.append(
                    entry(
                        f"the header's only column is '{printable(columns[0], 80)}', expected columns separated by "
                        f"{'commas' if source.form == 'csv' else 'tabs'}; save it so, or use "
                        f"{'--format tsv or the extension .tsv' if mark == chr(9) else 'another format'}",
                        source.shown,
                        line,
                    )
                )
                return problems
    if len(columns) > MOST_COLUMNS:
        return [entry(f"has {len(columns)} columns, expected at most {MOST_COLUMNS}", source.shown, line)]
    seen: dict[str, str] = {}
    for name in columns:
        key = name.casefold()
        if name and key in seen:
            problems.append(
                entry(
                    f"two columns are named '{printable(seen[key], 80)}' and '{printable(name, 80)}', "
                    "expected names that differ by more than case; rename one",
                    source.shown,
                    line,
                )
            )
        seen.setdefault(key, name)
    return problems


def csv_records(lines: Iterable[str], shown: str) -> Iterator[Record | Problem]:
    """RFC 4180 by the standard library's reader, strict about quotes; empty lines are skipped."""
    csv.field_size_limit(LONGEST_LINE)  # the default, 131,072, is less than a picture as a data: address
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            for cells in reader:
                if cells:
                    yield cells, line
                line = reader.line_num + 1
            return
        except csv.Error as error:
            yield entry(f"is not strict CSV: {_csv_words(str(error))}", shown, line)


def _csv_words(words: str) -> str:
    if "unexpected end of data" in words:
        return "a quoted cell is opened and never closed; close it, or double the quotes inside it"
    if "expected after" in words:
        return "a quoted cell goes on after its closing quote; double the quotes inside it"
    return words


class TsvRecords:
    """Records of a TSV text whose cells may hold literal quotes, as published prompt sets do.

    A cell that begins with a quote is a quoted one only if its closing quote, the first that is not doubled, is
    directly followed by a tab or a line's end; then tabs, line ends and doubled quotes inside it are its text.
    Otherwise the cell is what stands between its tabs. A stray quote cannot swallow the file: see `LONG_CELL_LINES`.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._waiting: deque[str] = deque()
        self._number = 0
        self._width = 0

    def __iter__(self) -> Iterator[Record]:
        while (line := self._next()) is not None:
            number = self._number
            text = line.removesuffix("\n").removesuffix("\r")
            if not text:
                continue
            cells = self._cells(text, line) if text[0] == '"' or '\t"' in text else text.split("\t")
            self._width = self._width or len(cells)
            yield cells, number

    def _next(self) -> str | None:
        line = self._waiting.popleft() if self._waiting else next(self._lines, None)
        if line is not None:
            self._number += 1
        return line

    def _cells(self, text: str, line: str) -> list[str]:
        cells: list[str] = []
        at = 0
        while True:
            if text.startswith('"', at):
                closing, text, line = self._closing(text, line, at)
                if closing:
                    cells.append(text[at + 1 : closing].replace('""', '"'))
                    if closing + 1 >= len(text):
                        return cells
                    at = closing + 2
                    continue
            end = text.find("\t", at)
            if end < 0:
                cells.append(text[at:])
                return cells
            cells.append(text[at:end])
            at = end + 1

    def _closing(self, text: str, line: str, at: int) -> tuple[int, str, str]:
        """Where the cell's closing quote is (0 if the quotes are literal), and the record's text, longer if need be."""
        taken: list[str] = []
        grown, raw, search = text, line, at + 1
        while True:
            quote = grown.find('"', search)
            while quote >= 0 and grown.startswith('"', quote + 1):
                quote = grown.find('"', quote + 2)
            if quote >= 0:
                if (quote + 1 == len(grown) or grown[quote + 1] == "\t") and not self._stray(line, taken):
                    return quote, grown, raw
                break
            more = None
            if len(taken) < MOST_CELL_LINES and len(grown) - len(text) < MOST_CELL_CHARACTERS and raw.endswith("\n"):
                more = self._next()
            if more is None:
                break
            taken.append(more)
            grown += raw[len(raw.removesuffix("\n").removesuffix("\r")) :]
            search = len(grown)
            grown += more.removesuffix("\n").removesuffix("\r")
            raw = more
        self._waiting.extendleft(reversed(taken))
        self._number -= len(taken)
        return 0, text, line

    def _stray(self, line: str, taken: list[str]) -> bool:
        if len(taken) <= LONG_CELL_LINES:
            return False
        return all(one.count("\t") + 1 == self._width for one in [line, *taken])
