"""How near a run comes to the ideal: makespan, hub calls and CPU, on the stand-in hub, as a table.

The ideal is list scheduling: the hub's own journal says how long each generation waited and was worked on, and they
are laid on `-c` places in the order in which they were enqueued, each as soon as a place is free. No client can be
faster with the same order. The makespan is from the first POST that the hub accepted to the last file on disk.

Machines differ, and so do two runs on one: repeats are interleaved, medians are told, and only the ratios travel.
Real processes on loopback; it ends by itself within two minutes. `--write` puts the table into README.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import heapq
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from oxenbatch import __version__
from oxenbatch.sandbox import Sandbox

README = Path(__file__).parent.parent / "README.md"
IMAGE = "black-forest-labs-flux-2-klein-4b"
VIDEO = "kling-video-v2-6-pro-text-to-video"
RESULTS = {".png", ".jpg", ".webp", ".mp4"}
ENOUGH_S = 110.0  # no repeat is begun that would end later than this


@dataclass(frozen=True)
class Case:
    """One batch: so many rows of a model, with so many places, on a hub so many times as fast as the real one."""

    name: str
    model: str
    rows: int
    places: int
    speed: float


CASES = (
    Case("images", IMAGE, 128, 16, 10),
    Case("videos", VIDEO, 40, 8, 120),
    Case("images, 100 times as fast", IMAGE, 200, 16, 100),
)


@dataclass(frozen=True)
class Measured:
    """What one run took."""

    makespan_s: float
    ideal_s: float
    calls: dict[str, int]
    generations: int
    peak: int
    cpu_s: float
    wall_s: float


def ideal_makespan(lives: list[float], places: int) -> float:
    """List scheduling: each life begins as soon as a place is free."""
    free = [0.0] * places
    for life in lives:
        heapq.heappush(free, heapq.heappop(free) + life)
    return max(free)


def measure(case: Case) -> Measured:
    """One run of the case, in a folder of its own, with a hub of its own; AssertionError where it went wrong."""
    with tempfile.TemporaryDirectory(prefix="oxenbatch-bench-") as name:
        folder = Path(name)
        manifest = folder / "bench.txt"
        manifest.write_text("".join(f"A picture of the number {n}, in oil\n" for n in range(case.rows)))
        journal = folder / "journal.jsonl"
        with Sandbox(speed=case.speed, journal=journal) as hub:
            command = [sys.executable, "-m", "oxenbatch", "run", str(manifest), "--hub", hub.url, "-o", f"{name}/out"]
            command += ["--model", case.model, "-c", str(case.places), "--progress", "none", "-q"]
            environ = {k: v for k, v in os.environ.items() if not k.startswith(("OXEN", "COV_", "PYTHONDONTWRITE"))}
            home = {"HOME": name, "XDG_CACHE_HOME": name, "XDG_DATA_HOME": name}
            began = time.monotonic()
            client = subprocess.Popen(command, env=environ | home | {"OXEN_API_KEY": hub.key})
            _, status, used = os.wait4(client.pid, 0)
            client.returncode = os.waitstatus_to_exitcode(status)
            wall_s = time.monotonic() - began
            record = hub.record()
        assert client.returncode == 0, f"the run ended with {client.returncode}"  # noqa: S101
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        posts = [entry for entry in entries if entry["do"] == "enqueue"]
        lives = [g["wait_s"] + g["work_s"] for post in posts for g in post["generations"]]
        ended = [path.stat().st_mtime for path in (folder / "out").iterdir() if path.suffix in RESULTS]
        assert len(ended) == case.rows, f"{len(ended)} files for {case.rows} rows"  # noqa: S101
        return Measured(
            makespan_s=max(ended) - min(post["at"] for post in posts),
            ideal_s=ideal_makespan(lives, case.places),
            calls={kind: n for kind, n in record["calls"].items() if "_sandbox" not in kind},
            generations=record["generations"],
            peak=record["peak_active"],
            cpu_s=used.ru_utime + used.ru_stime,
            wall_s=wall_s,
        )


def table(found: dict[Case, list[Measured]], load: float) -> str:
    """The medians as Markdown; `load` is what the machine was doing for others when it began."""
    lines = [
        "| batch | ideal | measured | ratio | calls a generation | too many | most at once | CPU a generation |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case, runs in found.items():
        what = f"{case.rows} {case.name}, `-c {case.places}`, hub at speed {case.speed:g}"
        lines.append(
            f"| {what} | {median(m.ideal_s for m in runs):.1f} s | {median(m.makespan_s for m in runs):.1f} s"
            f" | {median(m.makespan_s / m.ideal_s for m in runs):.2f}"
            f" | {median(sum(m.calls.values()) / m.generations for m in runs):.2f}"
            f" | {max(m.generations for m in runs) - case.rows} | {max(m.peak for m in runs)}"
            f" | {1000 * median(m.cpu_s / case.rows for m in runs):.0f} ms |"
        )
    least = min(len(runs) for runs in found.values())
    machine = f"{os.cpu_count()} cores (load {load:.1f} before it began), Python {platform.python_version()}"
    today = dt.date.today()  # noqa: DTZ011 - the day of whoever measures
    lines += [
        "",
        f"`make bench`, {today}, {machine}, oxenbatch {__version__}; medians of {least} interleaved runs.",
    ]
    return "\n".join(lines)


def write(text: str, page: Path = README) -> None:
    """The table stands in the page, between its markers."""
    marks = r"(<!-- measured: makespan -->\n).*?(<!-- /measured -->)"
    page.write_text(re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", page.read_text(), count=1, flags=re.DOTALL))


def main() -> None:
    """Measure every case, interleaved, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each case, at most [3]")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--details", action="store_true", help="a JSON line for each run, on stderr")
    asked = parser.parse_args()
    found: dict[Case, list[Measured]] = {case: [] for case in CASES}
    began, load = time.monotonic(), os.getloadavg()[0]
    for repeat in range(1, asked.repeats + 1):
        for case, runs in found.items():
            runs.append(measure(case))
            if asked.details:
                print(json.dumps({"case": case.name} | vars(runs[-1])), file=sys.stderr)
        spent = time.monotonic() - began
        if spent + spent / repeat > ENOUGH_S:
            break
    text = table(found, load)
    print(text)
    if asked.write:
        write(text)


if __name__ == "__main__":
    main()
