"""One connection's bytes, on asyncio itself: what httpcore reads and writes."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import Any, Final

import httpcore

AHEAD: Final = 1 << 20  # bytes that may wait unread before the sender is held back
TOGETHER: Final = 1 << 16  # bytes that wait for what follows them: a request's head and its body leave as one


class Stream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection's bytes, as httpcore asks for them."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parts: deque[bytes] = deque()
        self._held = 0
        """Bytes that have come and were not read yet."""
        self._ended = False
        self._lost: Exception | None = None
        self._closed = False
        self._unsent = bytearray()
        """What was written and has not left yet."""
        self._full = False
        """The kernel takes no more for now."""
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    # -- what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - TCP, with or without TLS
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)
        if self._held > AHEAD and self._transport:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool | None:
        self._ended = True
        self._wake()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._lost, self._closed = True, exc, True
        self._wake()
        _release(self._drained)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        _release(self._drained)

    def _wake(self) -> None:
        _release(self._waiter)

    # -- what httpcore asks

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002 - what came is given
        """What has come, as it came; nothing at the stream's end. What was written before has left."""
        await self._send(timeout)
        while not self._parts:
            if self._lost is not None:
                raise httpcore.ReadError(str(self._lost)) from self._lost
            if self._ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await _until(self._waiter, timeout, httpcore.ReadTimeout)
            finally:
                self._waiter = None
        part = self._parts.popleft()
        if self._held > AHEAD >= self._held - len(part) and self._transport and not self._closed:
            self._transport.resume_reading()
        self._held -= len(part)
        return part

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """The bytes leave with those that follow, at once where they are many, else when an answer is asked for.

        A request in two parts costs two packets, and wakes the hub twice.
        """
        if self._transport is None or self._closed:
            raise httpcore.WriteError(str(self._lost or "the connection is closed"))
        self._unsent += buffer
        if len(self._unsent) >= TOGETHER:
            await self._send(timeout)
            if self._closed:
                raise httpcore.WriteError(str(self._lost or "the connection is closed"))

    async def _send(self, timeout: float | None) -> None:
        """The bytes are the kernel's, or the transport's with room for more; or the connection is closed."""
        if not self._unsent or self._transport is None or self._closed:
            return
        self._transport.write(bytes(self._unsent))
        self._unsent.clear()
        if self._full:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await _until(self._drained, timeout, httpcore.WriteTimeout)
            finally:
                self._drained = None

    async def aclose(self) -> None:
        """The connection is closed."""
        self.abort()

    def has_news(self) -> bool:
        """Whether there is something that nobody has read: bytes, or the end."""
        return self._ended or self._closed or bool(self._parts)

    def abort(self) -> None:
        """The connection is closed, without waiting for anybody."""
        self._closed = True
        if self._transport:
            self._transport.abort()

    def get_extra_info(self, info: str) -> Any:
        """What httpcore, and we, ask of a connection."""
        if self._transport is None:
            return None
        if info == "server_addr":
            return self._transport.get_extra_info("peername")
        if info == "is_readable":  # an idle connection that is readable has been closed by the other side
            return self.has_news() or _is_readable(self._transport.get_extra_info("socket"))
        return self._transport.get_extra_info(info)


def _release(waiter: asyncio.Future[None] | None) -> None:
    if waiter and not waiter.done():
        waiter.set_result(None)


async def _until(waiter: asyncio.Future[None], timeout: float | None, late: type[Exception]) -> None:
    """The waiter was released; `late` where that took longer than `timeout`."""

    def give_up() -> None:
        if not waiter.done():
            waiter.set_exception(late())

    timer = None if timeout is None else asyncio.get_running_loop().call_later(timeout, give_up)
    try:
        await waiter
    finally:
        if timer:
            timer.cancel()


def _is_readable(socket: Any) -> bool:
    """Whether the kernel has bytes, or the connection's end, that the loop has not been told of yet."""
    if socket is None or socket.fileno() < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
