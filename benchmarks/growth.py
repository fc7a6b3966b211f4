"""How a batch grows: manifests of 1,000 to 1,000,000 rows, to the first send, in memory, and on the way back.

Each measurement is a process of its own, so that peaks of memory are its own. What an absolute figure is worth depends
on the machine: beside each stands what a bare reader, a bare parser or bare commits do here, taken in the same minute.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import yaml

from oxenbatch.access import Access
from oxenbatch.batch import Batch
from oxenbatch.catalog import Catalog
from oxenbatch.jobs import Row
from oxenbatch.ledger import runs, staging
from oxenbatch.ledger.book import Ledger
from oxenbatch.manifest import Overrides, load_manifest, read
from oxenbatch.manifest.tables import csv_records
from oxenbatch.plan import Limits
from oxenbatch.sandbox.models import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MODEL = "black-forest-labs-flux-2-klein-4b"
SIZES = (1_000, 10_000, 100_000, 1_000_000)
LEFT = 10  # rows that are not done when a batch is resumed
DAY = dt.date(2026, 11, 24)


def catalog() -> Catalog:
    """The stand-in hub's catalogue, without a hub."""
    return Catalog.from_answer({"object": "list", "data": [model.shown() for model in CATALOGUE.values()]})


def write_manifest(form: str, rows: int, folder: Path) -> Path:
    """A manifest of so many different rows, written without holding them."""
    path = folder / f"m.{form}"
    with path.open("w", encoding="utf-8") as file:
        file.write("prompt,seed,aspect_ratio\n" if form == "csv" else f"model: {MODEL}\nprompts:\n")
        for n in range(rows):
            prompt = f"A picture of the number {n}, in oil"
            if form == "csv":
                file.write(f'"{prompt}",{n},16:9\n')
            else:
                file.write(f'- {{prompt: "{prompt}", seed: {n}, aspect_ratio: 16:9}}\n')
    return path


def peak_mb() -> float:
    """The most memory that this process has had since it was started, in MB: `ru_maxrss` knows its parent's too."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def record(form: str, rows: int, folder: Path) -> dict[str, Any]:
    """The manifest is checked and recorded as `run` does it before its first send; then again, when all is done."""
    path = folder / f"m.{form}"
    known = catalog()
    before_mb = peak_mb()

    def batch() -> Batch:
        manifest = load_manifest(path, overrides=Overrides(model=MODEL))
        return Batch(manifest, folder / "out", DAY, access=Access("http://127.0.0.1:1", None), catalog=known,
                     limits=Limits())  # fmt: skip

    began, cpu = time.perf_counter(), time.process_time()
    with batch():
        pass
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    grown_mb = peak_mb() - before_mb
    finish_all_but(LEFT, folder / "out")
    began = time.perf_counter()
    with batch() as plan:
        assert plan.staged is None, "a manifest that is known was read again"  # noqa: S101
    return {
        "form": form,
        "rows": rows,
        "to_first_send_s": took,
        "rows_per_s": rows / took,
        "rows_per_cpu_s": rows / cpu,
        "memory_mb": grown_mb,
        "resume_s": time.perf_counter() - began,
        "ledger_mb": (folder / "out" / "ledger.db").stat().st_size / 1e6,
    }


def finish_all_but(left: int, out: Path) -> None:
    """All but the last are on disk, a byte each, and the ledger says so: what the next run finds."""
    with Ledger.open(out / "ledger.db") as book, book.immediate():
        run = runs.begin_run(book, version="0", at=1.0)
        book.conn.execute("create temp table done as select id, job_id, model, request_hash from samples"
                          " order by id limit (select count(*) - ? from samples)", (left,))  # fmt: skip
        book.conn.execute(
            "insert into submissions (id, job_id, run_id, state, request_hash, token, count, intent_at)"
            " select id, job_id, ?, 'accepted', request_hash, 't' || id, 1, 1.0 from done", (run,)
        )  # fmt: skip
        book.conn.execute(
            "insert into generations (generation_id, sample_id, submission_id, model, state, attempt, accepted_at,"
            " cost, file, sha256, bytes) select printf('%036d', id), id, id, model, 'downloaded', 1, 1.0, '0.01',"
            " (select name from samples where samples.id = done.id) || '.png', '', 1 from done"
        )
        book.conn.execute(
            "update samples set state = 'downloaded', attempts = 1, submission_id = id,"
            " generation_id = printf('%036d', id), file = name || '.png' where id in (select id from done)"
        )
        folders = {""}
        for (file,) in book.conn.execute("select file from samples where file is not null"):
            parent = file.rpartition("/")[0]
            if parent not in folders:
                folders.add(parent)
                (out / parent).mkdir(exist_ok=True)
            os.close(os.open(out / file, os.O_WRONLY | os.O_CREAT))
            os.truncate(out / file, 1)


def readers(rows: int, folder: Path) -> dict[str, float]:
    """Rows a second of each reader, over those of what it stands on; the median of three turns."""
    sources = {
        form: load_manifest(write_manifest(form, rows, folder), overrides=Overrides(model=MODEL))._source  # noqa: SLF001 - the reader alone
        for form in ("csv", "yaml")
    }

    def records() -> int:
        with sources["csv"].lines() as lines:
            return sum(1 for _ in csv_records(lines, "m.csv"))

    def bare_csv(reader: Callable[[Any], Iterable[Any]] = csv.reader) -> int:
        with (folder / "m.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in reader(file))

    def bare_yaml() -> int:
        with (folder / "m.yaml").open("rb") as file:
            return len(yaml.load(file, Loader=yaml.CSafeLoader)["prompts"])

    pairs: dict[str, tuple[Callable[[], int], Callable[[], int]]] = {
        "csv": (bare_csv, records),
        "fields": (lambda: bare_csv(csv.DictReader), lambda: sum(1 for _ in read.entries(sources["csv"]))),
        "yaml": (bare_yaml, lambda: sum(1 for _ in read.entries(sources["yaml"]))),
    }
    found: dict[str, list[float]] = {name: [] for name in pairs}
    for _ in range(3):
        for name, functions in pairs.items():
            times = []
            for function in functions:
                began = time.process_time()
                function()
                times.append(time.process_time() - began)
            found[name].append(times[0] / times[1])
    return {name: median(ratios) for name, ratios in found.items()}


def recording(rows: int, folder: Path) -> float:
    """Rows a second that are recorded together, over single rows that are committed one by one."""
    conn = sqlite3.connect(folder / "bare.db", isolation_level=None)
    conn.execute("pragma journal_mode = wal")
    conn.execute("pragma synchronous = full")
    conn.execute("create table t (a integer primary key, b text)")
    ratios = []
    for turn in range(3):
        began = time.perf_counter()
        for n in range(1000):
            conn.execute("insert into t (b) values (?)", (f"A picture of the number {n}",))
        single = 1000 / (time.perf_counter() - began)
        with Ledger.open(folder / f"{turn}.db", create=True) as ledger:
            runs.begin_batch(ledger, name="b", hub="h", at=1.0, on="2026-11-24")
            made = (Row(MODEL, {"prompt": f"number {n}"}, number=n, where=f"m:{n}") for n in range(1, rows + 1))
            terms = staging.Terms(at=1.0, attempts=3, price=lambda _: None, takes_seed=lambda _: True)
            began = time.perf_counter()
            staging.stage(ledger, made, "", terms)
        ratios.append(rows / (time.perf_counter() - began) / single)
    return median(ratios)


def start_up() -> dict[str, float]:
    """CPU seconds of `oxenbatch --help`, and of `python -c "import click"`: the least of interleaved starts."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    commands = {"click": [sys.executable, "-c", "import click"], "help": [sys.executable, "-m", "oxenbatch", "--help"]}
    took: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(15):
        for name, command in commands.items():
            started = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
            _, _, used = os.wait4(started.pid, 0)
            started.returncode = 0
            took[name].append(used.ru_utime + used.ru_stime)
    help_s, click_s = min(took["help"]), min(took["click"])
    return {"help_s": help_s, "click_s": click_s, "ratio": help_s / click_s}


def alone(*arguments: str) -> Any:
    """What this script prints when it is called so, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def sizes(most: int, folder: Path) -> list[dict[str, Any]]:
    """Every size and format, each in a process of its own."""
    found = []
    for form in ("csv", "yaml"):
        for rows in SIZES:
            if rows <= most:
                with tempfile.TemporaryDirectory(prefix="oxenbatch-grow-", dir=folder) as name:
                    write_manifest(form, rows, Path(name))
                    found.append(alone("--form", form, "--rows", str(rows), "--folder", name))
    return found


def everything(most: int, folder: Path | None = None) -> dict[str, Any]:
    """All of it, as plain values."""
    with tempfile.TemporaryDirectory(prefix="oxenbatch-grow-", dir=folder) as name:
        scratch = Path(name)
        return {
            "sizes": sizes(most, scratch),
            "readers": readers(min(most, 100_000), scratch),
            "recording": recording(10_000, scratch),
            "start_up": start_up(),
        }


def main() -> None:
    """One size in this process, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=1_000_000, help="rows of the largest manifest [1000000]")
    parser.add_argument("--form", choices=["csv", "yaml"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    found = record(asked.form, asked.rows, asked.folder) if asked.form else everything(asked.most, asked.folder)
    print(json.dumps(found, indent=None if asked.form else 2))


if __name__ == "__main__":
    main()
