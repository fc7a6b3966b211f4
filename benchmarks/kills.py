"""Kill a run again and again with SIGKILL, let the last one finish, and count what was made and paid for too much.

The hub is a process of its own and survives; it holds every answer to a POST back for a moment, so that many kills hit
a POST that was sent and not answered. The count is the hub's own, never the client's. A campaign says how many kills
hit such a POST, how many of those were found at the hub and adopted, and how many were proved never to have landed:
kills that hit nothing prove nothing. `--write` puts the line into README.md.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from oxenbatch import __version__
from oxenbatch.sandbox import Sandbox

README = Path(__file__).parent.parent / "README.md"
MODEL = "black-forest-labs-flux-2-klein-4b"
HELD_BACK_S = 0.15  # an answer's delay: long enough to be hit, short enough that a run gets on
SETTLE_S = 3.0  # on loopback nothing is under way longer
PATIENCE_S = 120.0


def start(folder: Path, hub: Sandbox, places: int) -> subprocess.Popen[bytes]:
    """A run over the batch, in a process of its own."""
    command = [sys.executable, "-m", "oxenbatch", "run", str(folder / "kills.txt"), "--hub", hub.url, "-q"]
    command += ["-o", str(folder / "out"), "--model", MODEL, "-c", str(places), "--settle", f"{SETTLE_S}s"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OXEN", "COV_", "PYTHONDONTWRITE"))}
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    return subprocess.Popen(command, env=environ | home | {"OXEN_API_KEY": hub.key}, stderr=subprocess.DEVNULL)


def ask(folder: Path, query: str) -> list[tuple[object, ...]]:
    """The ledger's rows; nothing where there is no ledger yet."""
    try:
        with sqlite3.connect(f"file:{folder / 'out' / 'ledger.db'}?mode=ro", uri=True, timeout=5) as ledger:
            return ledger.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def campaign(rows: int, places: int, kills: int, seed: int) -> dict[str, int]:
    """One batch, killed that often; what came of it."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="oxenbatch-kills-") as name:
        folder = Path(name)
        (folder / "kills.txt").write_text("".join(f"A picture of the number {n}\n" for n in range(rows)))
        faults = folder / "faults.json"
        faults.write_text(json.dumps([{"do": "slow_answer", "on": "POST /ai/queue", "seconds": HELD_BACK_S}]))
        with Sandbox(speed=60, faults=faults) as hub:
            done = hits = 0
            while done < kills:
                before = hub.record()["posts"]
                run = start(folder, hub, places)
                step = chance.randint(1, max(1, 2 * rows // (kills + 1) - 1))
                while run.poll() is None and hub.record()["posts"] < before + step:
                    time.sleep(0.002)
                if run.poll() is not None:
                    break  # it had finished: there is nothing left to kill
                time.sleep(chance.random() * HELD_BACK_S)
                run.kill()
                run.wait()
                done += 1
                hits += bool(ask(folder, "select 1 from submissions where state = 'intent' limit 1"))
            code = start(folder, hub, places).wait(PATIENCE_S)
            record = hub.record()
        events = Counter(str(row[0]) for row in ask(folder, "select event from events"))
        files = list((folder / "out").glob("*.png"))
        return {
            "rows": rows, "kills": done, "hit an open POST": hits, "adopted": events["found"],
            "proved absent": events["absent"], "generations": record["generations"],
            "paid too much": record["generations"] - rows, "files": len(files), "lost": rows - len(files),
            "exit": code,
        }  # fmt: skip


def main() -> None:
    """Run the campaigns, print what each came to and the sum; exit 1 where anything was lost or paid twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=3)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--places", type=int, default=16)
    parser.add_argument("--kills", type=int, default=12, help="of each campaign")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the sum into README.md")
    asked = parser.parse_args()
    total: Counter[str] = Counter()
    for number in range(asked.campaigns):
        found = campaign(asked.rows, asked.places, asked.kills, asked.seed + number)
        print(json.dumps(found), file=sys.stderr)
        total.update(found)
    line = (
        f"{total['rows']} files wanted, {asked.places} at once, killed {total['kills']} times with SIGKILL."
        f" {total['hit an open POST']} kills hit POSTs that were open; {total['adopted']} generations were found at the"
        f" hub and adopted, {total['proved absent']} were proved never to have landed. Paid too much:"
        f" **{total['paid too much']}**. Lost: **{total['lost']}**.\n\n"
        f"`python benchmarks/kills.py`, {dt.date.today()}, oxenbatch {__version__}."  # noqa: DTZ011
    )
    print(line)
    if asked.write:
        marks = r"(<!-- measured: kills -->\n).*?(<!-- /measured -->)"
        page = README.read_text(encoding="utf-8")
        README.write_text(re.sub(marks, lambda m: f"{m[1]}{line}\n{m[2]}", page, count=1, flags=re.DOTALL))
    sys.exit(bool(total["paid too much"] or total["lost"] or total["exit"]))


if __name__ == "__main__":
    main()
