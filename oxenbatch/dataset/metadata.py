"""`metadata.jsonl`: one line a result, as Hugging Face image and video folders expect it.

A view of the ledger: written anew, atomically, and never read by us.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from oxenbatch.dataset.columns import Columns
from oxenbatch.dataset.replacing import replaced
from oxenbatch.ledger import results

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from oxenbatch.ledger.book import Ledger

NAME: Final = "metadata.jsonl"
MEASURED: Final = ("sha256", "bytes", "width", "height", "seconds", "fps", "audio")


def write_metadata(ledger: Ledger, folder: Path) -> int:
    """`metadata.jsonl` shows every result of the ledger; the number of its lines.

    A reader sees the old file or the new one, never a part. `MachineError` where it cannot be written.
    """
    with replaced(folder / NAME) as file:
        columns = Columns()
        count = write_lines(file, (columns.see(line_of(result)) for result in results.on_disk(ledger)))
        if columns.mixed:  # seldom: so what is usually enough is done first
            file.seek(0)
            file.truncate()
            count = write_lines(file, columns.as_text(map(line_of, results.on_disk(ledger))))
    return count


def write_lines(file: BinaryIO, lines: Iterable[dict[str, Any]]) -> int:
    """Each is a line of JSON in the file; how many they are."""
    count = 0
    for count, line in enumerate(lines, 1):  # noqa: B007 - the last number is the answer
        file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace"))
    return count


def line_of(result: dict[str, Any]) -> dict[str, Any]:
    """One result as the dataset has it: `file_name`, prompt, model, parameters, metadata, and what was measured.

    A parameter that is named like a measured column (`width`) is kept as `requested_width` where the two differ.
    """
    parameters = dict(result["parameters"])
    if result["seed"] is not None:
        parameters["seed"] = result["seed"]
    line: dict[str, Any] = {
        "file_name": result["file"],
        "prompt": parameters.pop("prompt", result["prompt"]),
        "model": result["model"],
    }
    measured = {name: result[name] for name in MEASURED}
    if measured["audio"] is not None:
        measured["audio"] = bool(measured["audio"])
    for name, value in parameters.items():
        clash = measured.get(name) is not None and measured[name] != value
        line[f"requested_{name}" if clash else name] = value
    line |= result["metadata"]
    line["generation_id"] = result["generation_id"]
    line |= {name: value for name, value in measured.items() if value is not None or name not in line}
    if result.get("origin") is not None:
        line["reused_from"] = result["origin"]
    line["cost"] = None if result["cost"] is None else float(result["cost"])
    line["created_at"] = _as_date(result["created_at"])
    return line


def _as_date(seconds: float) -> str | None:
    """The moment as ISO 8601; None where the hub's number is no time at all (milliseconds, infinity)."""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return None
