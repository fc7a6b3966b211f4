"""Ours and the yardstick (`limit.py`) in turn on the stand-in hub, client and hub on one core each: ratios.

The hub's own journal says when each request arrived and when each generation ended; the files' own times say when they
were in place (a rename is the last thing that changes them). Nothing is taken from what a client says of itself.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx

from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "black-forest-labs-flux-2-klein-4b"
VIDEO = "kling-video-v2-6-pro-text-to-video"
LIMIT = Path(__file__).with_name("limit.py")
BESIDE = {".db", ".db-wal", ".db-shm", ".lock", ".jsonl", ".reserve"}
HUB_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True)
class Case:
    """One batch, and the hub that it is made on."""

    name: str
    rows: int
    places: int
    model: str = IMAGE
    speed: float = 1.0
    life: str | None = "2"
    file_bytes: int = 65_536
    faults: tuple[dict[str, Any], ...] = ()
    durations: tuple[int, ...] = ()
    """Seconds of video, drawn at random for each row."""
    options: tuple[str, ...] = ()
    """Of ours."""
    against: tuple[str, ...] = ("limit",)
    """Which yardsticks it is held against."""


@dataclass(frozen=True)
class Run:
    """What one run took, by the hub's record and the kernel's."""

    makespan_s: float
    ideal_s: float
    wall_s: float
    cpu_s: float
    peak_mb: float
    first_send_s: float
    lag_ms: list[float]
    handoff_ms: list[float]
    calls: dict[str, int]
    generations: int
    most: int
    mb: float

    @property
    def calls_each(self) -> float:
        """Calls a generation, downloads apart."""
        return sum(n for kind, n in self.calls.items() if "files" not in kind) / self.generations


def at(values: list[float], share: float) -> float:
    """The value below which so large a share lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def ideal(lives: list[float], places: int) -> float:
    """List scheduling: each life begins as soon as a place is free."""
    free = [0.0] * places
    for life in lives:
        heapq.heappush(free, heapq.heappop(free) + life)
    return max(free)


def write_prompts(case: Case, folder: Path) -> Path:
    """The batch as JSON lines, which both clients read."""
    drawn = random.Random(1)
    rows: list[dict[str, Any]] = [{"prompt": f"A picture of the number {n}, in oil"} for n in range(case.rows)]
    for row in rows:
        if case.durations:
            row["duration"] = drawn.choice(case.durations)
    manifest = folder / "bench.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


DOWNLOADERS = {
    "curl -Z": ("curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-max", "8", "--config"),
    "aria2c": ("aria2c", "--quiet", "--max-concurrent-downloads=8", "--split=1", "--file-allocation=none", "-i"),
}
"""What fetches addresses and does nothing else; each is called with a file of them."""


def installed(who: str) -> bool:
    """Whether the client is on this machine."""
    return who not in DOWNLOADERS or shutil.which(DOWNLOADERS[who][0]) is not None


def write_addresses(who: str, case: Case, folder: Path, hub: Sandbox) -> Path:
    """All that the batch makes is made already, and the downloader's list says where it is."""

    with httpx.Client(base_url=f"{hub.url}/api", headers={"Authorization": f"Bearer {hub.key}"}) as client:
        for number in range(case.rows):
            client.post("/ai/queue", json={"model": case.model, "prompt": f"{number}"}).raise_for_status()
        while client.get("/ai/queue").json()["count"]:
            time.sleep(0.05)
        rows = client.get("/ai/generations", params={"page_size": case.rows}).json()["generations"]
    out = folder / "out"
    out.mkdir()
    entry = "url = {url}\noutput = {path}\n" if who == "curl -Z" else "{url}\n  dir={out}\n  out={name}\n"
    names = [f"{row['generation_id']}.bin" for row in rows]
    found = folder / "addresses"
    found.write_text(
        "".join(
            entry.format(url=row["result_url"], path=out / name, out=out, name=name)
            for row, name in zip(rows, names, strict=True)
        )
    )
    return found


def command(who: str, case: Case, manifest: Path, hub: str) -> list[str]:
    """How the client is called."""
    common = [str(manifest), "--hub", hub, "-o", str(manifest.parent / "out"), "--model", case.model]
    common += ["-c", str(case.places)]
    if who.startswith("limit"):
        return [sys.executable, str(LIMIT), *common, *(["--fsync"] if who == "limit --fsync" else [])]
    return [sys.executable, "-m", "oxenbatch", "run", *common, "--progress", "none", "-q", *case.options]


@contextmanager
def stopping(hub: Sandbox) -> Iterator[Sandbox]:
    """The hub, until the block ends."""
    try:
        yield hub
    finally:
        hub.stop()


@contextmanager
def alone_on(core: int) -> Iterator[None]:
    """What is started inside runs on that core alone, where there is more than one."""
    if (os.cpu_count() or 1) < 2 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Start:
    """A client that has just been started, with a hub and a folder of its own."""

    client: subprocess.Popen[bytes]
    hub: Sandbox
    folder: Path
    spawned: float
    began: float
    """The same moment, monotonic."""

    @property
    def journal(self) -> Path:
        """Where the hub writes down what happens."""
        return self.folder / "journal.jsonl"

    def posts(self) -> list[dict[str, Any]]:
        """The hub's entries of the sends so far."""
        entries = map(json.loads, self.journal.read_text().splitlines()) if self.journal.exists() else ()
        return [entry for entry in entries if entry["do"] == "enqueue"]


@contextmanager
def started(who: str, case: Case) -> Iterator[Start]:
    """The client runs, on a core of its own; whoever is within waits for it, or ends it."""
    with tempfile.TemporaryDirectory(prefix="oxenbatch-bench-") as name:
        folder = Path(name)
        manifest = write_prompts(case, folder)
        faults = folder / "faults.json"
        faults.write_text(json.dumps(case.faults))
        stand_in = Sandbox(
            speed=case.speed,
            journal=folder / "journal.jsonl",
            life=case.life,
            file_bytes=case.file_bytes,
            faults=faults if case.faults else None,
            workers=1000,
            seed="race",  # the n-th send takes as long for everybody
        )
        with alone_on(HUB_CORE):
            stand_in.start()
        with stopping(stand_in) as hub:
            environ = {k: v for k, v in os.environ.items() if not k.startswith(("OXEN", "COV_", "PYTHONDONTWRITE"))}
            environ |= {"HOME": name, "XDG_CACHE_HOME": name, "XDG_DATA_HOME": name, "OXEN_API_KEY": hub.key}
            if who in DOWNLOADERS:
                called = [*DOWNLOADERS[who], str(write_addresses(who, case, folder, hub))]
            else:
                called = command(who, case, manifest, hub.url)
            spawned, began = time.time(), time.monotonic()
            with alone_on(CLIENT_CORE):
                client = subprocess.Popen(called, env=environ)
            yield Start(client, hub, folder, spawned, began)


def race(who: str, case: Case) -> Run:
    """One run of the client."""
    with started(who, case) as start:
        _, status, used = os.wait4(start.client.pid, 0)
        wall_s = time.monotonic() - start.began
        start.client.returncode = os.waitstatus_to_exitcode(status)
        record = start.hub.record()
        if start.client.returncode not in (0, 3):
            raise RuntimeError(f"{who} ended with {start.client.returncode}")
        run = judge(case, start, record, wall_s, used)
        # A downloader sends nothing: its time begins when it does.
        return replace(run, makespan_s=run.makespan_s + run.first_send_s) if who in DOWNLOADERS else run


def first_send_s(who: str, case: Case) -> float:
    """Seconds from the client's start to its first send; then it is ended."""
    with started(who, case) as start:
        try:
            while not (posts := start.posts()):
                if start.client.poll() is not None or time.monotonic() - start.began > 60.0:
                    raise RuntimeError(f"{who} has sent nothing")
                time.sleep(0.02)
        finally:
            start.client.kill()
            start.client.wait()
        return float(min(post["born"] for post in posts)) - start.spawned


def judge(case: Case, start: Start, record: dict[str, Any], wall_s: float, used: Any) -> Run:
    """What the run took, by the hub's journal and the files' times."""
    made = [(post["born"], g) for post in start.posts() for g in post["generations"]]
    ends = sorted(born + g["wait_s"] + g["work_s"] for born, g in made)
    paths = [path for path in (start.folder / "out").rglob("*") if path.is_file() and path.suffix not in BESIDE]
    there = sorted(path.stat().st_ctime_ns / 1e9 for path in paths)
    born = sorted(born for born, _ in made)
    return Run(
        makespan_s=there[-1] - born[0],
        ideal_s=ideal([g["wait_s"] + g["work_s"] for _, g in made], case.places),
        wall_s=wall_s,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_mb=used.ru_maxrss / 1024,
        first_send_s=born[0] - start.spawned,
        # Files come in nearly the order in which they were made: the n-th end is held against the n-th file.
        lag_ms=[1000 * (file - end) for file, end in zip(there, ends, strict=False)],
        handoff_ms=[1000 * (sent - freed) for sent, freed in zip(born[case.places :], ends, strict=False)],
        calls={kind: n for kind, n in record["calls"].items() if "_sandbox" not in kind},
        generations=record["generations"],
        most=record["peak_active"],
        mb=sum(path.stat().st_size for path in paths) / 1e6,
    )


MEASURES = {
    "first send to last file": lambda run: run.makespan_s,
    "process wall": lambda run: run.wall_s,
    "CPU": lambda run: run.cpu_s,
    "lag p50": lambda run: at(run.lag_ms, 0.5),
    "lag p95": lambda run: at(run.lag_ms, 0.95),
    "hand-off p50": lambda run: at(run.handoff_ms, 0.5),
    "peak memory": lambda run: run.peak_mb,
    "spawn to first send": lambda run: run.first_send_s,
    "MB/s": lambda run: run.mb / run.makespan_s,
}

CASES = {
    case.name: case
    for case in (
        Case("200/16 constant", 200, 16, against=("limit", "limit --fsync")),
        Case("200/16 lognormal", 200, 16, life="2~0.5", against=("limit --fsync",)),
        Case("1000/64 constant", 1000, 64, against=("limit --fsync",)),
        Case("1000/64 lognormal", 1000, 64, life="2~0.5", against=("limit", "limit --fsync")),
        Case("silent", 200, 16, faults=({"do": "silent_events"},), against=()),
        Case("40 x 50 MB", 40, 8, model=VIDEO, file_bytes=50_000_000, against=("limit --fsync",)),
        Case("40 x 50 MB at once", 40, 40, model=VIDEO, life="0.001", file_bytes=50_000_000, against=(*DOWNLOADERS,)),
        Case("mixed 100/16", 100, 16, model=VIDEO, speed=20, life="12x", durations=(5, 10)),
        Case("mixed 200/64", 200, 64, model=VIDEO, speed=20, life="12x", durations=(5, 10)),
        Case("slow hub", 200, 16, faults=({"do": "slow_answer", "seconds": 0.1},)),
        Case(
            "distant, failing",
            200,
            16,
            faults=({"do": "slow_answer", "seconds": 0.1}, {"do": "server_error", "chance": 0.01, "on": "*"}),
            options=("--settle", "10s"),
            against=(),
        ),
    )
}


@dataclass
class Found:
    """The runs of one case, by who ran."""

    case: Case
    runs: dict[str, list[Run]] = field(default_factory=dict)


def compare(case: Case, repeats: int) -> Found:
    """Everybody in turn, so often."""
    found = Found(case)
    for _ in range(repeats):
        for who in filter(installed, (*case.against, "ours")):
            found.runs.setdefault(who, []).append(race(who, case))
    return found


def lines(found: Found) -> list[str]:
    """The medians, and ours over each yardstick's."""
    names = list(found.runs)
    told = [f"{found.case.name}: {', '.join(names)}; ratios of ours"]
    for name, measure in MEASURES.items():
        values = {who: median(measure(run) for run in runs) for who, runs in found.runs.items()}
        ratios = [f"{values['ours'] / values[who]:.3f}" for who in names if who != "ours"]
        told.append(f"  {name:24} " + "  ".join(f"{values[who]:9.3f}" for who in names) + "   ÷ " + " ".join(ratios))
    for who, runs in found.runs.items():
        last = runs[-1]
        told.append(
            f"  {who}: ÷ ideal {median(r.makespan_s / r.ideal_s for r in runs):.4f}; calls each {last.calls_each:.3f}"
            f" {last.calls}; most {last.most}; made {last.generations}"
        )
    return told


def main() -> None:
    """Race the named cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of: {', '.join(CASES)}")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="every run, on stdout")
    asked = parser.parse_args()
    for name in asked.cases or list(CASES)[:1]:
        found = compare(CASES[name], asked.repeats)
        print("\n".join(lines(found)), flush=True)
        if asked.json:
            print(json.dumps({who: [asdict(run) for run in runs] for who, runs in found.runs.items()}))


if __name__ == "__main__":
    main()
