"""The yardstick: how fast a reckless client is on the same work, tuned by hand, which may lose or pay twice anything.

aiohttp, one task a prompt, ends by the hub's events, one list poll for all that events leave out, no ledger, no
retries, no checks. With `--fsync` each file is also synced, renamed, and its folder synced: nothing more. What a
client with guarantees adds to this is its waste. `race.py` runs the two in turn.

Usage: limit.py --hub URL -o DIR -c PLACES --model ID [--fsync] PROMPTS.txt
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import aiohttp

POLL_S = 3.0  # the reference polls images every 2 to 5 s
PAGE = 1000


class Limit:
    """One reckless run."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.api = f"{asked.hub}/api"
        self.out = Path(asked.output)
        self.ends: dict[str, asyncio.Future[str | None]] = {}
        """Where each generation's file is, once it has ended; None: it failed."""
        self.heard = False
        self.failed = 0

    async def run(self) -> None:
        """Every prompt's file is in the folder."""
        self.out.mkdir(parents=True, exist_ok=True)
        key = {"Authorization": f"Bearer {self.asked.key}"}
        patience = aiohttp.ClientTimeout(total=None)
        self.folder = os.open(self.out, os.O_RDONLY | os.O_DIRECTORY)
        async with (
            aiohttp.ClientSession(headers=key, timeout=patience, connector=aiohttp.TCPConnector(limit=0)) as self.keyed,
            aiohttp.ClientSession(timeout=patience, connector=aiohttp.TCPConnector(limit=0)) as self.files,
            self.keyed.get(f"{self.api}/events") as stream,
        ):
            beside = [asyncio.create_task(self.listen(stream)), asyncio.create_task(self.poll())]
            places = asyncio.Semaphore(self.asked.concurrency)
            bodies = enumerate(self.bodies())
            async with asyncio.TaskGroup() as group:
                for number, body in bodies:
                    await places.acquire()
                    group.create_task(self.one(number, body, places))
            for task in beside:
                task.cancel()

    def bodies(self) -> list[bytes]:
        """Each request's JSON, in the order of the file."""
        lines = Path(self.asked.prompts).read_text().splitlines()
        rows = [json.loads(line) if line.startswith("{") else {"prompt": line} for line in lines]
        return [json.dumps({"model": self.asked.model, "num_generations": 1} | row).encode() for row in rows]

    async def one(self, number: int, body: bytes, places: asyncio.Semaphore) -> None:
        """The prompt's file is in the folder, or it is counted as failed."""
        headers = {"Content-Type": "application/json"}
        async with self.keyed.post(f"{self.api}/ai/queue", data=body, headers=headers) as answer:
            if answer.status != 200:
                self.failed += 1
                places.release()
                return
            generation = (await answer.json())["generations"][0]["generation_id"]
        url = await self.end_of(generation)
        places.release()
        if url is None:
            self.failed += 1
            return
        await self.fetch(url, number)

    def end_of(self, generation: str) -> asyncio.Future[str | None]:
        """The future of its end, which may have come before the POST's answer."""
        return self.ends.setdefault(generation, asyncio.get_running_loop().create_future())

    def ended(self, generation: str, url: str | None) -> None:
        """The generation has ended, however often one hears of it."""
        future = self.end_of(generation)
        if not future.done():
            future.set_result(url)

    async def listen(self, stream: aiohttp.ClientResponse) -> None:
        """Ends are known when the hub says them."""
        async for line in stream.content:
            if line.startswith(b"data: ") and b'"status"' in line:
                news = json.loads(line[6:])
                self.heard = True
                self.ended(news["generation_id"], news.get("url"))

    async def poll(self) -> None:
        """While the events say nothing, pages of the history tell what has ended."""
        while True:
            await asyncio.sleep(POLL_S)
            if self.heard:
                continue
            async with self.keyed.get(f"{self.api}/ai/generations?page_size={PAGE}") as answer:
                for row in (await answer.json())["generations"]:
                    if row["status"] not in ("queued", "processing"):
                        self.ended(row["generation_id"], row["result_url"])

    async def fetch(self, url: str, number: int) -> None:
        """The file's bytes are in the folder; with `--fsync`, for good."""
        name = self.out / f"{number}.bin"
        part = name.with_suffix(".part") if self.asked.fsync else name
        async with self.files.get(url) as answer:
            with part.open("wb", buffering=0) as file:
                async for chunk in answer.content.iter_any():
                    file.write(chunk)
                if self.asked.fsync:
                    await asyncio.to_thread(self.settle, file.fileno(), part, name)

    def settle(self, file: int, part: Path, name: Path) -> None:
        """The file is durable, under its name."""
        os.fsync(file)
        part.rename(name)
        os.fsync(self.folder)


def main() -> None:
    """Run once; the number of failures, if any, is the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", help="a prompt a line, or a JSON object of parameters a line")
    parser.add_argument("--hub", required=True)
    parser.add_argument("--key", default=os.environ.get("OXEN_API_KEY", "sandbox"))
    parser.add_argument("--model", required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("-c", "--concurrency", type=int, default=16)
    parser.add_argument("--fsync", action="store_true")
    limit = Limit(parser.parse_args())
    asyncio.run(limit.run())
    sys.exit(min(limit.failed, 100))


if __name__ == "__main__":
    main()
