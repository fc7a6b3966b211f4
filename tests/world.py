"""A world in virtual time: the real engine, the real ledger on disk, the stand-in hub in process, and no waiting.

An hour's wait takes a millisecond. The process can be killed at any of its effects: every request to the ledger, every
byte to or from the hub and every step on disk is a numbered point, before and after it happens. The oracle is the
stand-in's own record, never what the client says.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import httpx

from oxenbatch import __version__
from oxenbatch.dataset.metadata import write_metadata
from oxenbatch.hub import Hub
from oxenbatch.jobs import Row
from oxenbatch.ledger import news, reads, runs, staging
from oxenbatch.ledger.book import Ledger
from oxenbatch.plan import Limits
from oxenbatch.runner import ModelFacts, Runner, Summary
from oxenbatch.sandbox.faults import Faults
from oxenbatch.sandbox.messages import Request
from oxenbatch.sandbox.state import HubState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
    from pathlib import Path

R = TypeVar("R")
BEGIN = 1_800_000_000.0
IMAGE = "black-forest-labs-flux-2-klein-4b"
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
        self.hub = HubState(
            clock=self.wall,
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

    # -- a clock ------------------------------------------------------------------------------------------------------

    def wall(self) -> float:
        return BEGIN + self.now

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
        loop = _JumpingLoop(self)
        try:
            return loop.run_until_complete(self._run(limits or self.limits, during))
        except Killed:
            return None
        except BaseExceptionGroup:
            if not self.dead:
                raise
            return None
        finally:
            self.dead = True
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(_quietly(asyncio.all_tasks(loop)))
            loop.close()
            self.dead = False
            self.now += 3.0  # somebody notices, and starts it again

    async def _run(self, limits: Limits, during: Any) -> Summary:
        with Ledger.open(self.ledger_path, create=True) as ledger:
            now = self.wall()
            runs.begin_batch(ledger, name="world", hub="world", at=now, on="2026-11-22")
            if (known := reads.batch(ledger)) is None or known.fingerprint != str(len(self.rows)):
                terms = staging.Terms(
                    at=now, attempts=limits.attempts, price=lambda _: Decimal("0.014"), takes_seed=lambda _: True
                )
                staging.stage(ledger, self.rows, str(len(self.rows)), terms)
            for sample_id in news.unfetchable(ledger):
                news.fetch_again(ledger, sample_id, at=now, note="a new run tries again")
            run_id = runs.begin_run(ledger, version=__version__, at=now)
            clerk = _Clerk(self, ledger)
            ticking = asyncio.create_task(self._keep_time())
            async with Hub(
                self.hub.base_url, self.key, clock=self, post_timeout_s=limits.post_timeout_s, transport=_Wire(self)
            ) as hub:
                runner = Runner(
                    clerk=clerk,
                    hub=hub,
                    folder=self.folder,
                    limits=limits,
                    run_id=run_id,
                    models={IMAGE: ModelFacts(), VIDEO: ModelFacts(video=True)},
                    clock=self,
                    blocking=_Disk(self),
                    jitter=lambda: 0.5,
                )
                other = asyncio.create_task(during(runner, self)) if during else None
                summary = await runner.run()
                if other:
                    await other
            ticking.cancel()
            runs.end_run(ledger, run_id, exit_code=summary.exit_code, at=self.wall())
            write_metadata(ledger, self.folder)
            return summary

    async def _keep_time(self) -> None:
        """What is due at the hub happens when it is due, although nobody asks."""
        while True:
            at = self.hub.next_change_at()
            self._hub_changed = asyncio.Event()
            wait = 3600.0 if at is None else max(0.0, at - self.wall())
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

    def states(self) -> Counter[str]:
        """How many wanted samples the ledger has in each state."""
        with Ledger.open(self.ledger_path) as ledger:
            return Counter({str(state): n for state, n in reads.counts(ledger).items() if n})

    def assert_whole(self) -> None:
        """Every wanted sample is on disk, whole, made once; nothing that the hub made is unknown to the ledger."""
        wanted = Counter(str(row.parameters["prompt"]) for row in self.rows for _ in range(row.samples))
        assert self.states() == {"downloaded": wanted.total()}
        paid = Counter(
            str(g.parameters.get("prompt")) for g in self.hub.generations.values() if g.status == "succeeded"
        )
        assert paid == wanted, f"lost {wanted - paid}, twice {paid - wanted}"
        self.assert_known()
        self.assert_files()

    def assert_known(self) -> None:
        """The hub has made no generation that the ledger does not know."""
        with Ledger.open(self.ledger_path) as ledger:
            known = {row[0] for row in ledger.conn.execute("select generation_id from generations")}
        assert set(self.hub.generations) <= known

    def assert_files(self) -> None:
        """What the ledger says is on disk is there, whole, and each file is its own generation's."""
        from oxenbatch.download import hash_of
        from oxenbatch.media import inspect

        seen: set[str] = set()
        with Ledger.open(self.ledger_path) as ledger:
            for result in reads.results(ledger):
                path = self.folder / result["file"]
                inspect(path)
                assert hash_of(path) == result["sha256"]
                assert result["sha256"] not in seen
                seen.add(result["sha256"])
        torn = [p.name for p in self.folder.rglob("*") if p.suffix in {".png", ".mp4"}]
        assert len(torn) == len(seen), "a file that the ledger does not know"


async def _quietly(tasks: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


class _Clerk:
    """The ledger, with a point before and after each commit that changes it."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.world, self.ledger = world, ledger

    async def do(self, request: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        name = request.__name__
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
        posts = request.method == "POST"
        if posts:
            world.point("before the POST leaves")
        await asyncio.sleep(world.latency_s)
        if not world.network:
            raise httpx.ConnectError("no network", request=request)
        if world.dead:
            raise Killed
        answer = world.hub.handle(
            Request(
                method=request.method,
                path=unquote(request.url.path),
                query=list(request.url.params.multi_items()),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
                origin="files" if str(request.url).startswith(world.hub.files_url) else "api",
            )
        )
        world._hub_changed.set()
        if posts:
            world.point("after the POST landed")
        if answer.delay_s > timeout["read"]:
            await asyncio.sleep(timeout["read"])
            raise httpx.ReadTimeout("silence", request=request)
        await asyncio.sleep(world.latency_s + answer.delay_s)
        if posts:
            world.point("before the answer is read")
        if answer.cut in ("before", "after"):
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        stream = _Body(world, answer, timeout["read"]) if answer.stream is None else _Stream(world, answer)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream, request=request)


class _Body(httpx.AsyncByteStream):
    def __init__(self, world: World, answer: Any, read_timeout_s: float) -> None:
        self.world, self.answer, self.read_timeout_s = world, answer, read_timeout_s

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
        yield body if said is None else body[: int(said)]


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
                async with asyncio.timeout(45.0 if at is None else max(0.001, at - self.world.wall())):
                    await woken.wait()
            except TimeoutError:
                if at is None:
                    raise httpx.ReadTimeout("silence") from None

    async def aclose(self) -> None:
        self.subscription.close()


def rows(count: int, *, model: str = IMAGE, prompt: str = "prompt {n}", **fields: Any) -> list[Row]:
    """So many rows, each its own prompt (or all the same, where `prompt` holds no {n})."""
    return [
        Row(model=model, parameters={"prompt": prompt.format(n=n)}, number=n, where=f"test:{n}", **fields)
        for n in range(1, count + 1)
    ]

