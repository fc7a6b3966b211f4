"""Files behind addresses that the hub gave: fetched without trust, and without the key but from the hub itself."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import httpx

from oxenbatch.addresses import AddressRefused, after_redirect, is_loopback, is_public, origin_of, parse, shown
from oxenbatch.errors import printable
from oxenbatch.hub.bodies import head_in_time, raw_parts
from oxenbatch.hub.trouble import AddressExpired, FileTrouble, why

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oxenbatch.hub.connections import Way

REDIRECTS_MAX: Final = 5


class Files:
    """Opens results' addresses by a way that carries no key of its own."""

    def __init__(self, way: Way, origin: str, key: str | None, *, looks_up: bool) -> None:
        self._way = way
        self._origin = origin
        self._key = key
        self._looks_up = looks_up
        """Names are looked up before they are asked; without a network of its own, a test's transport does that."""
        self._on_loopback = is_loopback(origin)

    @contextlib.asynccontextmanager
    async def open(self, url: str, *, offset: int = 0, etag: str | None = None) -> AsyncIterator[FileAnswer]:
        """The answer behind a result's address, its bytes still to come. The key goes along only to the hub itself.

        With `offset` and a strong `etag` only the rest of an unchanged file is asked for. Raises `AddressRefused`,
        `AddressExpired`, `FileTrouble`.
        """
        headers = {"Accept-Encoding": "identity"}
        if offset and etag:
            headers |= {"Range": f"bytes={offset}-", "If-Range": etag}
        try:
            url = urljoin(f"{self._origin}/", url)
        except ValueError as error:
            raise AddressRefused("not an address") from error
        try:
            for _ in range(REDIRECTS_MAX + 1):
                await self._check_address(url)
                key = {"Authorization": f"Bearer {self._key}"} if self._key and origin_of(url) == self._origin else {}
                async with (
                    head_in_time() as extensions,
                    self._way.open("GET", url, headers={**headers, **key}, extensions=extensions) as response,
                ):
                    self._check_peer(response, url)
                    if response.status_code in {301, 302, 303, 307, 308}:
                        url = after_redirect(url, response.headers.get("location", ""))
                        continue
                    yield _file_answer(response, offset)
                    return
            raise FileTrouble(f"more than {REDIRECTS_MAX} redirects")
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, TimeoutError) as error:
            raise FileTrouble(why(error)) from None

    async def _check_address(self, url: str) -> None:
        """`AddressRefused` unless it is https to a public address, or near."""
        parts = parse(url)
        host = parts.hostname or ""
        if parts.username is not None or parts.password is not None:
            raise AddressRefused(f"a file's address must not name a user: {shown(url)}")
        if self._is_near(url):
            return
        if parts.scheme != "https":
            raise AddressRefused(f"a file's address must be https: {shown(url)}")
        if self._looks_up and not _proxied(host):
            try:
                infos = await asyncio.get_running_loop().getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:  # a name that is none is not an OSError
                raise FileTrouble(f"no address is known for {printable(host, 100)}") from error
            if not all(is_public(str(info[4][0])) for info in infos):
                raise AddressRefused(f"the address leads into a private network: {shown(url)}")

    def _is_near(self, url: str) -> bool:
        """Whether it is the hub's own address, or this machine's while the hub itself is on this machine."""
        return origin_of(url) == self._origin or (self._on_loopback and is_loopback(url))

    def _check_peer(self, response: httpx.Response, url: str) -> None:
        """The name may have been looked up anew since it was checked: what counts is whom we are connected to."""
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream else None
        url = response.extensions.get("asked", url)
        if not peer or self._is_near(url) or _proxied(parse(url).hostname or ""):
            return
        if not is_public(str(peer[0])):
            raise AddressRefused(f"the address leads into a private network: {shown(url)}")


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """A file that is about to arrive."""

    offset: int
    """Where in the file its first byte belongs."""
    length: int | None
    """How many bytes were announced for this answer."""
    etag: str | None
    """A strong one, or None."""
    chunks: AsyncIterator[bytes]


def _file_answer(response: httpx.Response, offset: int) -> FileAnswer:
    status = response.status_code
    # A file's address that answers so has expired; it never means that the key is bad.
    if status in {401, 403, 404, 410}:
        raise AddressExpired(f"HTTP {status}")
    if status not in {200, 206} or (status == 206 and not offset):
        raise FileTrouble(f"HTTP {status}")
    if response.headers.get("content-encoding", "identity") not in {"identity", ""}:
        raise FileTrouble("the file came compressed, which was not asked for")
    begin = offset if status == 206 else 0
    if status == 206 and not response.headers.get("content-range", "").startswith(f"bytes {offset}-"):
        raise FileTrouble("the answer holds another part of the file than was asked for")
    length = response.headers.get("content-length", "")
    etag = response.headers.get("etag", "")
    strong = etag.startswith('"') and etag.isascii() and etag.isprintable()  # what cannot be sent back marks nothing
    return FileAnswer(begin, int(length) if length.isdigit() else None, etag if strong else None, _chunks(response))


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in raw_parts(response):
            yield chunk
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise FileTrouble(why(error)) from None


def _proxied(host: str) -> bool:
    """Whether the environment sends requests for this host through a proxy, which looks names up itself."""
    return "https" in getproxies() and not proxy_bypass(host)
