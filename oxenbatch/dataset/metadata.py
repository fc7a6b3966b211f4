"""`metadata.jsonl`: one line a result, as Hugging Face image and video folders expect it.

A view of the ledger: written anew, atomically, and never read by us.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.download import fsync_folder
from oxenbatch.errors import MachineError, printable
from oxenbatch.ledger import reads

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.ledger.book import Ledger

NAME: Final = "metadata.jsonl"
MEASURED: Final = ("sha256", "bytes", "width", "height", "seconds", "fps")


def write_metadata(ledger: Ledger, folder: Path) -> int:
    """`metadata.jsonl` shows every result of the ledger; the number of its lines.

    A reader sees the old file or the new one, never a part. `MachineError` where it cannot be written.
    """
    path = folder / NAME
    part = folder / f"{NAME}.part"
    count = 0
    try:
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "w",
                       encoding="utf-8", newline="\n") as file:  # fmt: skip
            for result in reads.results(ledger):
                file.write(json.dumps(line_of(result), ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        fsync_folder(folder)
    except OSError as error:
        raise MachineError(f"cannot write {printable(path)}: {error}") from error
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
