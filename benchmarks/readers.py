"""How fast a manifest is checked, row by row against its model's schema, and in how much memory.

For each format and size a manifest is written, and `check --offline` reads it in a process of its own with the
stand-in's catalogue: every cell is typed, every row held against the schema, hashed by its id and priced. What must
hold is that the memory of 1,000,000 rows is that of 10,000.

    .venv/bin/python benchmarks/readers.py                     10,000, 100,000 and 1,000,000 rows of CSV and YAML
    .venv/bin/python benchmarks/readers.py --rows 100000 --form csv jsonl tsv
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from oxenbatch import __version__, kept
from oxenbatch.access import STAND_IN
from oxenbatch.sandbox.models import CATALOGUE

MODEL = "kling-video-v2-6-pro-text-to-video"
ASPECTS = ("16:9", "9:16", "1:1")
# The child tells its own peak: a parent's `ru_maxrss` of children is the largest of all of them.
CHILD = """
import json, resource, sys, time
from click.testing import CliRunner
from oxenbatch.cli.plan import check
began, used = time.perf_counter(), time.process_time()
done = CliRunner().invoke(check, [*sys.argv[1:], "--offline", "--sandbox", "--json"])
assert done.exit_code == 0, done.output
print(json.dumps({
    "seconds": time.perf_counter() - began, "cpu": time.process_time() - used, "rows": json.loads(done.stdout)["rows"],
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "linux" else 1024) / 1024,
}))
"""


def row(number: int) -> dict[str, Any]:
    return {
        "id": f"row-{number:07d}",
        "prompt": f"A lighthouse in fog, woodcut, number {number}, with a gull and a small boat",
        "duration": 5 if number % 3 else 10,
        "aspect_ratio": ASPECTS[number % 3],
        "generate_audio": number % 2 == 0,
        "seed": number,
    }


def write(path: Path, form: str, rows: int) -> None:
    """A manifest of so many rows."""
    with path.open("w", encoding="utf-8") as file:
        if form in ("csv", "tsv"):
            mark = "," if form == "csv" else "\t"
            file.write(mark.join(row(0)) + "\n")
            for number in range(rows):
                cells = (json.dumps(v) if not isinstance(v, str) else v for v in row(number).values())
                file.write(mark.join(f'"{cell}"' if "," in cell else cell for cell in cells) + "\n")
        elif form == "yaml":
            for number in range(rows):
                fields = (f"{name}: {json.dumps(value)}" for name, value in row(number).items())
                file.write("- " + "\n  ".join(fields) + "\n")
        else:
            lines = (json.dumps(row(number)) for number in range(rows))
            file.writelines(f"{line}\n" for line in lines) if form == "jsonl" else file.write(f"[{', '.join(lines)}]")


def measure(path: Path) -> dict[str, float]:
    """One check of the manifest, in a process of its own."""
    words = [sys.executable, "-c", CHILD, str(path), "--model", MODEL]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--form", nargs="+", default=["csv", "yaml"], choices=["csv", "tsv", "yaml", "jsonl", "json"])
    asked = parser.parse_args()
    print(f"{'form':<6}{'rows':>10}{'rows/s':>10}{'CPU µs/row':>12}{'peak MB':>9}")
    with tempfile.TemporaryDirectory(prefix="oxenbatch-readers-") as scratch:
        folder = Path(scratch)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        payload = {"data": [model.shown() for model in CATALOGUE.values()]}
        kept.save(kept.cache_folder(), f"{STAND_IN}, {__version__}", payload, now=time.time())
        for form in asked.form:
            for rows in asked.rows:
                path = folder / f"m.{form}"
                write(path, form, rows)
                found = measure(path)
                print(f"{form:<6}{rows:>10,}{found['rows'] / found['seconds']:>10,.0f}"
                      f"{1e6 * found['cpu'] / rows:>12.1f}{found['peak_mb']:>9.0f}", flush=True)  # fmt: skip
                path.unlink()


if __name__ == "__main__":
    main()
