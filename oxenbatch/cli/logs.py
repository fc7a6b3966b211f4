"""Log lines: on stderr beside the live line, and in a file, as text or as JSON."""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from oxenbatch.cli.options import json_line
from oxenbatch.errors import ConfigProblem, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Format = Literal["text", "json"]
LINE_MAX: Final = 10_000  # characters: a manifest's path and an error, many times over


class _Text(logging.Formatter):
    """A line is one line, whatever a stranger's words in it are."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        record.message = printable(record.message, LINE_MAX)
        return super().formatMessage(record)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        return json_line(line)


class _Said(logging.Handler):
    """Hands each line to whoever may write on the terminal now."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone: no reason to stop
            self._say(self.format(record))


def set_up(say: Callable[[str], None], *, verbose: int, quiet: bool, form: Format, file: Path | None) -> None:
    """Warnings are said, with -v what happens, with -vv everything; a log file gets what happens in any case."""
    root = logging.getLogger("oxenbatch")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.propagate = False
    root.setLevel(logging.DEBUG)
    said = _Said(say)
    said.setLevel(logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    said.setFormatter(_Json() if form == "json" else _Text("%(message)s"))
    root.addHandler(said)
    if file is None:
        return
    from logging.handlers import WatchedFileHandler  # noqa: PLC0415 - it brings pickle and sockets along

    try:
        written = WatchedFileHandler(file, encoding="utf-8", delay=False)  # logrotate may move it away
    except OSError as error:
        raise ConfigProblem(f"the log file {printable(file)} cannot be written: {error.strerror or error}") from error
    written.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    written.setFormatter(_Json() if form == "json" else _Text("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(written)
