"""CSV, TSV and plain text become entries, a record at a time."""

from __future__ import annotations

import csv
import io
import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from oxenbatch.errors import Problem, printable
from oxenbatch.manifest.source import LONGEST_LINE, Entry, Faulty, Source, entry
from oxenbatch.manifest.spots import csv_starts, in_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LONG_CELL_LINES: Final = 50
"""A quoted TSV cell longer than this is doubted: where every line of it is a full row, the quote was a stray one."""
MOST_CELL_LINES: Final = 1_000  # no prompt has a thousand lines; it also bounds how far a stray quote makes us look
MOST_CELL_CHARACTERS: Final = 2**20  # ten times the longest prompt
MOST_COLUMNS: Final = 1_000

Record = tuple[list[str], int, str]
"""The cells, the line on which they begin, and the text as it was written."""


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
        starts = csv_starts if source.form == "csv" else tsv_starts
        columns: tuple[str, ...] | None = None
        width = 0
        """How many columns there are, where each has a name."""
        for record in records:
            if isinstance(record, Problem):
                yield Faulty([record]) if columns is not None else record
                continue
            cells, line, raw = record
            if columns is None:
                header, columns = (raw, line), tuple(name.strip() for name in cells)
                places = {name.casefold(): number for number, name in enumerate(columns)}
                problems = _header_problems(columns, source, raw, line)
                if problems:
                    yield from problems
                    return
                width = len(columns) if "" not in columns else 0
                continue
            if len(cells) == width and "" not in cells:  # nearly every record
                found = partial(in_record, raw, line, starts, header, places)
                yield Entry(dict(zip(columns, cells, strict=True)), shown, line, columns, find=found)
                continue
            if len(cells) > len(columns):
                words = f"has {len(cells)} cells, expected at most {len(columns)} as in the header{_quotes(source)}"
                yield Faulty([Problem(words, where=_spot(source, raw, line, starts(raw), len(columns)))])
                continue
            if len(cells) < len(columns):  # a cell cut in two by a line end looks so: half a prompt would be paid for
                count = f"{len(cells)} cell{'' if len(cells) == 1 else 's'}"
                mark = "comma" if source.form == "csv" else "tab"
                words = f"has {count}, expected {len(columns)} as in the header; an absent value keeps its {mark}"
                yield Faulty([Problem(words, where=_spot(source, raw, line, starts(raw), len(cells) - 1))])
                continue
            fields = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
            if fields.pop("", None) is not None:
                words = "has a cell in a column without a name; name the column in the header"
                yield Faulty([Problem(words, where=_spot(source, raw, line, starts(raw), columns.index("")))])
                continue
            yield Entry(fields, shown, line, columns, find=partial(in_record, raw, line, starts, header, places))


def _spot(source: Source, raw: str, line: int, starts: Iterable[int], number: int) -> str:
    """`file:line:column` of the record's cell of that number, counted from 0."""
    at = next(itertools.islice(starts, number, None), 0)
    return f"{source.shown}:{line + raw.count(chr(10), 0, at)}:{at - raw.rfind(chr(10), 0, at)}"


def _quotes(source: Source) -> str:
    return "; a cell that holds a comma is written in double quotes" if source.form == "csv" else ""


def _header_problems(columns: tuple[str, ...], source: Source, raw: str, line: int) -> list[Problem]:
    problems: list[Problem] = []
    starts = csv_starts if source.form == "csv" else tsv_starts
    other = {"csv": (";", "\t"), "tsv": (",", ";")}[source.form]
    if len(columns) == 1:
        for mark in other:
            if mark in columns[0]:
                words = (
                    f"the header's only column is '{printable(columns[0], 80)}', expected columns separated by "
                    f"{'commas' if source.form == 'csv' else 'tabs'}; save it so, or use "
                    f"{'--format tsv or the extension .tsv' if mark == chr(9) else 'another format'}"
                )
                return [Problem(words, where=f"{source.shown}:{line}:{columns[0].index(mark) + 1}")]
    if len(columns) > MOST_COLUMNS:
        return [entry(f"has {len(columns)} columns, expected at most {MOST_COLUMNS}", source.shown, line)]
    seen: dict[str, str] = {}
    for number, name in enumerate(columns):
        key = name.casefold()
        if name and key in seen:
            words = (
                f"two columns are named '{printable(seen[key], 80)}' and '{printable(name, 80)}', "
                "expected names that differ by more than case; rename one"
            )
            problems.append(Problem(words, where=_spot(source, raw, line, starts(raw), number)))
        seen.setdefault(key, name)
    return problems


def csv_records(lines: Iterable[str], shown: str) -> Iterator[Record | Problem]:
    """RFC 4180 by the standard library's reader, strict about quotes; empty lines are skipped."""
    csv.field_size_limit(LONGEST_LINE)  # the default, 131,072, is less than a picture as a data: address
    taken: list[str] = []
    beyond = 0

    def keeping() -> Iterator[str]:
        """The lines; the first of the record that is being read are `taken` as well, as many as a cell may have.

        A quote that is never closed makes one record of the rest of the file, which must not be kept line by line.
        """
        nonlocal beyond
        for line in lines:
            if len(taken) == MOST_CELL_LINES:
                beyond += 1
            else:
                taken.append(line)
            yield line

    def begins() -> int:
        """The line on which the record that is being read begins."""
        return reader.line_num + 1 - len(taken) - beyond

    reader = csv.reader(keeping(), strict=True)
    while True:
        try:
            for cells in reader:
                if len(taken) > 1:
                    yield cells, begins(), "".join(taken)
                    beyond = 0
                elif cells:
                    yield cells, reader.line_num, taken[0]
                taken.clear()
            return
        except csv.Error as error:
            raw = "".join(taken)
            at = max(csv_starts(raw))
            place = f"{shown}:{begins() + raw.count(chr(10), 0, at)}"
            column = at - raw.rfind("\n", 0, at)
            yield entry(f"is not strict CSV: {_csv_words(str(error))}", place, column)
            taken.clear()
            beyond = 0


def _csv_words(words: str) -> str:
    if "unexpected end of data" in words:
        return "a quoted cell is opened and never closed; close it, or double the quotes inside it"
    if "expected after" in words:
        return "a quoted cell goes on after its closing quote; double the quotes inside it"
    if "larger than field limit" in words:
        return f"a cell has more than {LONGEST_LINE >> 20} million characters; is its quote never closed?"
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
        self._taken = ""
        self.starts: list[int] = []
        """Where the cells of the last record with quotes in it begin."""

    def __iter__(self) -> Iterator[Record]:
        while (line := self._next()) is not None:
            number = self._number
            text = line.removesuffix("\n").removesuffix("\r")
            if not text:
                continue
            self._taken = line
            cells = self._cells(text, line) if text[0] == '"' or '\t"' in text else text.split("\t")
            self._width = self._width or len(cells)
            yield cells, number, self._taken

    def _next(self) -> str | None:
        line = self._waiting.popleft() if self._waiting else next(self._lines, None)
        if line is not None:
            self._number += 1
        return line

    def _cells(self, text: str, line: str) -> list[str]:
        cells: list[str] = []
        at = 0
        self.starts = []
        while True:
            self.starts.append(at)
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
                    self._taken += "".join(taken)
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


def tsv_starts(raw: str) -> Iterator[int]:
    """Where each cell of a TSV record begins."""
    text = raw.removesuffix("\n").removesuffix("\r")
    if text[:1] != '"' and '\t"' not in text:
        at = 0
        yield 0
        while (at := text.find("\t", at) + 1) > 0:
            yield at
        return
    records = TsvRecords(io.StringIO(raw, newline="\n"))
    next(iter(records), None)
    yield from records.starts
