"""The way out: few connections, the last used first, on asyncio itself.

httpx's own pool looks through all its connections for every request, and its streams go through two more libraries;
together that is half of what a generation costs in CPU. HTTP itself, and what each failure is called, stay httpcore's:
what a failed request may have done is told by its class, and that must not be ours to guess.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import httpcore
import httpx

from oxenbatch.hub.streams import Stream

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

IDLE_S: Final = 5.0  # httpx's own: shorter than any server's, so that a request seldom meets a closing connection
_THEIRS: Final = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


class Way:
    """Requests of one kind: their connections, and what each of them carries."""

    def __init__(self, transport: httpx.AsyncBaseTransport, headers: Mapping[str, str], timeout: httpx.Timeout) -> None:
        self.transport = transport
        self.is_closed = False
        self._headers = dict(headers)
        self._raw = _raw(self._headers)
        self._timeout = timeout

    @contextlib.asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        form: Mapping[str, Any] | None = None,
        timeout: httpx.Timeout | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """The answer, its body still to come. No redirect is followed, no cookie kept, nothing tried twice.

        `form`: its `data` and `files`, as httpx takes them. `extensions`: what httpcore is told beside, as by
        `bodies.head_in_time`.
        """
        url = f"{url}?{urlencode(params)}" if params else url
        patience = {**(extensions or {}), "timeout": (timeout or self._timeout).as_dict()}
        plain = _PLAIN.fullmatch(url) if isinstance(self.transport, Connections) and form is None else None
        if plain and isinstance(self.transport, Connections):
            raw = _raw({**self._headers, **headers}) if headers else self._raw
            response = await self.transport.ask(method, plain, raw, content, patience)
        else:  # an address that must be spelt otherwise first, or a way that takes nothing but httpx's own requests
            sent = {**self._headers, **headers} if headers else self._headers
            request = httpx.Request(method, url, headers=sent, content=content, extensions=patience, **(form or {}))
            response = await self.transport.handle_async_request(request)
            response.request = request
            response.extensions["asked"] = str(request.url)
        try:
            yield response
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Nothing of it is open any more."""
        self.is_closed = True
        await self.transport.aclose()


_PLAIN: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>/(?:[A-Za-z0-9_~/?&=+:,;@-]|\.(?![./?]|\Z)|%[0-9A-Fa-f]{2})*)"
)
"""Addresses that go over the wire as they stand: httpx would change nothing in them, and takes a while to find out."""


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]


class Connections(httpx.AsyncBaseTransport):
    """At most so many connections at once; a request beyond them waits for one."""

    def __init__(self, most: int, tls: Callable[[], ssl.SSLContext]) -> None:
        self._tls = tls
        self._room = asyncio.Semaphore(most)
        self._most = most
        self._idle: dict[str, list[_Line]] = {}
        """By origin, the last used last; never more than `most` in all."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, its body still to come; httpx's exceptions, by the names that httpcore gave them."""
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        return await self._send(
            httpcore.Request(
                request.method,
                target,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )

    async def ask(
        self,
        method: str,
        plain: re.Match[str],
        headers: list[tuple[bytes, bytes]],
        content: bytes | None,
        extensions: dict[str, Any],
    ) -> httpx.Response:
        """The same for an address that is `_PLAIN`, without httpx's own request, which costs as much as HTTP itself."""
        scheme, host, target = (plain[name].encode("ascii") for name in ("scheme", "host", "target"))
        number = int(plain["port"]) if plain["port"] else None
        named = host if number is None else b"%s:%d" % (host, number)
        sent = [(b"Host", named), *headers]
        if content is not None:
            sent.append((b"Content-Length", b"%d" % len(content)))
        url = httpcore.URL(scheme=scheme, host=host, port=number, target=target)
        return await self._send(httpcore.Request(method, url, headers=sent, content=content, extensions=extensions))

    async def _send(self, asked: httpcore.Request) -> httpx.Response:
        origin = asked.url.origin
        await self._room.acquire()
        line: _Line | None = None
        try:
            with _in_httpx_words():
                line = self._take(origin) or await self._connect(origin, asked)
                answer = await line.handle_async_request(asked)
            body = _Body(answer.stream, partial(self._give_back, origin, line))
            return httpx.Response(answer.status, headers=answer.headers, stream=body, extensions=answer.extensions)
        except BaseException:
            if line:
                line.wire.abort()  # httpcore does so too, but not where it is cancelled while it does
            self._room.release()
            raise

    def _take(self, origin: httpcore.Origin) -> _Line | None:
        """The connection to there that was used last, if there is one that still stands."""
        idle = self._idle.get(str(origin), [])
        found = None
        while idle and found is None:
            line = idle.pop()
            if line.has_expired():
                line.wire.abort()
            else:
                found = line
        if not idle:
            self._idle.pop(str(origin), None)
        return found

    async def _connect(self, origin: httpcore.Origin, request: httpcore.Request) -> _Line:
        if origin.scheme not in (b"http", b"https"):
            raise httpcore.UnsupportedProtocol(f"{origin.scheme!r} is neither http nor https")
        timeout = request.extensions.get("timeout", {}).get("connect")
        stream = Stream()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                host = origin.host.decode("ascii")
                tls = self._tls() if origin.scheme == b"https" else None
                await loop.create_connection(
                    lambda: stream, host, origin.port, ssl=tls, happy_eyeballs_delay=0.25 if tls else None
                )
        except TimeoutError as error:
            stream.abort()
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, UnicodeError) as error:  # TLS's errors are of the first kind, names that are none of the other
            stream.abort()
            raise httpcore.ConnectError(str(error)) from error
        except BaseException:
            stream.abort()
            raise
        return _Line(origin, stream)

    def _give_back(self, origin: httpcore.Origin, line: _Line) -> None:
        """Another request may go; and by this connection, where nothing of the last one is left in it."""
        self._room.release()
        if not line.is_clean():
            line.wire.abort()
            return
        self._idle.setdefault(str(origin), []).append(line)
        if sum(map(len, self._idle.values())) > self._most:  # results may lie with ever other hosts
            oldest = next(iter(self._idle))
            self._idle[oldest].pop(0).wire.abort()
            if not self._idle[oldest]:
                del self._idle[oldest]

    async def aclose(self) -> None:
        """Nothing of it is open any more."""
        for lines in self._idle.values():
            for line in lines:
                line.wire.abort()
        self._idle.clear()


class _Line(httpcore.AsyncHTTP11Connection):
    """One connection, as httpcore speaks over it."""

    def __init__(self, origin: httpcore.Origin, stream: Stream) -> None:
        super().__init__(origin, stream, keepalive_expiry=IDLE_S)
        self._state_lock = _NoLock()  # type: ignore[assignment]  # all that is asked of a lock
        self.wire = stream

    def is_clean(self) -> bool:
        """Whether it is between two requests, with nothing on it that the next one would take for its own answer."""
        return self.is_idle() and not self.wire.has_news() and self._h11_state.trailing_data == (b"", False)


class _NoLock:
    """A lock that keeps nobody out: a line has one request at a time, and httpcore's lock takes a turn of the loop."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        pass


class Proxied(httpx.AsyncBaseTransport):
    """By httpx's own means: where the environment names a proxy."""

    def __init__(self, most: int, tls: Callable[[], ssl.SSLContext]) -> None:
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self._client = httpx.AsyncClient(verify=tls(), follow_redirects=False, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, its body still to come."""
        return await self._client.send(request, stream=True)

    async def aclose(self) -> None:
        """Nothing of it is open any more."""
        await self._client.aclose()


class _Body(httpx.AsyncByteStream):
    """An answer's body; when it is closed, its connection may be used again."""

    def __init__(self, stream: Any, then: Callable[[], None]) -> None:
        self._stream = stream
        self._then: Callable[[], None] | None = then

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _in_httpx_words():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        then, self._then = self._then, None
        if then is None:
            return
        try:
            await self._stream.aclose()
        finally:
            then()


@contextlib.contextmanager
def _in_httpx_words() -> Iterator[None]:
    """httpcore's exceptions are httpx's, which have the same names."""
    try:
        yield
    except _THEIRS as error:
        kind: type[httpx.RequestError] = getattr(httpx, type(error).__name__)
        raise kind(str(error)) from error
