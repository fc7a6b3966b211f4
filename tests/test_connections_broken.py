"""What broken connections mean for money: only what cannot have left counts as not sent, and no answer is another's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from test_connections import OK, TIMEOUT, Serve, Server

from oxenbatch.hub import Hub, client
from oxenbatch.hub.bodies import head_in_time
from oxenbatch.hub.connections import Connections, Way
from oxenbatch.jobs import Intent, sealed
from oxenbatch.wire import Answer, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

ID = "6f78656e-6261-4463-8873-616e64626f78"
ACCEPTED = json.dumps({"status": "success", "generations": [{"generation_id": ID}]}).encode()


def answer(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s" % (
        len(body), more, body,
    )  # fmt: skip


def intent(prompt: str = "x") -> Intent:
    return sealed(1, "m", {"prompt": prompt}, 1, "t")


class Script:
    """Plays one act for each connection, the last one for all that follow."""

    def __init__(self, *acts: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.acts = list(acts)

    def serve(self, server: Server) -> Serve:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            act = self.acts[min(server.connections, len(self.acts)) - 1]
            await act(server, reader, writer)

        return talk


async def answers(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each request has its own number in its answer."""
    while True:
        await server.head(reader)
        writer.write(answer(b"%d" % len(server.heads)))
        await writer.drain()


async def accepts(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await server.head(reader)
        writer.write(answer(ACCEPTED))
        await writer.drain()


async def posted_at(
    script: Script, *, posts: int = 1, timeout_s: float = 0.3, prompt: str = "x"
) -> tuple[list[Answer], Server]:
    server = Server(lambda *_: asyncio.sleep(0))
    server.serve = script.serve(server)
    async with server.listening(), asyncio.timeout(20), Hub(server.url, "key", post_timeout_s=timeout_s) as hub:
        found = []
        for _ in range(posts):
            found.append(await hub.enqueue(intent(prompt)))
            await asyncio.sleep(0.02)
    return found, server


@contextlib.asynccontextmanager
async def way_to(script: Script, *, most: int = 1) -> AsyncIterator[tuple[Way, Server]]:
    server = Server(lambda *_: asyncio.sleep(0))
    server.serve = script.serve(server)
    connections = Connections(most, lambda: pytest.fail("no TLS here"))
    way = Way(connections, {}, TIMEOUT)
    async with server.listening(), asyncio.timeout(20):
        try:
            yield way, server
        finally:
            await way.aclose()


async def get(way: Way, url: str, **more: Any) -> bytes:
    async with way.open("GET", url, **more) as response:
        return b"".join([part async for part in response.aiter_bytes()])


# -- never left -------------------------------------------------------------------------------------------------------


@pytest.fixture
def deaf() -> Iterator[int]:
    """A port where connecting takes for ever: nobody takes a connection, and no more may wait."""
    waiting: list[socket.socket] = []
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(0)
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(bound.getsockname())
            waiting.append(one)
        yield bound.getsockname()[1]
        for one in waiting:
            one.close()


def test_a_post_whose_connection_never_stood_was_not_sent(deaf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.1)

    async def run() -> Answer:
        async with Hub(f"http://127.0.0.1:{deaf}", "key") as hub:
            return await hub.enqueue(intent())

    found = asyncio.run(run())
    assert found.outcome is Outcome.NOT_SENT
    assert "ConnectTimeout" in found.words


def test_a_post_to_a_name_that_is_none_was_not_sent() -> None:
    async def run() -> Answer:
        async with Hub(f"http://{'a' * 70}.invalid", "key") as hub:
            return await hub.enqueue(intent())

    assert asyncio.run(run()).outcome is Outcome.NOT_SENT


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""], ids=["no TLS", "closed within the handshake"]
)
def test_a_post_is_not_sent_where_nobody_speaks_tls(says: bytes) -> None:
    read = bytearray()

    async def talk(_server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read.extend(await reader.read(65536))
        writer.write(says)

    async def run() -> Answer:
        script = Script(talk)
        server = Server(lambda *_: asyncio.sleep(0))
        server.serve = script.serve(server)
        async with server.listening(), Hub(server.url.replace("http:", "https:"), "key") as hub:
            return await hub.enqueue(intent("secret words"))

    assert asyncio.run(run()).outcome is Outcome.NOT_SENT
    assert b"secret words" not in read


def test_a_handshake_without_end_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "CONNECT_S", 0.2)

    async def talk(_server: Server, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> Answer:
        script = Script(talk)
        server = Server(lambda *_: asyncio.sleep(0))
        server.serve = script.serve(server)
        async with server.listening(), Hub(server.url.replace("http:", "https:"), "key") as hub:
            return await hub.enqueue(intent())

    assert asyncio.run(run()).outcome is Outcome.NOT_SENT


# -- may have landed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("reads", [False, True], ids=["unread", "read"])
def test_a_post_over_a_connection_that_is_used_again_and_dies_may_have_landed(*, resets: bool, reads: bool) -> None:
    async def once(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(answer(ACCEPTED))
        await reader.readexactly(1)  # the next request has begun
        server.resets = resets
        if reads:
            await server.head(reader)

    found, server = asyncio.run(posted_at(Script(once, accepts), posts=2))
    assert [one.outcome for one in found] == [Outcome.ACCEPTED, Outcome.UNKNOWN]
    assert server.connections == 1, "it was posted again by itself"


def test_a_post_does_not_go_over_a_connection_that_was_closed_while_it_was_idle() -> None:
    async def once(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(answer(ACCEPTED))

    found, server = asyncio.run(posted_at(Script(once), posts=3))
    assert [one.outcome for one in found] == [Outcome.ACCEPTED] * 3
    assert server.connections == 3


HALVES = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\ncontent-le",
    "a head alone": b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n",
    "half a body": answer(ACCEPTED)[:-10],
    "half a chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n50\r\n" + ACCEPTED[:20],
    "no last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(ACCEPTED), ACCEPTED),
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "an interim answer alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "a body until the end, cut": b"HTTP/1.1 200 OK\r\n\r\n" + ACCEPTED[:-10],
}


@pytest.mark.parametrize("resets", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("said", HALVES.values(), ids=HALVES)
def test_half_an_answer_to_a_post_is_none(said: bytes, *, resets: bool) -> None:
    async def talk(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(said)
        await writer.drain()
        server.resets = resets

    found, server = asyncio.run(posted_at(Script(talk)))
    assert found[0].outcome is Outcome.UNKNOWN
    assert server.connections == 1


@pytest.mark.parametrize("said", HALVES.values(), ids=HALVES)
def test_half_an_answer_and_then_silence_may_have_landed(said: bytes) -> None:
    async def talk(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(said)
        await reader.read()

    found, _ = asyncio.run(posted_at(Script(talk)))
    assert found[0].outcome is Outcome.UNKNOWN


def test_a_post_that_nobody_reads_may_have_landed() -> None:
    async def talk(_server: Server, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's has it
        await asyncio.sleep(5)

    found, _ = asyncio.run(posted_at(Script(talk), prompt="x" * (32 << 20)))
    assert found[0].outcome is Outcome.UNKNOWN
    assert "WriteTimeout" in found[0].words


def test_a_refusal_that_comes_before_the_body_was_taken_is_heard() -> None:
    refusal = b'{"error": {"message": "too large"}}'

    async def talk(_server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(refusal).replace(b"200 OK", b"413 Too Large"))
        await writer.drain()
        while await reader.read(1 << 20):
            pass

    found, _ = asyncio.run(posted_at(Script(talk), prompt="x" * (1 << 20), timeout_s=5))
    assert found[0].outcome is Outcome.REFUSED


def test_a_head_that_never_ends_may_have_landed_and_gives_its_place_back() -> None:
    async def drips(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: y\r\n")
            await asyncio.sleep(0.01)

    async def story() -> bytes:
        async with way_to(Script(drips, answers)) as (way, server):
            with pytest.raises(TimeoutError):
                async with head_in_time(0.1) as extensions:
                    await get(way, f"{server.url}/x", extensions=extensions)
            return await get(way, f"{server.url}/x")

    assert asyncio.run(story()) == b"2"


# -- given up ---------------------------------------------------------------------------------------------------------


async def given_up(task: asyncio.Task[Any], times: int) -> None:
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"],
    ids=["before the answer", "within its head", "within its body"],
)
def test_a_connection_whose_request_was_given_up_is_closed_and_not_used_again(said: bytes, times: int) -> None:
    async def story() -> tuple[bytes, int]:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def talk(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.head(reader)
            writer.write(said)
            begun.set()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            ended.set()

        async with way_to(Script(talk, answers)) as (way, server):
            task = asyncio.create_task(get(way, f"{server.url}/x"))
            await begun.wait()
            await asyncio.sleep(0.02)
            await given_up(task, times)
            async with asyncio.timeout(2):
                await ended.wait()
            return await get(way, f"{server.url}/x"), server.connections

    assert asyncio.run(story()) == (b"2", 2)


def test_a_request_that_is_given_up_while_it_connects_gives_its_place_back(deaf: int) -> None:
    async def story() -> bytes:
        async with way_to(Script(answers)) as (way, server):
            for _ in range(3):
                task = asyncio.create_task(get(way, f"http://127.0.0.1:{deaf}/x"))
                await asyncio.sleep(0.02)
                await given_up(task, 1)
            return await get(way, f"{server.url}/x")

    assert asyncio.run(story()) == b"1"


def test_a_request_that_is_given_up_while_it_waits_for_a_place_takes_none() -> None:
    async def slow(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await server.head(reader)
            await asyncio.sleep(0.1)
            writer.write(answer(b"%d" % len(server.heads)))

    async def story() -> tuple[bytes, bytes, int]:
        async with way_to(Script(slow)) as (way, server):
            first = asyncio.create_task(get(way, f"{server.url}/x"))
            await asyncio.sleep(0.02)
            waiting = [asyncio.create_task(get(way, f"{server.url}/x")) for _ in range(3)]
            await asyncio.sleep(0.02)
            for task in waiting:
                await given_up(task, 1)
            return await first, await get(way, f"{server.url}/x"), server.connections

    assert asyncio.run(story()) == (b"1", b"2", 1)


@pytest.mark.parametrize("at_s", [0.0, 0.02, 0.06, 0.12])
def test_a_post_that_is_given_up_is_never_answered_by_another_ones_answer(at_s: float) -> None:
    async def late(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await server.head(reader)
            await asyncio.sleep(0.05)
            writer.write(answer(head.split(b" ")[1])[:-1])
            await asyncio.sleep(0.05)
            writer.write(head.split(b" ")[1][-1:])

    async def story() -> bytes:
        async with way_to(Script(late)) as (way, server):
            task = asyncio.create_task(get(way, f"{server.url}/first"))
            await asyncio.sleep(at_s)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            return await get(way, f"{server.url}/second")

    assert asyncio.run(story()) == b"/second"


# -- no answer is another's --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.03], ids=["with the answer", "while it is idle"])
def test_bytes_that_nobody_asked_for_are_nobodys_answer(after_s: float) -> None:
    async def two_for_one(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(answer(b"1") + (b"" if after_s else answer(b"stale")))
        await asyncio.sleep(after_s)
        if after_s:
            writer.write(answer(b"stale"))
        await reader.read()

    async def story() -> tuple[bytes, bytes]:
        async with way_to(Script(two_for_one, answers)) as (way, server):
            first = await get(way, f"{server.url}/x")
            await asyncio.sleep(0.06)
            return first, await get(way, f"{server.url}/x")

    assert asyncio.run(story()) == (b"1", b"2")


def test_an_answer_that_is_not_read_to_its_end_closes_its_connection() -> None:
    async def story() -> tuple[bytes, int]:
        async with way_to(Script(answers)) as (way, server):
            async with way.open("GET", f"{server.url}/x") as response:
                assert response.status_code == 200
            return await get(way, f"{server.url}/x"), server.connections

    assert asyncio.run(story()) == (b"2", 2)


def test_a_connection_that_was_idle_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oxenbatch.hub.connections.IDLE_S", 0.02)

    async def story() -> int:
        async with way_to(Script(answers)) as (way, server):
            for _ in range(3):
                await get(way, f"{server.url}/x")
                await asyncio.sleep(0.04)
            return server.connections

    assert asyncio.run(story()) == 3


def test_idle_connections_to_ever_other_hosts_are_no_more_than_there_may_be() -> None:
    async def story() -> tuple[int, int]:
        async with contextlib.AsyncExitStack() as stack:
            servers = []
            for _ in range(6):
                server = Server(lambda *_: asyncio.sleep(0))
                server.serve = Script(answers).serve(server)
                servers.append(await stack.enter_async_context(server.listening()))
            way = Way(Connections(2, lambda: pytest.fail("no TLS here")), {}, TIMEOUT)
            for server in servers:
                await get(way, f"{server.url}/x")
            await asyncio.sleep(0.02)
            still = sum(server.open for server in servers)
            await way.aclose()
            await asyncio.sleep(0.02)
            return still, sum(server.open for server in servers)

    assert asyncio.run(story()) == (2, 0)


def test_what_is_told_of_a_file_that_cannot_be_sent_back_is_forgotten() -> None:
    async def talk(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.head(reader)
        writer.write(OK.replace(b"\r\n\r\n", b'\r\netag: "\xc3\xa9"\r\n\r\n'))

    async def story() -> str | None:
        server = Server(lambda *_: asyncio.sleep(0))
        server.serve = Script(talk).serve(server)
        async with server.listening(), Hub(server.url, "key") as hub, hub.open_file(f"{server.url}/f") as file:
            return file.etag

    assert asyncio.run(story()) is None


def test_a_form_goes_the_same_way_and_is_sent_whole() -> None:
    got = bytearray()

    async def talk(_server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        got.extend(await reader.readexactly(int(length.partition(b":")[2])))
        writer.write(OK)

    async def story() -> int:
        async with way_to(Script(talk)) as (way, server):
            form = {"data": {"message": "hello"}, "files": {"file": ("a.png", b"\x89PNG", "image/png")}}
            async with way.open("PUT", f"{server.url}/x", form=form) as response:
                await response.aread()
            return response.status_code

    assert asyncio.run(story()) == 200
    assert b"\x89PNG" in got
    assert b"hello" in got


def test_errors_keep_the_names_that_tell_what_may_have_left() -> None:
    names = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError",
             "InvalidURL"}  # fmt: skip
    assert {kind.__name__ for kind in client._NEVER_LEFT} == names
    for landed in (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.ReadTimeout, httpx.RemoteProtocolError):
        assert not issubclass(landed, client._NEVER_LEFT)
