"""The way out, on real sockets: connections are used again, held back, and fail by the right name."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from oxenbatch.hub import Hub
from oxenbatch.hub.connections import Connections, Way
from oxenbatch.hub.streams import AHEAD
from oxenbatch.jobs import sealed
from oxenbatch.wire import Answer, Outcome

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
TIMEOUT = httpx.Timeout(2.0, connect=2.0, pool=None)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
ID = "6f78656e-6261-4463-8873-616e64626f78"


class Server:
    """Answers as it is told; remembers each connection and each request's head."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.connections = self.open = self.most = 0
        self.heads: list[bytes] = []
        self.resets = False
        """Its connections end with a reset, not in peace."""
        self._talks: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Server]:
        """It listens at `url`, until the block ends; then nothing of it is left."""
        server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for talk in self._talks:
                talk.cancel()
            await asyncio.gather(*self._talks, return_exceptions=True)
            await asyncio.sleep(0.01)  # the transports say goodbye

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self.serve(reader, writer)
        self.open -= 1
        writer.transport.abort() if self.resets else writer.close()

    async def head(self, reader: asyncio.StreamReader) -> bytes:
        """A request's head, and its body is read as well."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if lengths:
            await reader.readexactly(int(lengths[0].partition(b":")[2]))
        return head


async def _nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Nothing is answered."""


def _play(serve: Callable[[Server], Serve], story: Callable[[Server, Way], Awaitable[Any]], most: int = 4) -> Any:
    async def run() -> Any:
        server = Server(_nothing)
        server.serve = serve(server)
        way = Way(Connections(most, lambda: pytest.fail("no TLS here")), {"User-Agent": "us", "X-Key": "k"}, TIMEOUT)
        async with server.listening(), asyncio.timeout(20):
            try:
                return await story(server, way)
            finally:
                await way.aclose()

    return asyncio.run(run())


def _answering(answer: bytes = OK, *, after_s: float = 0.0, closes: bool = False) -> Callable[[Server], Serve]:
    def serve(server: Server) -> Serve:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await server.head(reader)
                if after_s:
                    await asyncio.sleep(after_s)
                writer.write(answer)
                await writer.drain()
                if closes:
                    return

        return talk

    return serve


async def _get(way: Way, url: str, **more: Any) -> bytes:
    async with way.open("GET", url, **more) as response:
        return b"".join([part async for part in response.aiter_bytes()])


def test_one_connection_serves_one_request_after_the_other() -> None:
    async def story(server: Server, way: Way) -> int:
        for _ in range(5):
            assert await _get(way, f"{server.url}/api/x?page=1") == b"{}"
        return server.connections

    assert _play(_answering(), story) == 1


def test_a_request_carries_what_its_way_carries_and_goes_where_it_should() -> None:
    async def story(server: Server, way: Way) -> bytes:
        await _get(way, f"{server.url}/api/x", params={"page": "2"}, headers={"X-Key": "other"})
        return server.heads[0]

    head = _play(_answering(), story)
    assert head.startswith(b"GET /api/x?page=2 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"X-Key: other" in head
    assert b"User-Agent: us" in head


def test_an_address_that_must_be_spelt_otherwise_is() -> None:
    async def story(server: Server, way: Way) -> list[bytes]:
        for path in ("/a b/é", "/a/../b", "/%zz", "/x#part"):
            await _get(way, server.url + path)
        return [head.split(b" ")[1] for head in server.heads]

    assert _play(_answering(), story) == [b"/a%20b/%C3%A9", b"/b", b"/%zz", b"/x"]


def test_no_more_connections_than_there_may_be() -> None:
    async def story(server: Server, way: Way) -> tuple[int, int]:
        await asyncio.gather(*(_get(way, f"{server.url}/x") for _ in range(12)))
        return server.most, server.connections

    most, connections = _play(_answering(after_s=0.01), story, most=3)
    assert most <= 3
    assert connections == 3


def test_a_connection_that_the_other_side_has_closed_is_not_used_again() -> None:
    async def story(server: Server, way: Way) -> int:
        for _ in range(3):
            assert await _get(way, f"{server.url}/x") == b"{}"
            await asyncio.sleep(0.02)
        return server.connections

    assert _play(_answering(closes=True), story) == 3


def test_a_place_is_free_again_whatever_became_of_its_request() -> None:
    async def story(server: Server, way: Way) -> bytes:
        for _ in range(5):
            with pytest.raises(httpx.RemoteProtocolError):
                await _get(way, f"{server.url}/x")
        server.serve = _answering(after_s=60)(server)
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(0.02):
                    await _get(way, f"{server.url}/x")
        server.serve = _answering()(server)
        return await _get(way, f"{server.url}/x")

    def silent(server: Server) -> Serve:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.head(reader)

        return talk

    assert _play(silent, story, most=1) == b"{}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", httpx.RemoteProtocolError),
        (b"nonsense\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
def test_an_answer_that_is_none_is_called_by_httpxs_own_name(answer: bytes, error: type[Exception]) -> None:
    async def story(server: Server, way: Way) -> None:
        with pytest.raises(error):
            await _get(way, f"{server.url}/x")

    _play(_answering(answer, closes=True), story)


def test_silence_ends_when_the_time_is_over() -> None:
    async def story(server: Server, way: Way) -> None:
        with pytest.raises(httpx.ReadTimeout):
            await _get(way, f"{server.url}/x", timeout=httpx.Timeout(0.05, connect=2.0, pool=None))

    _play(_answering(after_s=1.0), story)


def test_a_body_that_is_not_read_is_held_back_at_the_sender() -> None:
    sent = 0
    size = 64 << 20

    def serve(server: Server) -> Serve:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await server.head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            while sent < size:
                writer.write(bytes(1 << 18))
                sent += 1 << 18
                await writer.drain()

        return talk

    async def story(server: Server, way: Way) -> tuple[int, int]:
        got = 0
        async with way.open("GET", f"{server.url}/x") as response:
            await asyncio.sleep(0.3)
            ahead = sent
            async for part in response.aiter_raw():
                got += len(part)
        return ahead, got

    ahead, got = _play(serve, story)
    assert got == size
    assert ahead < AHEAD + (24 << 20)  # the kernel's own buffers are beside ours


# -- what it means for money ------------------------------------------------------------------------------------------


def _enqueue(url: str) -> Answer:
    async def run() -> Answer:
        async with Hub(url, "key", post_timeout_s=0.2) as hub:
            return await hub.enqueue(sealed(1, "m", {"prompt": "x"}, 1, "t"))

    return asyncio.run(run())


def test_a_post_that_nobody_listened_to_was_not_sent() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]

    assert _enqueue(f"http://127.0.0.1:{port}").outcome is Outcome.NOT_SENT


def _enqueue_at(serve: Serve, *, resets: bool = False, prompt: str = "x") -> Answer:
    async def run() -> Answer:
        server = Server(serve)
        server.resets = resets
        async with server.listening(), Hub(server.url, "key", post_timeout_s=0.2) as hub:
            return await hub.enqueue(sealed(1, "m", {"prompt": prompt}, 1, "t"))

    return asyncio.run(run())


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("reads", [True, False])
def test_a_post_whose_connection_ends_may_have_landed(resets: bool, reads: bool) -> None:
    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        if reads:
            await reader.read(65536)

    assert _enqueue_at(talk, resets=resets, prompt="x" * 100_000).outcome is Outcome.UNKNOWN


def test_a_post_that_is_not_answered_in_time_may_have_landed() -> None:
    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        await asyncio.Event().wait()

    assert _enqueue_at(talk).outcome is Outcome.UNKNOWN
