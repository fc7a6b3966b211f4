"""What a generation costs in CPU, part by part, in a batch of 100,000, one part after another, with nothing beside it.

The real ledger, client and downloads, in the engine's own order, against the stand-in hub; what the kernel does for a
part (sockets, files, fsync) is in its time. In a run all parts share one interpreter, so a little is added for that.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oxenbatch import plan
from oxenbatch.clock import SystemClock
from oxenbatch.download import Blocking, Downloads
from oxenbatch.hub import Hub
from oxenbatch.jobs import Row
from oxenbatch.ledger import news, runs, sends, staging
from oxenbatch.ledger.book import Ledger
from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oxenbatch.wire import Generation

IMAGE = "black-forest-labs-flux-2-klein-4b"
TOGETHER = 4  # what shares a commit in a run of 64 at once: counted there
PARTS = {
    "intent": "chosen, and its intent recorded (16 at once)",
    "post": "its POST, and reading the answer",
    "answer": "the answer recorded",
    "end": "its end recorded",
    "fetch": "its file asked for, received, hashed and written (64 KB)",
    "settle": "the file synced, checked and renamed, its folder synced",
    "keep": "the file recorded",
}


class Spent:
    """CPU seconds of this thread, by part."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def on(self, part: str, less: str | None = None) -> Iterator[None]:
        """What the block takes is the part's, but for what it spends on `less` meanwhile."""
        before, other = time.thread_time(), self.seconds[less] if less else 0.0
        yield
        self.seconds[part] += time.thread_time() - before - ((self.seconds[less] - other) if less else 0.0)


class Here(Blocking):
    """Beside the loop is here: one thread, so that each part's time is its own."""

    def __init__(self, spent: Spent) -> None:
        self.spent = spent

    async def do(self, function: Callable[..., Any], *args: object) -> Any:
        """What the function returns."""
        with self.spent.on("settle"):
            return function(*args)


def stage(path: Path, jobs: int) -> Ledger:
    """A batch of so many jobs, none of them sent."""
    ledger = Ledger.open(path, create=True)
    runs.begin_batch(ledger, name="cost", hub="http://127.0.0.1", at=time.time(), on="2026-11-24")
    runs.begin_run(ledger, version="0", at=time.time())
    rows = (
        Row(model=IMAGE, parameters={"prompt": f"A picture of the number {n}, in oil"}, number=n)
        for n in range(1, jobs + 1)
    )
    terms = staging.Terms(at=time.time(), attempts=3, price=lambda _: None, takes_seed=lambda _: False)
    staging.stage(ledger, rows, "cost", terms)
    return ledger


def intents(ledger: Ledger) -> list[Any]:
    """What the send stage does, with room for as many as it opens POSTs for."""
    now = time.time()
    with ledger.immediate():
        active = sends.active_by_model(ledger)
        kinds = sends.kinds_due(ledger)
        room = plan.rooms([kind.model for kind in kinds], active, plan.Limits(concurrency=64))
        chosen = plan.picks(sends.due(ledger, [kinds], room, now), room, 64, plan.OPEN_POSTS, {})
        return sends.authorise(ledger, chosen, sends.Caps(64), at=now, run_id=1).intents


def together(ledger: Ledger, items: list[Any], act: Callable[[Any], object]) -> None:
    """Each is recorded, some in each commit."""
    for first in range(0, len(items), TOGETHER):
        with ledger.immediate():
            for item in items[first : first + TOGETHER]:
                with ledger.immediate():
                    act(item)


async def measure(ledger: Ledger, hub: Hub, folder: Path, count: int) -> dict[str, float]:
    """Microseconds of CPU that each part takes for one generation."""
    spent = Spent()
    downloads = Downloads(hub, folder, SystemClock(), Here(spent))
    made = 0
    while made < count:
        with spent.on("intent"):
            batch = intents(ledger)
        answers = []
        for intent in batch:
            with spent.on("post"):
                answers.append((intent, await hub.enqueue(intent)))
        with spent.on("answer"):
            together(ledger, answers, lambda pair: sends.record(ledger, pair[0].submission_id, pair[1], at=time.time()))
        ids = [answer.ids[0] for _, answer in answers]
        ends: list[Generation] = []
        while len(ends) < len(ids):
            await asyncio.sleep(0.02)
            ends = [g for g in await hub.history_since(0.0, set(ids)) if g.status == "succeeded"]
        with spent.on("end"):
            together(ledger, ends, lambda end: news.apply(ledger, [end], at=time.time()))
        todo, _ = news.fetchable(ledger, len(ids), now=time.time())
        kept = []
        for fetch in todo:
            with spent.on("fetch", less="settle"):
                kept.append((fetch, await downloads.fetch(fetch, fetch.url or "")))
        with spent.on("keep"):
            together(ledger, kept, lambda pair: news.keep(ledger, [pair], at=time.time()))
        made += len(batch)
    return {part: 1e6 * seconds / made for part, seconds in spent.seconds.items()}


def cost(jobs: int, count: int) -> dict[str, float]:
    """The same, in a folder and with a hub of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="oxenbatch-cost-") as name,
        Sandbox(life="0.01", file_bytes=65_536, workers=1000) as served,
        stage(Path(name) / "ledger.db", jobs) as ledger,
    ):

        async def within() -> dict[str, float]:
            async with Hub(served.url, served.key) as hub:
                return await measure(ledger, hub, Path(name), count)

        return asyncio.run(within()) | {"disk": disk(Path(name), count)}


def disk(folder: Path, count: int) -> float:
    """Microseconds of CPU that a file of 64 KB costs whoever creates it, writes it, syncs it, renames it, for good."""
    content = os.urandom(65_536)
    home = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    began = time.thread_time()
    for number in range(count):
        part = folder / f"{number}.part"
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.write(file, content)
        os.fsync(file)
        part.rename(folder / f"{number}.bin")
        os.fsync(home)
        os.close(file)
    took = time.thread_time() - began
    os.close(home)
    return 1e6 * took / count


def table(found: dict[str, float]) -> list[str]:
    """As Markdown."""
    lines = ["| part | µs of CPU |", "|---|--:|"]
    lines += [f"| {words} | {found[part]:.0f} |" for part, words in PARTS.items()]
    lines.append(f"| together | {sum(found[part] for part in PARTS):.0f} |")
    lines.append(f"| of these the disk's own: a file created, written, synced, renamed | {found['disk']:.0f} |")
    return lines


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000, help="in the ledger [100000]")
    parser.add_argument("--count", type=int, default=1000, help="generations that are made [1000]")
    parser.add_argument("--json", action="store_true", help="as JSON, on stdout")
    asked = parser.parse_args()
    found = cost(asked.jobs, asked.count)
    print(json.dumps(found) if asked.json else "\n".join(table(found)))


if __name__ == "__main__":
    main()
