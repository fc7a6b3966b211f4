"""Real HTTP around a `HubState`: two ports on loopback, one for the API and one for files, in one process.

The state decides everything, this module carries it: bytes in, bytes out, and connections that break where the state
says so. No clock but the state's; no polling: one task sleeps until the hub changes next.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import uvicorn
from starlette.responses import StreamingResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .messages import Answer, Origin, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

    from .events import Subscription
    from .state import HubState

KEEP_ALIVE_S = 75  # longer than a client's pause between two polls, so that it keeps its connections


class _Protocol(HttpToolsProtocol):
    """uvicorn's own, which also hands the application its socket: only there can a connection be broken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # so says uvicorn's own
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope["transport"] = transport
            await app(scope, receive, send)

        self.app = with_transport


class _Bridge:
    """The ASGI application: a request is the state's, and its answer goes back."""

    def __init__(self, hub: HubState, files_port: int) -> None:
        self.hub = hub
        self.files_port = files_port
        self.changed = asyncio.Event()
        """Set after each request: the hub's next change may have come nearer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:  # it never finished asking
            return
        origin: Origin = "files" if scope["server"][1] == self.files_port else "api"
        answer = self.hub.handle(
            Request(
                method=scope["method"],
                path=scope["path"],
                query=parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True),
                headers={name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
                body=body,
                origin=origin,
            )
        )
        self.changed.set()
        if answer.delay_s and await _gone_within(receive, answer.delay_s):
            return
        if answer.stream is not None:
            await StreamingResponse(self._frames(answer.stream), answer.status, answer.headers)(scope, receive, send)
        elif _is_raw(answer, scope["method"]):
            await _send_raw(answer, scope["transport"], receive)
        else:
            headers = [(name.encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": answer.body})

    async def _frames(self, stream: Subscription) -> AsyncIterator[bytes]:
        woken = asyncio.Event()
        stream.wake = woken.set
        try:
            while True:
                woken.clear()
                if frames := stream.take():
                    yield frames
                if stream.closed:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._until(stream.next_own_at())):
                        await woken.wait()
        finally:
            stream.close()

    async def keep_time(self) -> None:
        """What is due happens when it is due, although nobody asks."""
        while True:
            self.changed.clear()
            self.hub.advance()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._until(self.hub.next_change_at())):
                    await self.changed.wait()

    def _until(self, at: float | None) -> float | None:
        # Never nothing: the clock's and the loop's milliseconds differ, and a zero would spin until they agree.
        return None if at is None else max(0.001, at - self.hub.clock())


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None where the other side hung up within it."""
    parts: list[bytes] = []
    while True:
        part = await receive()
        if part["type"] == "http.disconnect":
            return None
        parts.append(part.get("body", b""))
        if not part.get("more_body"):
            return b"".join(parts)


# --- broken connections ---------------------------------------------------------------------------------------------


def _is_raw(answer: Answer, method: str) -> bool:
    """An HTTP library would refuse to send it."""
    said = answer.headers.get("content-length")
    return answer.cut is not None or (method != "HEAD" and said is not None and said != str(len(answer.body)))


async def _send_raw(answer: Answer, transport: asyncio.Transport, receive: Receive) -> None:
    """The answer is on the socket as far as it goes, and the connection is over."""
    if answer.cut not in ("before", "after"):
        lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in answer.headers.items()]
        whole = len(answer.body) if answer.cut is None else answer.cut_at
        transport.write("\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body[:whole])
    if answer.cut != "stall":
        transport.close()
    await _gone_within(receive, None)  # uvicorn would answer 500 if this returned before it has noticed


async def _gone_within(receive: Receive, seconds: float | None) -> bool:
    """The other side hung up, or the time is over: whether it did."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
            return True
    return False


# --- the process ----------------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    """uvicorn's own, which tells when it listens, keeps the hub's time, and ends the streams when it is to stop."""

    def __init__(self, config: uvicorn.Config, bridge: _Bridge, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._bridge = bridge
        self._ready = ready
        self._time: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._time = asyncio.create_task(self._bridge.keep_time(), name="the hub's time")
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._time is not None:
            self._time.cancel()
        self._bridge.hub.broadcast.end()
        await asyncio.sleep(0.01)  # a moment in which they say so
        # Whoever stalls must not keep the hub alive, and every answer that can be given has been.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def listen_on(port: int) -> socket.socket:
    """A socket bound to this port of loopback; 0 chooses a free one."""
    # Named TCP, or asyncio does not switch Nagle off, and each answer waits 40 ms for an acknowledgement.
    bound = socket.socket(proto=socket.IPPROTO_TCP)
    # A hub that is started again at once finds its port in TIME_WAIT.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", port))
    except OSError as error:
        bound.close()
        raise OSError(f"port {port} of 127.0.0.1 cannot be listened on: {error.strerror}") from error
    return bound


def serve(
    make: Callable[[str, str], HubState],
    *,
    port: int = 0,
    files_port: int = 0,
    ready: Callable[[str, str], None] = lambda _url, _files_url: None,
    stop_with_parent: bool = False,
) -> None:
    """The hub that `make(url, files_url)` makes was served until SIGINT, SIGTERM or the parent's end."""
    with listen_on(port) as api, listen_on(files_port) as files:
        url, files_url = (f"http://127.0.0.1:{bound.getsockname()[1]}" for bound in (api, files))
        hub = make(url, files_url)
        bridge = _Bridge(hub, files.getsockname()[1])
        config = uvicorn.Config(
            bridge,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,  # the state's clock writes it
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        server = _Server(config, bridge, lambda: ready(url, files_url))

        def stop(*_: Any) -> None:
            server.should_exit = True

        # uvicorn raises the signal again when it is done, for whoever was there before: us, so that we end in peace.
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        if stop_with_parent:
            threading.Thread(target=_await_end_of_stdin, args=(stop,), daemon=True).start()
        try:
            asyncio.run(server.serve([api, files]))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            hub.close()


def _await_end_of_stdin(then: Callable[[], None]) -> None:
    """The parent holds the other end of our stdin: however it dies, the kernel closes that, and we follow."""
    while os.read(0, 4096):
        pass
    then()
