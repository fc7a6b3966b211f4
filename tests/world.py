"""A world in virtual time: the real engine, the real ledger on disk, the stand-in hub in process, and no waiting.

An hour's wait takes a millisecond. The process can be killed at any of its effects: every request to the ledger, every
byte to or from the hub and every step on disk is a numbered point, before and after it happens. The oracle is the
stand-in's own record, never what the client says.

What is killed here is a process, never the machine, so nothing hangs on fsync: the harness keeps its folders in memory
where it can (`scratch`), and lets SQLite be quick. Power cuts are another story, with files of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import selectors
import struct
import tempfile
import zlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock
from urllib.parse import unquote

import httpx
from sandbox_kit import IMAGE

from oxenbatch import __version__, download
from oxenbatch.dataset import metadata, replacing
from oxenbatch.folder import want_lost_again
from oxenbatch.hub import Hub
from oxenbatch.jobs import InputFile, Row
from oxenbatch.ledger import reads, results, runs, sends, staging
from oxenbatch.ledger.book import Ledger
from oxenbatch.manifest.inputs import InputFiles, Marks
from oxenbatch.plan import Limits
from oxenbatch.runner import ModelFacts, Runner, Summary
from oxenbatch.sandbox import files
from oxenbatch.sandbox.faults import Faults
from oxenbatch.sandbox.media import render
from oxenbatch.sandbox.messages import Request
from oxenbatch.sandbox.state import HubState

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from oxenbatch.reserve import Reserve
    from oxenbatch.sandbox.clockwork import Generation
    from oxenbatch.wire import InputPlace, Target

R = TypeVar("R")
BEGIN = 1_800_000_000.0
VIDEO = "kling-video-v2-6-pro-text-to-video"


class Killed(BaseException):
    """The process is gone: nothing of it has an effect any more."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, it is later."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits and nothing will ever happen")
            self.world.now += max(0.0, timeout)
            if self.world.now > self.world.give_up_at:
                raise RuntimeError("the run does not end")
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self, world: World) -> None:
        super().__init__(_JumpingSelector(world))
        self._world = world

    def time(self) -> float:
        return self._world.now


class World:
    """A hub, a folder and a clock that outlive any number of runs, finished or killed."""

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Row],
        *,
        faults: Sequence[dict[str, Any]] = (),
        limits: Limits | None = None,
        speed: float = 1.0,
        latency_s: float = 0.02,
        seed: str = "0",
        hub_options: dict[str, Any] | None = None,
        target: Target | None = None,
        inputs: InputPlace | None = None,
        inputs_root: Path | None = None,
        models: Mapping[str, ModelFacts] | None = None,
        price: Callable[[Row], Decimal | None] = lambda _: Decimal("0.014"),
        reserve: Reserve | None = None,
        jitter: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows = list(rows)
        self.limits = limits or Limits(concurrency=4, settle_s=20.0)
        self.latency_s = latency_s
        self.now = 1000.0
        self.give_up_at = float("inf")
        self.key = "sandbox"
        self.network = True
        self.wall_is_off_by = 0.0
        """Seconds by which this machine's clock is wrong; the hub's own is always right."""
        self.on_request: Callable[[Request], None] = lambda _: None
        """Called just before the hub hears of a request."""
        self.target, self.price, self.reserve, self.jitter = target, price, reserve, jitter
        self.inputs, self.inputs_root = inputs, inputs_root
        self.models = models or {IMAGE: ModelFacts(), VIDEO: ModelFacts(video=True)}
        self.seed = seed
        self.runs = 0
        self.hub = HubState(
            clock=self.hub_time,
            speed=speed,
            faults=Faults(faults, seed=seed),
            seed=seed,
            base_url="http://127.0.0.1:8000",
            files_url="http://127.0.0.1:8001",
            **(hub_options or {}),
        )
        self.points: list[str] = []
        """Every effect of the last run, in order, by name."""
        self.kill_at: int | None = None
        self.dead = False
        self.asked: Counter[str] = Counter()
        """How often the engine has asked each thing of its ledger, over all runs."""

    # -- a clock ------------------------------------------------------------------------------------------------------

    def hub_time(self) -> float:
        return BEGIN + self.now

    def wall(self) -> float:
        return self.hub_time() + self.wall_is_off_by

    def monotonic(self) -> float:
        return self.now

    def point(self, name: str) -> None:
        """One effect is about to happen, or has just happened; here the process may be killed."""
        if self.dead:
            raise Killed
        self.points.append(name)
        if self.kill_at is not None and len(self.points) > self.kill_at:
            self.dead = True
            raise Killed

    # -- runs ---------------------------------------------------------------------------------------------------------

    @property
    def ledger_path(self) -> Path:
        return self.folder / "ledger.db"

    def run(
        self,
        *,
        kill_at: int | None = None,
        limits: Limits | None = None,
        during: Callable[[Runner, World], Coroutine[Any, Any, None]] | None = None,
        within_s: float = 6 * 3600.0,
    ) -> Summary | None:
        """One run of the engine over the batch, from opening the ledger to its summary; None where it was killed."""
        self.points, self.kill_at, self.dead = [], kill_at, False
        self.give_up_at = self.now + within_s
        self.runs += 1
        random.seed(f"{self.seed}/{self.runs}")  # tenacity draws its pauses from there, and a seed must tell all
        loop = _JumpingLoop(self)
        try:
            with self._harnessed():
                return loop.run_until_complete(self._run(limits or self.limits, during))
        except (Exception, Killed, BaseExceptionGroup):
            if not self.dead:
                raise
            self.assert_nothing_torn()
            return None
        finally:
            self.dead, self.give_up_at = True, float("inf")
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(_quietly(asyncio.all_tasks(loop)))
            loop.close()
            self.dead = False
            self.now += 3.0  # somebody notices, and starts it again

    @contextlib.contextmanager
    def _harnessed(self) -> Iterator[None]:
        """Steps that the engine takes by itself are points too, and what costs time and proves nothing is left out."""
        fsync_folder, inspect, on_disk = download.fsync_folder, download.inspect, results.on_disk

        def inspect_there(path: Path) -> Any:
            media = inspect(path)
            self.point("the part is sound, and not renamed yet")
            return media

        def fsync_there(folder: Path) -> None:
            self.point("the file is renamed, and its folder not durable yet")
            fsync_folder(folder)

        def fsync_metadata(folder: Path) -> None:
            self.point("metadata.jsonl is renamed")
            fsync_folder(folder)

        def on_disk_there(ledger: Ledger) -> Iterator[dict[str, Any]]:
            for result in on_disk(ledger):
                yield result
                self.point("a line of metadata.jsonl is written")

        with ExitStack() as patches:
            for where, name, stands_in in (
                (download, "inspect", inspect_there),
                (download, "fsync_folder", fsync_there),
                (replacing, "fsync_folder", fsync_metadata),
                (results, "on_disk", on_disk_there),
                (httpx, "create_ssl_context", _tls),
                (files, "render", small),
            ):
                patches.enter_context(mock.patch.object(where, name, stands_in))
            yield

    def _write(self, ledger: Ledger, request: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        """One commit before the run proper, with a point before and after it."""
        with ledger.immediate():
            answer = request(ledger, *args, **kwargs)
            self.point(f"before {request.__name__} is on disk")
        self.point(f"after {request.__name__} is on disk")
        return answer

    async def _run(self, limits: Limits, during: Any) -> Summary:
        self.point("before the ledger is opened")
        with open_quickly(self.ledger_path, create=True) as ledger:
            self.point("after the ledger is opened")
            self._open(ledger, limits)
            run_id = self._write(ledger, runs.begin_run, version=__version__, at=self.wall())
            clerk = _Clerk(self, ledger)
            ticking = asyncio.create_task(self._keep_time())
            async with Hub(
                self.hub.base_url,
                self.key,
                clock=self,
                target=self.target,
                inputs=self.inputs,
                post_timeout_s=limits.post_timeout_s,
                transport=_Wire(self),
            ) as hub:
                runner = Runner(
                    clerk=clerk,
                    hub=hub,
                    folder=self.folder,
                    limits=limits,
                    run_id=run_id,
                    models=self.models,
                    clock=self,
                    blocking=_Disk(self),
                    reserve=self.reserve,
                    inputs_root=self.inputs_root,
                    jitter=self.jitter,
                )
                other = asyncio.create_task(during(runner, self)) if during else None
                summary = await runner.run()
                if other:
                    await other
            ticking.cancel()
            self._write(ledger, runs.end_run, run_id, exit_code=summary.exit_code, at=self.wall())
            metadata.write_metadata(ledger, self.folder)
            self.point("after metadata.jsonl is written")
            return summary

    def _open(self, ledger: Ledger, limits: Limits) -> None:
        """The ledger is in step with the rows and with the folder, as `batch` brings it there."""
        now, fingerprint = self.wall(), repr(self.rows)
        self._write(ledger, runs.begin_batch, name="world", hub="world", at=now, on="2026-11-22")
        if (known := reads.batch(ledger)) is None or known.fingerprint != fingerprint:
            terms = staging.Terms(at=now, attempts=limits.attempts, price=self.price, takes_seed=lambda _: True)
            self._write(ledger, staging.stage, self.rows, fingerprint, terms)
        self._write(ledger, want_lost_again, self.folder, at=now)
        self._write(ledger, sends.allow_attempts, limits.attempts)

    async def _keep_time(self) -> None:
        """What is due at the hub happens when it is due, although nobody asks."""
        while True:
            at = self.hub.next_change_at()
            self._hub_changed = asyncio.Event()
            wait = 3600.0 if at is None else max(0.0, at - self.hub_time())
            try:
                async with asyncio.timeout(wait + 0.001):
                    await self._hub_changed.wait()
            except TimeoutError:
                self.hub.advance()

    # -- the oracle ---------------------------------------------------------------------------------------------------

    def made(self) -> Counter[str]:
        """How many generations the hub was ever asked for, by prompt."""
        return Counter(str(g.parameters.get("prompt")) for g in self.hub.generations.values())

    def charged(self) -> int:
        """How many generations somebody pays for."""
        self.hub.advance()
        return sum(g.cost is not None for g in self.hub.generations.values())

    def posts(self) -> int:
        """How many POSTs the hub has heard of, whatever it answered."""
        return self.hub.calls["POST /ai/queue"]

    def states(self) -> Counter[str]:
        """How many wanted samples the ledger has in each state."""
        with open_quickly(self.ledger_path) as ledger:
            return Counter({str(state): n for state, n in reads.counts(ledger).items() if n})

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the ledger."""
        with open_quickly(self.ledger_path) as ledger:
            return [tuple(row) for row in ledger.conn.execute(sql, values).fetchall()]

    def wanted(self) -> Counter[str]:
        """How many files are wanted, by prompt."""
        return Counter(str(row.parameters["prompt"]) for row in self.rows for _ in range(row.samples))

    def paid(self) -> Counter[str]:
        """How many generations somebody pays for, by prompt."""
        self.hub.advance()
        return Counter(str(g.parameters.get("prompt")) for g in self.hub.generations.values() if g.cost is not None)

    def assert_whole(self) -> None:
        """Every wanted sample is on disk, whole, made once; nothing that the hub made is unknown to the ledger."""
        wanted, paid = self.wanted(), self.paid()
        assert paid == wanted, f"lost {wanted - paid}, twice {paid - wanted}"
        states = self.states()
        assert states == {"downloaded": wanted.total()}, f"{dict(states)} of {wanted.total()} wanted"
        self.assert_limits()
        self.assert_known()
        self.assert_files()

    def assert_limits(self, *, beside: int = 0) -> None:
        """Never more active at the hub than allowed (`beside` so many), and the key went nowhere else."""
        assert self.hub.peak_active <= self.limits.concurrency + beside, f"{self.hub.peak_active} were active at once"
        assert not self.hub.key_leaks

    def assert_nothing_torn(self) -> None:
        """Whatever lies under a result's name is whole, whether or not the ledger has come to know it."""
        whole = [small(generation)[1] for generation in self.hub.generations.values()]
        for path in self.results():
            body = path.read_bytes()
            assert any(body.startswith(true) for true in whole), f"{path.name} is torn"

    def results(self) -> list[Path]:
        """Every file that passes for a result."""
        found = (path for path in self.folder.rglob("*") if path.suffix in {".png", ".mp4"})
        return [path for path in found if "set-aside" not in path.parts]

    def assert_known(self) -> None:
        """The hub has made no generation that the ledger does not know."""
        known = {row[0] for row in self.query("select generation_id from generations")}
        assert set(self.hub.generations) <= known, "the hub has made what the ledger does not know"

    def assert_files(self) -> None:
        """What the ledger says is on disk is there, byte for byte what the hub has made, each its own sample's."""
        with open_quickly(self.ledger_path) as ledger:
            there = list(results.on_disk(ledger))
        for result in there:
            made = self.hub.generations[result["generation_id"]]
            body, true = (self.folder / result["file"]).read_bytes(), small(made)[1]
            # What follows the end that the file declares is tolerated, see `oxenbatch.media`.
            assert body.startswith(true), f"{result['file']} is not whole"
            assert made.parameters["prompt"] == result["parameters"]["prompt"], "somebody else's picture"
        on_disk = {str(path.relative_to(self.folder)) for path in self.results()}
        assert on_disk == {result["file"] for result in there}, "a file that the ledger does not know"
        assert len({result["generation_id"] for result in there}) == len(there)


def open_quickly(path: Path, *, create: bool = False) -> Ledger:
    """The real ledger, but that its commits do not wait for a disk.

    A killed process loses nothing that it has written, with or without fsync: the kernel has it. Only here may that be.
    """
    ledger = Ledger.open(path, create=create)
    ledger.conn.execute("pragma synchronous = off")
    return ledger


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for a while, in memory where the machine has room for that."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - it is a folder's name, not a file's
    with tempfile.TemporaryDirectory(prefix="oxenbatch-", dir=memory) as folder:
        yield Path(folder)


@cache
def _tls() -> ssl.SSLContext:
    return httpx._config.create_ssl_context()  # the one and only: 40 ms each, and here nothing is ever encrypted


def small(generation: Generation) -> tuple[str, bytes]:
    """The generation's file, with pictures that are quickly drawn: still each one its own."""
    if generation.media_type == "video":
        return render(generation)

    return "image/png", picture(b"generation\0" + generation.id.encode())


def picture(words: bytes) -> bytes:
    """A small PNG with these words in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    dots = zlib.compress(bytes(9 * 8))
    parts = (chunk(b"IHDR", header), chunk(b"tEXt", words), chunk(b"IDAT", dots), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_file(row: Row, root: Path) -> Row:
    """The row with a picture of its own, which lies in the folder `root`."""
    path = root / f"{row.number}.png"
    path.write_bytes(picture(b"number\0%d" % row.number))
    found: list[InputFile] = []
    value = InputFiles(root).replaced([path.name], Marks("image"), found)
    parameters = {**row.parameters, "input_images": value}
    return replace(row, parameters=parameters, inputs=tuple(found), written={"input_images": [path.name]})


async def _quietly(tasks: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


class _Clerk:
    """The ledger, with a point before and after each commit that changes it."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.world, self.ledger = world, ledger

    async def do(self, request: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        name = request.__name__
        self.world.asked[name] += 1
        await asyncio.sleep(0)
        if self.world.dead:
            raise Killed
        before = self.ledger.conn.total_changes
        with self.ledger.immediate():
            answer = request(self.ledger, *args, **kwargs)
            if wrote := self.ledger.conn.total_changes != before:
                self.world.point(f"before {name} is on disk")
        if wrote:
            self.world.point(f"after {name} is on disk")
        await asyncio.sleep(0)
        return answer


class _Disk:
    """Steps on disk, with a point before and after each."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def do(self, function: Callable[..., R], *args: object) -> R:
        self.world.point(f"before {function.__name__}")
        answer = function(*args)
        self.world.point(f"after {function.__name__}")
        await asyncio.sleep(0)
        return answer


class _Wire(httpx.AsyncBaseTransport):
    """httpx's own interface, with the hub's state behind it instead of a socket."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        world = self.world
        body = await request.aread()
        timeout = request.extensions["timeout"]
        posts = request.method in ("POST", "PUT")
        if posts:
            world.point(f"before the {request.method} leaves")
        await asyncio.sleep(world.latency_s)
        if not world.network:
            raise httpx.ConnectError("no network", request=request)
        if world.dead:
            raise Killed
        in_a_file = "/files/" in request.url.path
        asked = Request(
            method=request.method,
            path=unquote(request.url.path),
            query=list(request.url.params.multi_items()),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body,
            origin="files" if str(request.url).startswith(world.hub.files_url) else "api",
        )
        world.on_request(asked)
        answer = world.hub.handle(asked)
        world._hub_changed.set()
        if posts:
            world.point(f"after the {request.method} landed")
        if answer.delay_s > timeout["read"]:
            await asyncio.sleep(timeout["read"])
            raise httpx.ReadTimeout("silence", request=request)
        await asyncio.sleep(world.latency_s + answer.delay_s)
        if not world.network:
            raise httpx.ReadError("the network is gone", request=request)
        if posts:
            world.point("before the answer is read")
        if answer.cut in ("before", "after"):
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        if request.method == "HEAD":
            return httpx.Response(answer.status, headers=answer.headers, request=request)
        stream = _Stream(world, answer) if answer.stream else _Body(world, answer, timeout["read"], in_a_file)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream, request=request)


class _Body(httpx.AsyncByteStream):
    def __init__(self, world: World, answer: Any, read_timeout_s: float, in_a_file: bool) -> None:
        self.world, self.answer, self.read_timeout_s, self.in_a_file = world, answer, read_timeout_s, in_a_file

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body = self.answer.body
        said = self.answer.headers.get("content-length")
        if self.answer.cut:
            yield body[: self.answer.cut_at]
            if self.answer.cut == "stall":
                await asyncio.sleep(self.read_timeout_s)
                raise httpx.ReadTimeout("silence")
            if said is None:
                return  # without a length, a cut body looks like a whole one
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        if said is not None and int(said) > len(body):
            yield body
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")
        body = body if said is None else body[: int(said)]
        if not self.in_a_file:
            yield body
            return
        yield body[: len(body) // 2]
        self.world.point("half of a file has arrived")
        yield body[len(body) // 2 :]


class _Stream(httpx.AsyncByteStream):
    def __init__(self, world: World, answer: Any) -> None:
        self.world, self.subscription = world, answer.stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        woken = asyncio.Event()
        self.subscription.wake = woken.set
        while True:
            woken.clear()
            if frames := self.subscription.take():
                yield frames
            if self.subscription.closed:
                return
            at = self.subscription.next_own_at()
            try:
                async with asyncio.timeout(45.0 if at is None else max(0.001, at - self.world.hub_time())):
                    await woken.wait()
            except TimeoutError:
                if at is None or not self.world.network:
                    raise httpx.ReadTimeout("silence") from None

    async def aclose(self) -> None:
        self.subscription.close()


def rows(count: int, *, model: str = IMAGE, prompt: str = "prompt {n}", **fields: Any) -> list[Row]:
    """So many rows, each its own prompt (or all the same, where `prompt` holds no {n})."""
    return [
        Row(model=model, parameters={"prompt": prompt.format(n=n)}, number=n, where=f"test:{n}", **fields)
        for n in range(1, count + 1)
    ]
