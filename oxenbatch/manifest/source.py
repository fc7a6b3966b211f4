"""A manifest's file as checked UTF-8, which may be read more than once, standard input too."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from oxenbatch.errors import ManifestError, Problem, UsageProblem, printable

FORMATS: Final = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
}
NAMES: Final = frozenset([*FORMATS.values(), "yml", "ndjson"])

LONGEST_LINE: Final = 16 * 2**20  # characters: room for a picture as a data: address, none for a file without line ends
LARGEST_JSON: Final = 256 * 2**20  # bytes: a .json file is held in memory whole while it is read
_CHUNK: Final = 2**20

_DATE_MARKS: Final = ("{date}", "{year}", "{month}", "{day}", "\\u007b", "\\u007B")
_DATE_NAMES: Final = re.compile(r"(?<!\{)(?:\{\{)*\{(?:date|year|month|day)\}|\\u007[bB]")
"""A template's use of the date, or a brace spelt as a JSON escape, which may be one."""
_NOT_YAML: Final = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
"""What the YAML parser refuses with no line to go by, or (the last of them) silently takes for a line's end."""


def names_the_date(text: str) -> bool:
    """Whether a template in the text may use the date; the plain search before the pattern is twenty times faster."""
    return any(mark in text for mark in _DATE_MARKS) and _DATE_NAMES.search(text) is not None


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a file's bytes tells."""

    digest: str
    """SHA-256 of the bytes."""
    names_the_date: bool
    """A template in it may use the date."""


def entry(message: str, shown: str, line: int | None = None, *, row: int | None = None) -> Problem:
    """A problem at a line of a file."""
    return Problem(message, where=f"{shown}:{line}" if line is not None else shown, row=row)


class Source:
    """One file of a manifest: where it is, how it is written, and what its bytes were when it was checked."""

    def __init__(self, path: Path, shown: str, form: str) -> None:
        self.path = path
        self.shown = shown
        """The name for messages."""
        self.form = form
        """One of `FORMATS`' values."""
        self.scan = self._scan()

    def open(self) -> BinaryIO:
        """The bytes from the start; `ManifestError` where they cannot be had."""
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ManifestError([Problem(f"cannot be read: {error.strerror or error}", where=self.shown)]) from None

    def lines(self) -> io.TextIOWrapper:
        """The text, line by line as it was written; lines end at LF alone, so that U+2028 or a lone CR ends none."""
        return io.TextIOWrapper(self.open(), encoding="utf-8-sig", newline="\n")

    def mark(self) -> tuple[int, int, int]:
        """What changes when the file does."""
        try:
            found = self.path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    def _scan(self) -> Scan:
        """The file is UTF-8 of this format, as far as a look at its characters can tell; else `ManifestError`."""
        self.seen = self.mark()
        digest = hashlib.sha256()
        decode = codecs.getincrementaldecoder("utf-8")()
        dated, tail, line, width = False, "", 1, 0
        narrow = self.form in ("csv", "tsv", "jsonl", "txt")
        with self.open() as file:
            if self.form == "json" and self.seen[1] > LARGEST_JSON:
                raise self._wrong(f"is larger than {LARGEST_JSON >> 20} MB; write it as .jsonl, an object a line")
            first = True
            while True:
                try:
                    chunk = file.read(_CHUNK)
                except OSError as error:
                    raise self._wrong(f"cannot be read: {error.strerror or error}") from None
                if first:
                    self._refuse_utf16(chunk)
                    first = False
                digest.update(chunk)
                try:
                    text = decode.decode(chunk, final=not chunk)
                except UnicodeDecodeError as error:
                    at = line + error.object[: error.start].count(b"\n")
                    byte = error.object[error.start]
                    raise self._wrong(
                        f"is not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, or convert it with iconv", at
                    ) from None
                if "\0" in text:
                    raise self._wrong(
                        "holds a NUL character, which no text has; save it as UTF-8",
                        line + text.count("\n", 0, text.index("\0")),
                    )
                if self.form == "yaml" and (odd := _NOT_YAML.search(text, 1 if text.startswith("\ufeff") else 0)):
                    raise self._wrong(
                        f"holds the character U+{ord(odd[0]):04X}, which YAML does not take as it is; "
                        f'write it as an escape in double quotes, "\\u{ord(odd[0]):04x}"',
                        line + text.count("\n", 0, odd.start()),
                    )
                dated = dated or names_the_date(tail + text)
                tail = text[-16:]
                if narrow:
                    ends = text.find("\n")
                    if width + (ends if ends >= 0 else len(text)) > LONGEST_LINE:
                        raise self._wrong(f"has a line of more than {LONGEST_LINE >> 20} million characters", line)
                    width = len(text) - text.rfind("\n") - 1 if ends >= 0 else width + len(text)
                line += text.count("\n")
                if not chunk:
                    return Scan(digest.hexdigest(), dated)

    def _refuse_utf16(self, start: bytes) -> None:
        for mark, name in ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16")):
            if start.startswith(mark):
                raise self._wrong(f"is {name}, expected UTF-8; save it again as UTF-8", 1)
        if start.startswith(b"\xfe\xff"):
            raise self._wrong("is UTF-16, expected UTF-8; save it again as UTF-8", 1)

    def _wrong(self, message: str, line: int | None = None) -> ManifestError:
        return ManifestError([entry(message, self.shown, line)])


def find_source(path: Path, shown: str, form: str | None) -> Source:
    """The file at the path, checked; `UsageProblem` where it is not there, `ManifestError` where it is not usable."""
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise UsageProblem(f"{printable(shown)} does not exist") from None
    except (OSError, ValueError) as error:
        raise UsageProblem(f"{printable(shown)} cannot be read: {printable(error)}") from None
    if stat.S_ISDIR(kind):
        raise UsageProblem(f"{printable(shown)} is a folder, expected a manifest file")
    form = form_of(path.name, form)
    if stat.S_ISREG(kind):
        return Source(path, shown, form)
    with path.open("rb") as stream:  # a pipe, as in <(...): it can be read once only
        return keep(stream, shown, form)


def keep(stream: BinaryIO, shown: str, form: str) -> Source:
    """The stream's bytes are in a file of our own, which goes with the Source: a head may come after the rows."""
    handle, name = tempfile.mkstemp(prefix="oxenbatch-")
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(stream, file)
        source = Source(Path(name), shown, form)
    except BaseException:
        _remove(name)
        raise
    weakref.finalize(source, _remove, name)
    return source


def form_of(name: str, form: str | None) -> str:
    """The format by `--format` or the extension; `UsageProblem` where neither tells."""
    if form is not None:
        if form.casefold() not in NAMES:
            raise UsageProblem(f"--format is {printable(form)}, expected one of {', '.join(sorted(NAMES))}")
        return FORMATS["." + form.casefold()]
    found = FORMATS.get(Path(name).suffix.casefold())
    if found is None:
        what = "standard input" if name == "-" else printable(name)
        raise UsageProblem(
            f"the format of {what} is not known; say it with --format, one of {', '.join(sorted(NAMES))}"
        )
    return found


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        Path(name).unlink()


@dataclass(slots=True)  # not frozen: that makes each of a million three times as dear
class Entry:
    """One row as it is written: text alone, or its fields."""

    fields: dict[str, Any]
    shown: str
    line: int
    columns: tuple[str, ...] | None = None
    """A table's header; its cells are text whose type is not known yet, empty ones left out."""
    by_hand: bool = False
    """Written in YAML: a field that the model does not list is meant, and no leftover of a data set."""

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.shown}:{self.line}"


@dataclass(frozen=True, slots=True)
class Include:
    """`rows: FILE` at its place among the rows."""

    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Faulty:
    """One row that cannot be read; it still counts, so that the rows behind it keep their numbers."""

    problems: list[Problem]
