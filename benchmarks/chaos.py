"""The campaign: `SIGKILL`s aimed at progress, with request faults on, and the hub's own journal as the judge.

A stand-in hub in a process of its own serves one batch after another. Each batch is run by the real command line
(`oxenbatch run`), killed, and started again, until it has finished in spite of that; then what the hub accepted is
held against what was wanted, the ledger and the files. Nothing paid twice, nothing lost, nothing torn, no generation
that the ledger does not know, never more active than allowed: or this ends with 1.

What is killed is a real process with its own ledger connection, sockets and threads. It is forked from this one, which
has imported the program before, so that a thousand starts do not cost a thousand imports; nothing else is shared, and
no run has any repair step. Aims, chosen at random for each life of the process:

- `answer`   the hub has just accepted a POST, and its answer is still on the way
- `commit`   the ledger has just been written to
- `part`     a `.part` has just appeared beside the results
- `rename`   a result has just got its name
- `moment`   any moment after the start, be it in the imports of a command or in the recovery from the last kill

Whatever it aimed at, a kill is counted by what it hit: the ledger is copied as the dead process left it, and read
there. Submissions in the state `intent` are POSTs that were open. All of this machine's own: loopback, and temporary
folders. It ends by itself: after `--kills`, or after `--seconds` at the latest and the last batch's own end.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from oxenbatch import __version__
from oxenbatch.download import hash_of
from oxenbatch.media import Damaged, inspect
from oxenbatch.sandbox import Sandbox

README = Path(__file__).parents[1] / "README.md"
IMAGE = "black-forest-labs-flux-2-klein-4b"
VIDEO = "kling-video-v2-6-pro-text-to-video"
RESULTS = {".png", ".jpg", ".webp", ".mp4"}
OWN_HOST = "bytedance-seedream-4-5"  # its results are behind the key
PLACES = 48
SPEED = 50  # an image takes longer than its POST's answer: an event that overtakes it would not be known as ours
SETTLE_S = 3.0  # the latest insertion comes after 1 s; the two clocks' whole seconds cost another
OPEN_S = 0.1  # so long a POST's answer takes
PATIENCE_S = 2.5  # an aim that has not come into sight by then gives way to `answer`, and that to any moment
QUIET_S = SETTLE_S + 2.0  # no file and no POST for so long: only what nobody heard of is left
LAST_RUN_S = 30.0  # a run that was asked to stop needs half of that at most
LAST_RUNS = 20
AIMS = {"answer": 60, "commit": 14, "part": 10, "rename": 12, "moment": 4}

FAULTS = [
    {"do": "slow_answer", "on": "POST /ai/queue", "seconds": OPEN_S},
    {"do": "lose_answer", "chance": 0.05},
    {"do": "die", "chance": 0.03},
    {"do": "late_insertion", "chance": 0.02, "seconds": 1.0},
    {"do": "server_error", "on": "POST /ai/queue", "html": True, "chance": 0.01},
    {"do": "server_error", "on": "POST /ai/queue", "html": True, "landed": True, "chance": 0.01},
    {"do": "rate_limit", "chance": 0.01, "seconds": 1},
    {"do": "broken_json", "chance": 0.01},
    {"do": "too_few", "chance": 0.005},
    {"do": "cut_body", "chance": 0.03},
    {"do": "cut_body", "chance": 0.01, "length": False},
    {"do": "expired_address", "chance": 0.02},
    {"do": "lose_event", "chance": 0.01},
    {"do": "cut_events", "chance": 0.2, "seconds": 2.0},
    {"do": "server_error", "on": "GET /ai/*", "chance": 0.01},
]


@dataclass
class Tally:
    """What the kills hit, and what came of it."""

    kills: int = 0
    batches: int = 0
    starts: int = 0
    generations: int = 0
    kills_that_hit_posts: int = 0
    open_posts: int = 0
    open_posts_landed: int = 0
    """Those of them that the hub had accepted, sooner or later."""
    uncertain: int = 0
    """Kills while an earlier kill's sends were not settled yet."""
    parts: int = 0
    """Kills that left a `.part`."""
    unrecorded: int = 0
    """Kills between a result's rename and its line in the ledger."""
    before_the_ledger: int = 0
    """Kills before there was a ledger that could be read."""
    adopted: int = 0
    absent: int = 0
    duplicates: int = 0
    lost: int = 0
    torn: int = 0
    unknown: int = 0
    """Generations at the hub that the ledger does not know."""
    held: int = 0
    most_active: int = 0
    aims: Counter[str] = field(default_factory=Counter)
    resumed_s: list[float] = field(default_factory=list)
    """From each kill to the next thing of value: a POST accepted, or a file in its place."""
    troubles: list[str] = field(default_factory=list)

    def ok(self) -> bool:
        """Whether everything that must be zero is."""
        wrong = self.duplicates + self.lost + self.torn + self.unknown + self.held
        return not wrong and not self.troubles and self.most_active <= PLACES

    def rows(self) -> list[tuple[str, object]]:
        """The table's lines."""
        resumed = [f"{s:.2f} s" for s in (median(self.resumed_s), quantiles(self.resumed_s, n=20)[-1])] if (
            len(self.resumed_s) > 1
        ) else ["?", "?"]  # fmt: skip
        return [
            ("kills", self.kills),
            ("kills that hit an open POST", self.kills_that_hit_posts),
            ("open POSTs hit", self.open_posts),
            ("of these, accepted by the hub", self.open_posts_landed),
            ("kills while older sends were unsettled", self.uncertain),
            ("kills that left a .part", self.parts),
            ("kills between rename and ledger", self.unrecorded),
            ("kills before there was a ledger", self.before_the_ledger),
            ("sends adopted", self.adopted),
            ("sends proved absent", self.absent),
            ("batches", self.batches),
            ("generations", self.generations),
            (f"most active at once (allowed: {PLACES})", self.most_active),
            ("from kill to progress, median", resumed[0]),
            ("from kill to progress, 95 %", resumed[1]),
            ("duplicates", self.duplicates),
            ("lost", self.lost),
            ("torn", self.torn),
            ("unknown to the ledger", self.unknown),
            ("held for a person", self.held),
        ]


# -- what is wanted -----------------------------------------------------------------------------------------------


def rows_of(batch: int, count: int, draw: random.Random) -> list[dict[str, object]]:
    """A batch's rows: most are all different, some are equal to others, some want several samples, some are videos."""
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        subject, kind = f"batch {batch}, picture {len(rows)}", draw.random()
        if kind < 0.62:
            rows.append({"prompt": subject, "model": IMAGE})
        elif kind < 0.74:
            rows += [{"prompt": f"{subject}, again", "model": IMAGE} for _ in range(4)]
        elif kind < 0.82:
            rows.append({"prompt": f"{subject}, thrice", "model": IMAGE, "samples": 3})
        elif kind < 0.88:
            rows.append({"prompt": f"{subject}, seeded", "model": IMAGE, "samples": 2, "seed": "auto"})
        elif kind < 0.92:
            rows.append({"prompt": subject, "model": VIDEO})
        elif kind < 0.94:
            rows += [{"prompt": f"{subject}, again", "model": VIDEO} for _ in range(3)]
        else:
            rows.append({"prompt": subject, "model": OWN_HOST})
    draw.shuffle(rows)
    return rows


def wanted_of(rows: list[dict[str, object]]) -> Counter[str]:
    """How many results each prompt is to have."""
    wanted: Counter[str] = Counter()
    for row in rows:
        samples = row.get("samples", 1)
        assert isinstance(samples, int)  # noqa: S101 - written above
        wanted[str(row["prompt"])] += samples
    return wanted


# -- lives --------------------------------------------------------------------------------------------------------


def preload() -> None:
    """All that a run imports, once for all forks."""
    for name in ("batch", "catalog", "hub", "manifest", "runner", "settings", "account", "cli.run", "cli.read",
                 "cli.progress", "ledger.schema"):  # fmt: skip
        importlib.import_module(f"oxenbatch.{name}")
    for name in ("httpx", "httpx_sse", "sqlite_utils", "jsonschema_rs", "asyncio", "platformdirs", "rich.progress"):
        importlib.import_module(name)


def start(arguments: list[str], environ: dict[str, str], log: Path) -> int:
    """`oxenbatch run …` in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.clear()
        os.environ.update(environ)
        sys.argv = ["oxenbatch", *arguments]
        from oxenbatch.cli import main  # noqa: PLC0415

        main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - the fork must end here, whatever happens
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int | None:
    """The exit code of a process that has ended by itself; None while it runs."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


class Eyes:
    """What can be seen of a run from outside, without touching its database: sizes, names and times."""

    def __init__(self, folder: Path, journal: Path) -> None:
        self.folder, self.journal = folder, journal
        self.names = self._names()
        self.posts = self.journal.stat().st_size
        self.written = self._written()
        self.posted_at = 0.0

    def _names(self) -> set[str]:
        with suppress(FileNotFoundError):
            return {path.name for path in self.folder.iterdir() if path.suffix in {*RESULTS, ".part"}}
        return set()

    def _written(self) -> int:
        with suppress(FileNotFoundError):
            return (self.folder / "ledger.db-wal").stat().st_mtime_ns
        return 0

    def look(self) -> set[str]:
        """The aims that have just come into sight."""
        seen: set[str] = set()
        now = time.monotonic()
        posts = self.journal.stat().st_size
        if posts != self.posts:
            seen.add("answer")
            self.posted_at = now
        names = self._names()
        new = names - self.names
        if any(name.endswith(".part") for name in new):
            seen.add("part")
        if any(not name.endswith(".part") for name in new):
            seen.add("rename")
        written = self._written()
        if written != self.written:
            seen.add("commit")
        self.posts, self.names, self.written = posts, names, written
        return seen

    def post_is_open(self) -> bool:
        """Whether the hub holds back an answer, as far as one can tell."""
        return time.monotonic() - self.posted_at < OPEN_S * 0.8


class Batch:
    """One manifest, from its first start to the comparison with the hub."""

    def __init__(self, number: int, rows: int, home: Path, hub: Sandbox, journal: Path, draw: random.Random) -> None:
        self.rows = rows_of(number, rows, draw)
        self.wanted = wanted_of(self.rows)
        self.home, self.hub, self.journal, self.draw = home, hub, journal, draw
        self.folder = home / f"out-{number}"
        self.log = home / f"log-{number}"
        self.began_at = journal.stat().st_size
        self.hit: set[int] = set()
        """Submissions that a kill found open."""
        manifest = home / f"batch-{number}.jsonl"
        manifest.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self.arguments = [
            "run", str(manifest), "--hub", hub.url, "-o", str(self.folder), "-c", str(PLACES),
            "--settle", f"{SETTLE_S:g}s", "--max-outage", "20s", "--progress", "none",
        ]  # fmt: skip
        mine = {"HOME": str(home), "OXEN_API_KEY": hub.key, "LANG": "C.UTF-8"}
        mine |= {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "DATA", "CONFIG", "STATE")}
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("OXEN", "XDG_", "COV_"))} | mine

    def live(self, tally: Tally, killed_at: float | None) -> float | None:
        """One life of the run: killed, and then (the moment of the kill); or ended by itself (None)."""
        aim = self.draw.choices(list(AIMS), list(AIMS.values()))[0]
        eyes = Eyes(self.folder, self.journal)
        child = start(self.arguments, self.environ, self.log)
        began = time.monotonic()
        tally.starts += 1
        late_s = self.draw.uniform(0, 1.0) if aim == "moment" else PATIENCE_S
        lag_s = self.draw.uniform(0, OPEN_S * 0.5) if aim == "answer" else self.draw.choice((0, 0, 0.002, 0.01))
        progressed = False
        while True:
            seen = eyes.look()
            now = time.monotonic()
            if seen & {"answer", "rename"} and not progressed:
                progressed = True
                if killed_at is not None:
                    tally.resumed_s.append(now - killed_at)
            # Anything but a moment is best hit while a POST is open as well: two things to get right at once.
            if aim in seen and (aim == "answer" or eyes.post_is_open()) and progressed:
                time.sleep(lag_s)
                break
            if now - began > late_s:
                if aim == "moment" or late_s > PATIENCE_S:
                    break
                aim, late_s = "answer", 3 * PATIENCE_S  # there are more of those
            if (code := ended(child)) is not None:
                self._check_exit(code, tally)
                return None
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        moment = time.monotonic()
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:  # it was faster
            self._check_exit(os.waitstatus_to_exitcode(status), tally)
            return None
        tally.kills += 1
        tally.aims[aim] += 1
        self._classify(tally)
        return moment

    def _check_exit(self, code: int, tally: Tally) -> None:
        if code:
            tally.troubles.append(f"a run of {self.folder.name} ended with {code}: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " | ".join(lines[-3:])

    def _classify(self, tally: Tally) -> None:
        """What the kill hit, by a copy of the ledger as it was left: only the next run may touch that itself."""
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        with tempfile.TemporaryDirectory(dir=self.home) as scratch:
            for name in {"ledger.db", "ledger.db-wal"} & names:
                shutil.copyfile(self.folder / name, Path(scratch) / name)
            try:
                with closing(sqlite3.connect(Path(scratch) / "ledger.db")) as copy:
                    intents = {row[0] for row in copy.execute("select id from submissions where state = 'intent'")}
                    unsettled = copy.execute("select count(*) from submissions where state = 'unknown'").fetchone()[0]
                    recorded = {row[0] for row in copy.execute("select file from samples where file is not null")}
            except sqlite3.OperationalError:  # no table yet
                tally.before_the_ledger += 1
                return
        self.hit |= intents
        tally.open_posts += len(intents)
        tally.kills_that_hit_posts += bool(intents)
        tally.uncertain += bool(unsettled)
        tally.parts += any(name.endswith(".part") for name in names)
        tally.unrecorded += bool({name for name in names if Path(name).suffix in RESULTS} - recorded)

    def finish(self, tally: Tally) -> None:
        """It runs until it is done, at a hub that has calmed down.

        An end whose event nobody heard is looked up in up to a minute. Instead of waiting for that, a run that has got
        no further for a while is asked to stop and started again: its first look is at everything.
        """
        for _ in range(LAST_RUNS):
            eyes = Eyes(self.folder, self.journal)
            child = start(self.arguments, self.environ, self.log)
            tally.starts += 1
            quiet_since = time.monotonic()
            stopped = False
            while (code := ended(child)) is None:
                now = time.monotonic()
                if eyes.look() & {"answer", "rename"}:
                    quiet_since = now
                if now - quiet_since > QUIET_S and not stopped:
                    os.kill(child, signal.SIGTERM)
                    stopped = True
                if now - quiet_since > QUIET_S + LAST_RUN_S:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.01)
            if not stopped or code != 128 + signal.SIGTERM:
                self._check_exit(code, tally)
                return
        tally.troubles.append(f"{self.folder.name} did not end in {LAST_RUNS} runs")

    # -- the oracle -----------------------------------------------------------------------------------------------

    def judge(self, tally: Tally) -> None:
        """The hub's journal, the ledger and the files agree about every single result, or it is counted."""
        deadline = time.monotonic() + 30
        while self.hub.record()["active"] and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.1)  # what was to be inserted late is there
        with self.journal.open("rb") as journal:
            journal.seek(self.began_at)
            posts = [entry for line in journal if (entry := json.loads(line))["do"] == "enqueue"]
        made: dict[str, str] = {g["id"]: str(post["body"]["prompt"]) for post in posts for g in post["generations"]}
        paid = Counter(str(post["body"]["prompt"]) for post in posts for g in post["generations"] if g["error"] is None)
        tally.batches += 1
        tally.generations += len(made)
        record = self.hub.record()
        tally.most_active = max(tally.most_active, record["peak_active"])
        if record["active"]:
            tally.troubles.append(f"{self.folder.name}: {record['active']} generations do not end")
        tally.duplicates += (paid - self.wanted).total()
        with closing(sqlite3.connect(self.folder / "ledger.db")) as ledger:
            known = {row[0] for row in ledger.execute("select generation_id from generations")}
            tally.unknown += len(set(made) - known)
            tally.held += ledger.execute("select count(*) from samples where state = 'held'").fetchone()[0]
            tally.adopted += _count(ledger, "found")
            tally.absent += _count(ledger, "absent")
            of = {row[0] for row in ledger.execute("select distinct submission_id from generations")}
            tally.open_posts_landed += len(self.hit & of)
            self._judge_files(ledger, made, tally)
        if self.wanted != paid:
            tally.troubles.append(f"{self.folder.name}: wanted and not paid {dict(self.wanted - paid)},"
                                  f" paid and not wanted {dict(paid - self.wanted)}")  # fmt: skip

    def _judge_files(self, ledger: sqlite3.Connection, made: dict[str, str], tally: Tally) -> None:
        """Every wanted result is one file, whole, the very bytes that the ledger knows, and of its own prompt."""
        got: Counter[str] = Counter()
        seen: set[str] = set()
        files: set[str] = set()
        for prompt, file, sha256, generation_id in ledger.execute(
            "select j.prompt, s.file, g.sha256, g.generation_id from samples s join jobs j on j.id = s.job_id"
            " join generations g on g.generation_id = s.generation_id where s.state = 'downloaded' and s.wanted = 1"
        ):
            path = self.folder / file
            files.add(file)
            try:
                inspect(path)
                whole = hash_of(path) == sha256
            except (OSError, Damaged):
                whole = False
            if not whole or sha256 in seen or made.get(generation_id) != prompt:
                tally.torn += 1
                tally.troubles.append(f"{self.folder.name}/{file} is not what it should be")
                continue
            seen.add(sha256)
            got[prompt] += 1
        tally.lost += (self.wanted - got).total()
        strays = {path.name for path in self.folder.iterdir() if path.suffix in RESULTS} - files
        if strays:
            tally.torn += len(strays)
            tally.troubles.append(f"{self.folder.name}: files that the ledger does not know: {sorted(strays)[:5]}")


def _count(ledger: sqlite3.Connection, event: str) -> int:
    """How many sends came to this end."""
    found = ledger.execute("select count(distinct submission_id) from events where event = ?", (event,)).fetchone()
    return int(found[0])


# -- the campaign -------------------------------------------------------------------------------------------------


def campaign(home: Path, *, kills: int, seconds: float, seed: int, rows: int, loud: bool) -> Tally:
    """So many kills, or as many as fit into the time; each batch that was begun is finished and judged."""
    tally = Tally()
    draw = random.Random(seed)
    faults, journal = home / "faults.json", home / "journal.jsonl"
    stormy = json.dumps({"seed": str(seed), "rules": FAULTS})
    faults.write_text(stormy)
    preload()
    began = time.monotonic()
    with Sandbox(speed=SPEED, journal=journal, faults=faults, seed=str(seed)) as hub:
        number = 0
        while tally.kills < kills and time.monotonic() - began < seconds and not tally.troubles:
            number += 1
            batch = Batch(number, rows, home, hub, journal, draw)
            killed_at: float | None = None
            while tally.kills < kills and time.monotonic() - began < seconds:
                killed_at = batch.live(tally, killed_at)
                if killed_at is None:
                    break
            if killed_at is not None:
                faults.write_text("[]")
                batch.finish(tally)
                faults.write_text(stormy)
            batch.judge(tally)
            if loud:
                spent = time.monotonic() - began
                print(f"{spent:6.0f} s: batch {number} is done, {tally.kills} kills, {tally.open_posts} open POSTs hit,"
                      f" {tally.duplicates} twice, {tally.lost} lost, {tally.torn} torn", file=sys.stderr)  # fmt: skip
    return tally


def write(tally: Tally, seed: int, spent: float) -> None:
    """The README's table of kills is this campaign's."""
    lines = ["| counted | |", "|---|--:|", *(f"| {name} | {value} |" for name, value in tally.rows())]
    day = time.strftime("%Y-%m-%d")
    lines += ["", f"`make chaos`, {day}, oxenbatch {__version__}, seed {seed}, {spent / 60:.0f} minutes."]
    page = README.read_text(encoding="utf-8")
    marks = r"(<!-- measured: kills -->\n).*?(<!-- /measured -->)"
    told = "\n".join(lines)
    README.write_text(
        re.sub(marks, lambda m: f"{m[1]}{told}\n{m[2]}", page, count=1, flags=re.DOTALL), encoding="utf-8"
    )


def main() -> None:
    """The table, and 1 where it is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000, help="so many [1000]")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no kill after so long [3600]")
    parser.add_argument("--seed", type=int, default=None, help="of the rows, the aims and the faults [drawn]")
    parser.add_argument("--rows", type=int, default=300, help="of one batch [300]")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it")
    parser.add_argument("--json", action="store_true", help="the numbers on stdout, as JSON")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 32)
    if asked.keep:
        asked.keep.mkdir(parents=True)
    else:
        scratch = tempfile.TemporaryDirectory(prefix="oxenbatch-chaos-")
    home = asked.keep or Path(scratch.name)
    try:
        began = time.monotonic()
        tally = campaign(home, kills=asked.kills, seconds=asked.seconds, seed=seed, rows=asked.rows,
                         loud=not asked.json)  # fmt: skip
        spent = time.monotonic() - began
    finally:
        if not asked.keep:
            scratch.cleanup()
    if asked.json:
        print(json.dumps(vars(tally) | {"ok": tally.ok(), "seed": seed, "spent_s": round(spent, 1)}))
    else:
        print("\n".join(f"{name:45} {value!s:>9}" for name, value in tally.rows()))
        print(f"aims: {', '.join(f'{aim} {n}' for aim, n in tally.aims.most_common())}; seed {seed}, {spent:.0f} s")
        print("\n".join(tally.troubles))
    if asked.write:
        write(tally, seed, spent)
    sys.exit(0 if tally.ok() else 1)


if __name__ == "__main__":
    main()
