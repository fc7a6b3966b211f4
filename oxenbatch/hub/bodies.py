"""Answers of a stranger, taken in as far as an honest one goes: in bytes, in values, in time.

Whoever speaks for the hub may be anybody's proxy. What is larger than these bounds is no answer that we could use; what
is bounded here costs memory and time, never a wrong step.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ANSWER_MAX: Final = 12 * 1024 * 1024
"""Bytes: ten thousand generations. As text and as values an answer takes up to ten times that."""
VALUES_MAX: Final = 300_000  # commas and brackets: at worst a hundred bytes of memory each
REFUSAL_MAX: Final = 1024 * 1024  # bytes of an answer that only says why not
ANSWER_S: Final = 300.0  # for a whole answer: more than a slow line needs, less than somebody who drips bytes
HEAD_S: Final = 60.0  # for an answer's head, once it was asked for in full: each byte has a timeout of its own
EVENT_MAX: Final = 1024 * 1024  # characters without the end of an event; ours have three hundred

_EVENTS_END: Final = re.compile(r"(?:\r\n|\n|\r(?!\n)){2}")


class Unreadable(ValueError):
    """An answer that is not taken in."""


class TooLarge(Unreadable):
    """An answer that is larger than any that we use."""


async def content(response: httpx.Response, now: Callable[[], float]) -> bytes:
    """All of the answer's bytes, unpacked; `Unreadable` where they are too many, too slow, or not packed as asked."""
    # httpx would unpack 64 KB into 64 MB at one go, and what is packed twice into as many GB.
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "", "gzip"}:
        raise Unreadable("the answer came packed in a way that was not asked for")
    most = ANSWER_MAX if response.status_code < 400 else REFUSAL_MAX
    unpack = zlib.decompressobj(31) if encoding == "gzip" else None
    parts: list[bytes] = []
    size = 0
    began = now()
    async for raw in raw_parts(response):
        try:
            part = unpack.decompress(raw, most + 1 - size) if unpack else raw
        except zlib.error:
            raise Unreadable("the answer is not packed as it says") from None
        size += len(part)
        if size > most:
            raise TooLarge(f"the answer is larger than {most >> 20} MB")
        if now() - began > ANSWER_S:
            raise Unreadable(f"the answer did not arrive within {ANSWER_S:.0f} s")
        parts.append(part)
    if unpack and not unpack.eof:
        raise Unreadable("the answer is cut short")
    whole = b"".join(parts)
    if whole.count(b",") + whole.count(b"[") + whole.count(b"{") > VALUES_MAX:
        raise TooLarge(f"the answer holds more than {VALUES_MAX} values")
    return whole


def raw_parts(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes: nothing is decoded, and nothing cut to size."""
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - no synchronous client is used here
    return aiter(response.stream)


@asynccontextmanager
async def head_in_time(seconds: float = HEAD_S) -> AsyncIterator[dict[str, Any]]:
    """`extensions` for one request: `TimeoutError` where its answer's head does not arrive in this time.

    The time runs only while the head is awaited: a request that is cancelled while it connects would cost httpx a place
    in its pool for ever, and a long body is not sent in a hurry.
    """
    async with asyncio.timeout(None) as patience:

        async def trace(event: str, _: dict[str, Any]) -> None:
            if event.endswith("receive_response_headers.started"):
                patience.reschedule(asyncio.get_running_loop().time() + seconds)
            elif event.endswith("receive_response_headers.complete"):
                patience.reschedule(None)

        yield {"trace": trace}


class Bounded:
    """An event stream's answer as its reader sees it: `Unreadable` where an event has no end."""

    def __init__(self, response: httpx.Response) -> None:
        self.headers = response.headers
        self._response = response

    async def aiter_text(self) -> AsyncIterator[str]:
        """The stream's text as it comes."""
        if self.headers.get("content-encoding", "identity").lower() not in {"identity", ""}:
            raise Unreadable("the event stream came packed, which was not asked for")
        open_since = 0
        tail = ""
        async for text in self._response.aiter_text():
            seen = tail + text
            ends = [found.end() for found in _EVENTS_END.finditer(seen)]
            open_since = len(seen) - ends[-1] if ends else open_since + len(text)
            if open_since > EVENT_MAX:
                raise Unreadable(f"an event of more than {EVENT_MAX} characters")
            tail = seen[-3:]
            yield text
