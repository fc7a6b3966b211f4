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
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from oxenbatch.errors import ManifestError, Problem, UsageProblem, did_you_mean, printable

if TYPE_CHECKING:
    from oxenbatch.manifest.spots import Finder

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

LONGEST_LINE: Final = 8 * 2**20  # bytes: room for a picture as a data: address, none for a file without line ends
MOST_CELLS: Final = 400_000  # in one line: each takes sixty bytes of memory, be it empty
LARGEST_JSON: Final = 32 * 2**20  # bytes: a .json file is held in memory whole while it is read
LARGEST_WIDE: Final = (
    12 * 2**20
)  # bytes of one with characters outside the basic plane: all of it takes four times that
MOST_VALUES: Final = 1_000_000  # commas and brackets of one: each takes a hundred bytes of memory at worst
_CHUNK: Final = 2**20

_WIDE: Final = re.compile(rb"[\xf0-\xf4]")

_DATE_MARK: Final = re.compile(r"\{(?:date|year|month|day)\}")
_DATE_NAMES: Final = re.compile(rf"(?<!\{{)(?:\{{\{{)*{_DATE_MARK.pattern}|\\u007[bB]")
"""A template's use of the date, or a brace spelt as a JSON escape, which may be one."""
_NOT_YAML: Final = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
"""What the YAML parser refuses with no line to go by, or (the last of them) silently takes for a line's end."""
_CONTROLS: Final = bytes(byte for byte in range(0x80) if _NOT_YAML.match(chr(byte)))
"""Those of them that ASCII has: text of nothing but ASCII is looked through for them seven times faster."""


def names_the_date(text: str) -> bool:
    """Whether a template in the text may use the date; plain searches before the pattern are much faster."""
    return bool((_DATE_MARK.search(text) or "\\u007" in text) and _DATE_NAMES.search(text))


def _odd_in_yaml(chunk: bytes, text: str) -> re.Match[str] | None:
    """The first character that YAML does not take, in the text of these bytes; a byte order mark before it is none."""
    if chunk.isascii() and len(chunk.translate(None, _CONTROLS)) == len(chunk):
        return None
    return _NOT_YAML.search(text, 1 if text.startswith("\ufeff") else 0)


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


class Bounds:
    """What a file may ask of the memory, held against its bytes as they come."""

    def __init__(self, form: str, size: int) -> None:
        self._form, self._size = form, size
        self._separator = {"csv": b",", "tsv": b"\t"}.get(form)
        self._width = self._crowd = 0

    def fault(self, chunk: bytes) -> str | None:
        """What is too much with these bytes, if something is."""
        if self._form == "yaml":
            return None  # a value's end is only known to its reader, which has a bound of its own
        return self._whole(chunk) if self._form == "json" else self._line(chunk)

    def _whole(self, chunk: bytes) -> str | None:
        remedy = "write it as .jsonl, an object a line"
        if self._size > LARGEST_JSON or (self._size > LARGEST_WIDE and _WIDE.search(chunk)):
            return f"is larger than {(LARGEST_JSON if self._size > LARGEST_JSON else LARGEST_WIDE) >> 20} MB; {remedy}"
        self._crowd += chunk.count(b",") + chunk.count(b"[") + chunk.count(b"{")
        return f"holds more than {MOST_VALUES:,} values; {remedy}" if self._crowd > MOST_VALUES else None

    def _line(self, chunk: bytes) -> str | None:
        first, last = chunk.find(b"\n"), chunk.rfind(b"\n") + 1
        if self._width + (first if first >= 0 else len(chunk)) > LONGEST_LINE:
            return f"has a line of more than {LONGEST_LINE >> 20} MB"
        self._width = len(chunk) - last + (0 if last else self._width)
        if self._separator:
            self._crowd = chunk.count(self._separator, last) + (0 if last else self._crowd)
        return f"has a line of more than {MOST_CELLS:,} cells" if self._crowd > MOST_CELLS else None


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
        dated, tail, line = False, "", 1
        bounds = Bounds(self.form, self.seen[1])
        with self.open() as file:
            first = True
            while True:
                try:
                    chunk = file.read(_CHUNK)
                except OSError as error:
                    raise self._wrong(f"cannot be read: {error.strerror or error}") from None
                if first:
                    self._refuse_utf16(chunk)
                    first = False
                if fault := bounds.fault(chunk):
                    raise self._wrong(fault, None if self.form == "json" else line)
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
                if self.form == "yaml" and (odd := _odd_in_yaml(chunk, text)):
                    raise self._wrong(
                        f"holds the character U+{ord(odd[0]):04X}, which YAML does not take as it is; "
                        f'write it as an escape in double quotes, "\\u{ord(odd[0]):04x}"',
                        line + text.count("\n", 0, odd.start()),
                    )
                dated = dated or names_the_date(tail + text)
                tail = text[-16:]
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


def _near(path: Path) -> str:
    """Names beside it that may have been meant."""
    try:
        return did_you_mean(path.name, os.listdir(path.parent))  # noqa: PTH208 - names are all that is asked
    except OSError:
        return ""


def find_source(path: Path, shown: str, form: str | None, *, pipes: bool = False) -> Source:
    """The file at the path, checked; `UsageProblem` where it is not there, `ManifestError` where it is not usable.

    `pipes`: whether it may be one, as in `<(...)`.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        raise UsageProblem(f"{printable(shown)} does not exist{_near(path)}") from None
    except (OSError, ValueError) as error:
        raise UsageProblem(f"{printable(shown)} cannot be read: {printable(error)}") from None
    if not stat.S_ISREG(kind) and not stat.S_ISFIFO(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a device or a socket"
        raise ManifestError([Problem(f"is {what}, expected a manifest file", where=shown)])
    form = form_of(path.name, form)
    if stat.S_ISREG(kind):
        return Source(path, shown, form)
    if not pipes or not stat.S_ISFIFO(kind):  # nobody would end what a device or a stranger's pipe sends
        raise UsageProblem(f"{printable(shown)} is a device or a pipe, expected a file")
    return _from_pipe(path, shown, form)


def _from_pipe(path: Path, shown: str, form: str) -> Source:
    """What comes out of a pipe, as in `<(...)`; one that nobody writes into would be waited for without end."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ManifestError([Problem(f"cannot be read: {error.strerror or error}", where=shown)]) from None
    try:
        start = os.read(handle, _CHUNK)
    except BlockingIOError:
        start = b""  # somebody is about to write
    else:
        if not start:
            os.close(handle)
            raise ManifestError([Problem("is a pipe that nobody writes into", where=shown)])
    os.set_blocking(handle, True)
    with os.fdopen(handle, "rb") as stream:
        return keep(stream, shown, form, start)


def keep(stream: BinaryIO, shown: str, form: str, start: bytes = b"") -> Source:
    """The stream's bytes are in a file of our own, which goes with the Source: a head may come after the rows."""
    handle, name = tempfile.mkstemp(prefix="oxenbatch-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(start)
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
    find: Finder | None = None

    @property
    def where(self) -> str:
        """`file:line`."""
        return f"{self.shown}:{self.line}"

    def spot(self, *path: str | int, name: bool = False) -> str:
        """`file:line:column` of a field's value, or of its name; of what is around it where it is not written."""
        if self.find is not None:
            for length in range(len(path), -1, -1):
                if found := self.find(path[:length], "name" if name and length else "value"):
                    return f"{self.shown}:{found[0]}:{found[1]}"
        return f"{self.where}:1"


@dataclass(frozen=True, slots=True)
class Include:
    """`rows: FILE` at its place among the rows."""

    path: str
    line: int


@dataclass(frozen=True, slots=True)
class Faulty:
    """One row that cannot be read; it still counts, so that the rows behind it keep their numbers."""

    problems: list[Problem]
