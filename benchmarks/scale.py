"""A batch over a cluster, started as docs/scale.md says: how fast it is with 1, 2 and 4 workers, and what kills cost.

A scheduler and its workers are processes of their own on this machine, the hub is the stand-in, and the judge is the
hub's own journal. `--kills N` sends `SIGKILL` to workers while POSTs are open, starts new ones in their places, and
ends with 1 unless nothing was paid twice, nothing lost, nothing torn, every generation is in a ledger, and the hub has
never seen more active than allowed; then the folder is left, and named. Without it the speed is measured. `--write`
puts the table into docs/scale.md.

All on loopback and in temporary folders. It ends by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from oxenbatch import __version__
from oxenbatch.download import hash_of
from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from types import TracebackType

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BIN = Path(sys.executable).parent
IMAGE = "black-forest-labs-flux-2-klein-4b"
KEY = "key-of-the-workers-8d1f6a"
PATIENCE_S = 30.0
OPEN_S = 0.1  # so long a POST's answer takes while workers are killed
SETTLE_S = 3.0  # nothing is inserted later than a second; the two clocks' whole seconds cost another
PLACES = 24
PRICE = 0.014  # dollars a picture
FAULTS = [
    {"do": "slow_answer", "on": "POST /ai/queue", "seconds": OPEN_S},
    {"do": "lose_answer", "chance": 0.03},
    {"do": "late_insertion", "chance": 0.02, "seconds": 1.0},
    {"do": "cut_body", "chance": 0.03},
]


class Cluster:
    """A scheduler and workers, as a user starts them; the workers alone have the key."""

    def __init__(self, home: Path, *, key: str = KEY) -> None:
        self.home = home
        strangers = ("OXEN", "XDG_", "COV_", "DASK_", "PYTHONDONTWRITE")
        keep = {name: value for name, value in os.environ.items() if not name.startswith(strangers)}
        mine = {"HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
        self.environ = keep | mine
        self.key = key
        self.address = ""
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._logs: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        self.start_scheduler()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()
        for log in self._logs:
            log.close()

    def _start(self, name: str, *arguments: str, **environ: str) -> subprocess.Popen[bytes]:
        log = (self.home / f"{name}.log").open("ab")
        self._logs.append(log)
        return subprocess.Popen(
            [str(BIN / "dask"), *arguments], env=self.environ | environ, cwd=self.home, stdout=log, stderr=log
        )

    def start_scheduler(self) -> None:
        """A scheduler listens, and its address is known; at the same place as the one before, if there was one."""
        said = self.home / "scheduler.json"
        said.unlink(missing_ok=True)
        port = self.address.rpartition(":")[2] or "0"
        self.scheduler = self._start(
            "scheduler", "scheduler", "--host", "127.0.0.1", "--port", port,
            "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
            "--scheduler-file", str(said),
        )  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while (not said.exists() or not said.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.address = json.loads(said.read_text())["address"]

    def start_worker(self) -> subprocess.Popen[bytes]:
        """One more worker, which runs one shard at a time."""
        worker = self._start(
            "workers", "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--death-timeout", "60", "--local-directory", str(self.home / "scratch"), OXEN_API_KEY=self.key,
        )  # fmt: skip
        self.workers.append(worker)
        return worker

    def run(self, *arguments: str, hub: str) -> subprocess.Popen[str]:
        """`oxenbatch run … --dask`, without a key."""
        return subprocess.Popen(
            [str(BIN / "oxenbatch"), "run", *arguments, "--dask", self.address, "--hub", hub],
            env=self.environ, cwd=self.home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


# -- speed --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """One run of a batch."""

    workers: int
    """0: without dask."""
    wall_s: float
    """Of the whole command."""
    jobs_a_second: float
    """From the first POST that the hub accepted to the last file."""
    calls: int
    generations: int
    peak: int


def measure(workers: int, rows: int, places: int, speed: float) -> Measured:
    """One batch by so many workers, with a hub of its own; AssertionError where it went wrong."""
    with tempfile.TemporaryDirectory(prefix="oxenbatch-scale-") as name, Cluster(Path(name)) as cluster:
        home, journal = cluster.home, cluster.home / "journal.jsonl"
        manifest = home / "batch.txt"
        manifest.write_text("".join(f"A picture of the number {n}, in oil\n" for n in range(rows)))
        with Sandbox(speed=speed, journal=journal, key=cluster.key) as hub:
            for _ in range(workers):
                cluster.start_worker()
            wait_for_workers(cluster, workers)
            told = [str(manifest), "--model", IMAGE, "-c", str(places), "-o", str(home / "out"), "--progress", "none"]
            began = time.monotonic()
            if workers:
                run = cluster.run(*told, "--shards", str(workers), hub=hub.url)
            else:
                run = subprocess.Popen(
                    [str(BIN / "oxenbatch"), "run", *told, "--hub", hub.url], stderr=subprocess.PIPE, text=True,
                    env=cluster.environ | {"OXEN_API_KEY": cluster.key},
                )  # fmt: skip
            said = run.communicate(timeout=600)[1]
            wall_s = time.monotonic() - began
            record = hub.record()
        assert run.returncode == 0, said  # noqa: S101
        posts = [e for line in journal.read_text().splitlines() if (e := json.loads(line))["do"] == "enqueue"]
        ended = [path.stat().st_mtime for path in (home / "out").glob("*.png")]
        assert len(ended) == rows == record["generations"], f"{len(ended)} files, {record['generations']} made"  # noqa: S101
        spent = max(ended) - min(post["at"] for post in posts)
        calls = sum(n for kind, n in record["calls"].items() if "_sandbox" not in kind)
        return Measured(workers, wall_s, rows / spent, calls, record["generations"], record["peak_active"])


def wait_for_workers(cluster: Cluster, count: int) -> None:
    """So many workers are connected to the scheduler."""
    if count:
        from distributed import Client  # noqa: PLC0415

        with Client(cluster.address, timeout=PATIENCE_S) as client:
            client.wait_for_workers(count, timeout=PATIENCE_S)


def speed_table(found: list[Measured], rows: int, places: int, speed: float) -> str:
    """The figures as Markdown."""
    lines = ["| workers | jobs a second | hub calls | calls a job | most active at once | whole command |",
             "|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    lines += [
        f"| {m.workers or 'none (plain `run`)'} | {m.jobs_a_second:.1f} | {m.calls} | {m.calls / m.generations:.2f}"
        f" | {m.peak} | {m.wall_s:.1f} s |"
        for m in found
    ]
    machine = f"{os.cpu_count()} cores for all of it, Python {platform.python_version()}"
    lines += ["", (f"`benchmarks/scale.py`, {time.strftime('%Y-%m-%d')}, {rows} images, `-c {places}`, hub at speed"
                  f" {speed:g}, {machine}, oxenbatch {__version__}.")]  # fmt: skip
    return "\n".join(lines)


# -- kills --------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What the kills hit, and what came of it."""

    kills: int = 0
    hit_posts: int = 0
    """Kills of a worker that had a POST open."""
    open_posts: int = 0
    generations: int = 0
    adopted: int = 0
    absent: int = 0
    twice: int = 0
    lost: int = 0
    torn: int = 0
    unknown: int = 0
    held: int = 0
    most_active: int = 0
    shards: int = 0
    exit_code: int = -1
    said: str = ""

    def ok(self) -> bool:
        """Whether all is as it must be."""
        wrong = self.twice + self.lost + self.torn + self.unknown + self.held
        return not wrong and not self.exit_code and self.most_active <= PLACES

    def table(self, spent_s: float, told: str) -> str:
        """The figures as Markdown; `told` are the command's words."""
        rows = {
            "worker kills": self.kills,
            "kills that hit an open POST": self.hit_posts,
            "open POSTs hit": self.open_posts,
            "sends adopted": self.adopted,
            "sends proved absent": self.absent,
            "shards": self.shards,
            "generations": self.generations,
            f"most active at once (allowed: {PLACES})": self.most_active,
            "paid twice": self.twice,
            "lost": self.lost,
            "torn": self.torn,
            "unknown to the ledgers": self.unknown,
            "held for a person": self.held,
        }
        lines = ["| counted | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in rows.items())]
        lines += ["", (f"`benchmarks/scale.py {told}`, {time.strftime('%Y-%m-%d')}, oxenbatch {__version__},"
                      f" {spent_s:.0f} s.")]  # fmt: skip
        return "\n".join(lines)


@dataclass
class Campaign:
    """One batch, some workers, and a hand that kills them."""

    home: Path
    kills: int
    rows: int
    seed: int
    workers: int
    shards: int
    tally: Tally = field(default_factory=Tally)

    def wanted(self) -> list[dict[str, object]]:
        """Most rows are all different; some are equal, and some ask for the same under different ids."""
        draw = random.Random(self.seed)
        rows: list[dict[str, object]] = []
        while len(rows) < self.rows:
            subject, kind = f"picture {len(rows)}", draw.random()
            if kind < 0.7:
                rows.append({"prompt": subject, "model": IMAGE})
            elif kind < 0.8:
                rows += [{"prompt": f"{subject}, again", "model": IMAGE} for _ in range(4)]
            elif kind < 0.9:
                rows.append({"prompt": f"{subject}, thrice", "model": IMAGE, "samples": 3})
            else:
                rows += [{"id": f"{subject}-{n}", "prompt": f"{subject}, by id", "model": IMAGE} for n in range(3)]
        return rows

    def run(self) -> Tally:
        """The batch is finished, in spite of all kills; what the hub says of it."""
        rows = self.wanted()
        manifest, faults, journal = (self.home / name for name in ("batch.jsonl", "faults.json", "journal.jsonl"))
        manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        most = 2 * PRICE * sum(int(str(row.get("samples", 1))) for row in rows)
        faults.write_text(json.dumps({"seed": str(self.seed), "rules": FAULTS}))
        with Sandbox(speed=50, journal=journal, faults=faults, key=KEY) as hub, Cluster(self.home) as cluster:
            for _ in range(self.workers):
                cluster.start_worker()
            wait_for_workers(cluster, self.workers)
            run = cluster.run(
                str(manifest), "-c", str(PLACES), "-o", str(self.home / "out"), "--shards", str(self.shards),
                "--max-cost", f"{most:.2f}", "--settle", f"{SETTLE_S:g}s", "--max-outage", "120s", "--progress", "none",
                hub=hub.url,
            )  # fmt: skip
            self._kill_workers(cluster, run, journal)
            faults.write_text("[]")
            self.tally.said = run.communicate(timeout=300)[1]
            self.tally.exit_code = run.returncode
            self._judge(rows, journal, hub)
        return self.tally

    def _kill_workers(self, cluster: Cluster, run: subprocess.Popen[str], journal: Path) -> None:
        draw = random.Random(self.seed + 1)
        while self.tally.kills < self.kills and run.poll() is None:
            size, deadline = journal.stat().st_size, time.monotonic() + draw.uniform(0.5, 4.0)
            while journal.stat().st_size == size and time.monotonic() < deadline and run.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, OPEN_S / 2))
            busy = {holder for holder in self._holders().values() if holder}
            at_work = [worker for worker in cluster.workers if worker.poll() is None and worker.pid in busy]
            if not at_work:
                continue
            worker = draw.choice(at_work)
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            self.tally.kills += 1
            self._classify(worker.pid)
            cluster.start_worker()

    def _holders(self) -> dict[Path, int]:
        """Each shard's folder, and the process that began to work there last."""
        holders: dict[Path, int] = {}
        for path in (self.home / "out" / "shards").glob("*/lease.json"):
            with suppress(ValueError, OSError):
                holders[path.parent] = int(json.loads(path.read_text())["holder"].rpartition(" ")[2] or 0)
        return holders

    def _classify(self, pid: int) -> None:
        """What the kill hit, by a copy of its shard's ledger as it was left."""
        for folder in [folder for folder, holder in self._holders().items() if holder == pid]:
            with tempfile.TemporaryDirectory(dir=self.home) as scratch, suppress(OSError, sqlite3.Error):
                for name in ("ledger.db", "ledger.db-wal"):
                    shutil.copyfile(folder / name, Path(scratch) / name)
                with closing(sqlite3.connect(Path(scratch) / "ledger.db")) as copy:
                    open_posts = count(copy, "submissions where state = 'intent'")
                self.tally.open_posts += open_posts
                self.tally.hit_posts += bool(open_posts)

    def _judge(self, rows: list[dict[str, Any]], journal: Path, hub: Sandbox) -> None:
        """The hub's journal, the ledgers and the files agree about every single result, or it is counted."""
        tally, out = self.tally, self.home / "out"
        wanted: Counter[str] = Counter()
        for row in rows:
            wanted[row["prompt"]] += row.get("samples", 1)
        time.sleep(1.1)  # what was to be inserted late is there
        posts = [e for line in journal.read_text().splitlines() if (e := json.loads(line))["do"] == "enqueue"]
        paid = Counter(str(p["body"]["prompt"]) for p in posts for g in p["generations"] if g["error"] is None)
        made = {g["id"] for post in posts for g in post["generations"]}
        record = hub.record()
        tally.generations, tally.most_active = len(made), record["peak_active"]
        tally.twice = (paid - wanted).total()
        tally.shards = len(self._holders())
        got: Counter[str] = Counter()
        seen: set[str] = set()
        with closing(sqlite3.connect(out / "ledger.db")) as merged:
            known = {row[0] for row in merged.execute("select generation_id from generations")}
            tally.unknown = len(made - known)
            tally.held = count(merged, "samples where state = 'held'")
            tally.adopted = count(merged, "events where event = 'found'", "distinct submission_id")
            tally.absent = count(merged, "events where event = 'absent'", "distinct submission_id")
            for prompt, file, sha256 in merged.execute(
                "select j.prompt, s.file, g.sha256 from samples s join jobs j on j.id = s.job_id"
                " join generations g on g.generation_id = s.generation_id where s.state = 'downloaded'"
            ):
                if sha256 in seen or not (out / file).is_file() or hash_of(out / file) != sha256:
                    tally.torn += 1
                    continue
                seen.add(sha256)
                got[prompt] += 1
        tally.lost = (wanted - got).total()


def count(ledger: sqlite3.Connection, what: str, of: str = "*") -> int:
    """How many there are."""
    return int(ledger.execute(f"select count({of}) from {what}").fetchone()[0])


# -- the command --------------------------------------------------------------------------------------------------


def write(mark: str, text: str) -> None:
    """The table stands in the page, between its markers."""
    marks = rf"(<!-- measured: {mark} -->\n).*?(<!-- /measured -->)"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(marks, lambda m: f"{m[1]}{text}\n{m[2]}", page, count=1, flags=re.DOTALL), encoding="utf-8")


def put(asked: argparse.Namespace, mark: str, text: str) -> None:
    """The table stands in the page, if that was asked for; else whoever wants that is told how."""
    if asked.write:
        write(mark, text)
    elif not asked.json:
        print("\nto put this into docs/scale.md, on a quiet machine: make scale WRITE=--write\n", file=sys.stderr)


def main() -> None:
    """The figures, and 1 where they are not as they must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="kill so many workers, instead of measuring speed")
    parser.add_argument("--rows", type=int, default=400, help="of the batch [400]")
    parser.add_argument("--workers", type=int, default=3, help="that are killed [3]")
    parser.add_argument("--shards", type=int, default=3, help="where workers are killed [3]")
    parser.add_argument("--places", type=int, default=32, help="`-c` of the whole, where speed is measured [32]")
    parser.add_argument("--speed", type=float, default=20.0, help="of the hub, where speed is measured [20]")
    parser.add_argument("--seed", type=int, default=20261124, help="of the rows, the kills and the faults")
    parser.add_argument("--json", action="store_true", help="the numbers on stdout, as JSON")
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    asked = parser.parse_args()
    if not asked.kills:
        found = [measure(workers, asked.rows, asked.places, asked.speed) for workers in (0, 1, 2, 4)]
        text = speed_table(found, asked.rows, asked.places, asked.speed)
        print(json.dumps([vars(m) for m in found]) if asked.json else text)
        put(asked, "workers", text)
        return
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="oxenbatch-scale-"))
    tally = Campaign(home, asked.kills, asked.rows, asked.seed, asked.workers, asked.shards).run()
    if tally.ok():
        shutil.rmtree(home)
    else:
        print(f"left for a look: {home}", file=sys.stderr)
    names = ("kills", "rows", "workers", "shards", "seed")
    given = [f"--{name} {vars(asked)[name]}" for name in names if vars(asked)[name] != parser.get_default(name)]
    text = tally.table(time.monotonic() - began, " ".join(given))
    print(json.dumps(vars(tally) | {"ok": tally.ok()}) if asked.json else text)
    if not tally.ok():
        print(tally.said, file=sys.stderr)
    put(asked, "worker kills", text)
    sys.exit(0 if tally.ok() else 1)


if __name__ == "__main__":
    main()
