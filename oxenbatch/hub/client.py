"""The hub's calls and its event stream."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import quote
from urllib.request import getproxies

import httpx

from oxenbatch import __version__
from oxenbatch.addresses import is_loopback, origin_of
from oxenbatch.clock import Clock, HubClock, SystemClock
from oxenbatch.errors import ConfigProblem
from oxenbatch.hub.again import TRIES, asked_again
from oxenbatch.hub.bodies import Bounded, TooLarge, Unreadable, content, head_in_time
from oxenbatch.hub.connections import Connections, Proxied, Way
from oxenbatch.hub.files import FileAnswer, Files
from oxenbatch.hub.store import Store
from oxenbatch.hub.trouble import HubTrouble, NotFound, TooMuch, why
from oxenbatch.jobs import Intent
from oxenbatch.plan import DOWNLOADS, OPEN_POSTS, STORES
from oxenbatch.wire import (
    Answer,
    Generation,
    InputPlace,
    Outcome,
    Page,
    Target,
    as_uuid,
    enqueue_body,
    http_date,
    read_answer,
    read_event,
    read_generation,
    read_generations,
    read_page,
    retry_after,
)
from oxenbatch.words import Cause, error_words

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

DEFAULT_HUB: Final = "https://hub.oxen.ai"
CONNECT_S: Final = 10.0
GET_S: Final = 30.0
SILENCE_S: Final = 45.0  # three times a missed keep-alive of 15 s: the event stream is dead
GET_TRIES: Final = TRIES
ACCOUNT_PAGE: Final = 1000  # rows a page: the hub's own maximum

logging.getLogger("httpx").setLevel(logging.WARNING)  # at INFO it prints addresses with their signatures
logging.getLogger("httpcore").setLevel(logging.WARNING)

T = TypeVar("T")

_NEVER_LEFT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
)


def check_key(key: str) -> str:
    """The key without spaces around it; `ConfigProblem` where it could not stand in a header."""
    key = key.strip()
    quoted = key[:1] in "'\"`" or key[-1:] in "'\"`"
    # httpx prints a header's value when it holds a newline, so a key like that never gets that far.
    if not key or not key.isascii() or not key.isprintable() or " " in key or quoted:
        raise ConfigProblem(
            "the key is empty or holds characters that no key has: check OXEN_API_KEY for quotes, spaces"
        )
    return key


class Hub:
    """The hub at `base_url`, with this key. An async context manager; bound to the running event loop."""

    def __init__(
        self,
        base_url: str = DEFAULT_HUB,
        key: str | None = None,
        *,
        clock: Clock | None = None,
        target: Target | None = None,
        inputs: InputPlace | None = None,
        post_timeout_s: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.origin = origin_of(base_url)
        self.target = target
        self.clock = clock or SystemClock()
        self.time = HubClock(self.clock)
        self.unreachable_since: float | None = None
        """Since when (monotonic seconds) no call has had a usable answer; None while the hub answers."""
        self._key = check_key(key) if key is not None else None
        self._post_timeout_s = post_timeout_s
        self._transport = transport
        self._on_loopback = is_loopback(self.origin)
        self._tls: ssl.SSLContext | None = None
        self._api = self._way(OPEN_POSTS + 4, keyed=True)
        self._keyless = self._way(DOWNLOADS, keyed=False)
        self._files = Files(self._keyless, self.origin, self._key, looks_up=transport is None)
        self._events = self._way(1, keyed=True)
        self._storing = self._way(STORES, keyed=True)
        self.store = Store(self._storing, self.origin, inputs, self._understood, self._out_of_reach)

    def __repr__(self) -> str:
        return f"<Hub {self.origin}>"

    def _way(self, connections: int, *, keyed: bool) -> Way:
        """A way of its own for each kind of traffic: a slow download keeps no POST waiting."""
        headers = {"User-Agent": f"oxenbatch/{__version__}", "Accept-Encoding": "gzip"}
        if keyed and self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        transport = self._transport
        if transport is None:
            # A proxy from the environment, but never between us and ourselves.
            kind = Proxied if getproxies() and not self._on_loopback else Connections
            transport = kind(connections, self._trusted)
        return Way(transport, headers, httpx.Timeout(GET_S, connect=CONNECT_S, pool=None))

    def _trusted(self) -> ssl.SSLContext:
        """Whose certificates are believed; made once, and where it is needed: it takes 40 ms."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for way in (self._api, self._keyless, self._events, self._storing):
            await way.aclose()

    # -- the one call that costs money ----------------------------------------------------------------------------

    async def enqueue(self, intent: Intent) -> Answer:
        """What the hub answered to this intent's POST, or what is known without an answer. Sent once, never again."""
        if not isinstance(intent, Intent):
            raise TypeError("only an Intent can be enqueued")
        body = enqueue_body(intent.model, intent.parameters, intent.count, self.target, intent.token)
        sent = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            async with (
                head_in_time() as extensions,
                self._api.open(
                    "POST",
                    f"{self.origin}/api/ai/queue",
                    content=sent,
                    headers={"Content-Type": "application/json"},
                    timeout=httpx.Timeout(self._post_timeout_s, connect=CONNECT_S, pool=None),
                    extensions=extensions,
                ) as response,
            ):
                moment = self.clock.monotonic()
                told = await content(response, self.clock.monotonic)
        except _NEVER_LEFT as error:
            self._out_of_reach()
            if isinstance(error, httpx.PoolTimeout):
                await self._renew_api_client()
            return Answer(Outcome.NOT_SENT, words=why(error), cause=Cause.HUB)
        except (httpx.HTTPError, httpx.StreamError, ValueError, TimeoutError) as error:
            self._out_of_reach()
            return Answer(Outcome.UNKNOWN, words=why(error), cause=Cause.HUB)
        answer = read_answer(response.status_code, response.headers, told, intent.count)
        self._heard(response, usable=answer.cause is not Cause.HUB, at=moment)
        return answer

    async def _renew_api_client(self) -> None:
        # httpx 0.28 (behind a proxy) never gives back the slot of a request that was cancelled while it connected.
        old, self._api = self._api, self._way(OPEN_POSTS + 4, keyed=True)
        await old.aclose()

    # -- calls that only read -------------------------------------------------------------------------------------

    async def active(self, **filters: str | None) -> list[Generation]:
        """Every generation that is queued or processing, of all of this account's programs, in one call."""
        try:
            return _read(read_generations, await self._get("/ai/queue", filters))
        except TooMuch:
            # So many that they do not fit one answer: the same rows, in parts.
            listed = [await self._history({**filters, "status": status}) for status in ("queued", "processing")]
            return [row for rows in listed for row in rows]

    async def history(self, page: int = 1, *, page_size: int = ACCOUNT_PAGE, **filters: str | None) -> Page:
        """One page of everything that this account ever made, in every status."""
        query = {**filters, "page": str(page), "page_size": str(page_size)}
        return _read(read_page, await self._get("/ai/generations", query))

    async def history_since(
        self, since: float, wanted: set[str] | None = None, *, namespace: str | None = None
    ) -> list[Generation]:
        """The account's rows since then, by the hub's clock; with `wanted`, only as far as those are found.

        `namespace`: whose rows; else the target's. Complete, or `HubTrouble`. Stops at older rows only while the pages
        are seen to run from new to old.
        """
        namespace = namespace or (self.target.namespace if self.target else None)
        return await self._history({"namespace": namespace}, since, wanted)

    async def _history(
        self, filters: Mapping[str, str | None], since: float = -math.inf, wanted: set[str] | None = None
    ) -> list[Generation]:
        """The account's rows, in pages as large as can be read."""
        size = ACCOUNT_PAGE if wanted is None else min(ACCOUNT_PAGE, max(50, 2 * len(wanted)))
        while True:
            try:
                return await self._pages(since, wanted, size, filters)
            except TooMuch:
                if size == 1:
                    raise
                size = max(1, size // 8)

    async def _pages(
        self, since: float, wanted: set[str] | None, size: int, filters: Mapping[str, str | None]
    ) -> list[Generation]:
        rows: dict[str, Generation] = {}
        page, stuck, newest_first, last = 1, 0, True, math.inf
        while True:
            answer = await self.history(page, page_size=size, **filters)
            if answer.number != page:
                raise HubTrouble(f"page {page} of the history was asked for, and {answer.number} came", cause=Cause.HUB)
            known = len(rows)
            for generation in answer.generations:
                rows[generation.generation_id] = generation
                at = generation.enqueued_at
                if at is not None:
                    newest_first = newest_first and at <= last
                    last = at
            past = newest_first and last < since
            if page >= answer.pages or past or (wanted is not None and wanted <= rows.keys()):
                return [row for row in rows.values() if wanted is None or row.generation_id in wanted]
            # A row that comes in meanwhile pushes the others a place on: so one page may well repeat the one before.
            stuck = stuck + 1 if len(rows) == known else 0
            if stuck > 2:
                raise HubTrouble("the hub's history has more pages than rows", cause=Cause.HUB)
            page += 1

    async def generation(self, generation_id: str) -> Generation:
        """One generation, whatever its status; `NotFound` where the hub knows it in neither of its places."""
        try:
            payload = await self._get(f"/ai/queue/{_id(generation_id)}")
        except NotFound:
            # Older hubs answer 404 here once a generation is terminal; the history still has it.
            payload = await self._get(f"/ai/generations/{_id(generation_id)}")
            payload = payload.get("generation") if isinstance(payload, dict) else None
        generation = read_generation(payload)
        if generation is None or generation.generation_id != generation_id:
            raise HubTrouble("the hub's answer about a generation cannot be read", cause=Cause.HUB)
        return generation

    async def models(self) -> Any:
        """The catalogue, as the hub says it."""
        return await self._get("/ai/models")

    async def model(self, model_id: str) -> Any:
        """One model of the catalogue; `NotFound` where there is none."""
        return await self._get(f"/ai/models/{quote(model_id, safe='')}")

    async def cancel(self, generation_id: str) -> None:
        """The generation is cancelled, or was terminal already; `NotFound` where the hub does not know it."""
        await self._call("DELETE", f"/ai/queue/{_id(generation_id)}")

    async def _get(self, path: str, query: Mapping[str, str | None] | None = None) -> Any:
        return await self._call("GET", path, {name: value for name, value in (query or {}).items() if value})

    async def _call(self, method: str, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The answer's JSON, after up to three tries; `HubTrouble` in all its kinds where there is none."""
        return await asked_again(lambda: self._call_once(method, path, query), GET_TRIES)

    async def _call_once(self, method: str, path: str, query: Mapping[str, str] | None) -> Any:
        try:
            async with (
                head_in_time() as extensions,
                self._api.open(method, f"{self.origin}/api{path}", params=query, extensions=extensions) as response,
            ):
                moment = self.clock.monotonic()  # `Date` was true when the headers came, not after a long list
                told = await content(response, self.clock.monotonic)
        except httpx.PoolTimeout as error:
            await self._renew_api_client()
            raise HubTrouble(why(error), cause=Cause.HUB) from None
        except TooLarge as error:
            raise TooMuch(f"{method} {path}: {error}") from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, ValueError, TimeoutError) as error:
            self._out_of_reach()
            raise HubTrouble(f"{method} {path}: {why(error)}", cause=Cause.HUB) from None
        return self._understood(response, told, f"{method} {path}", moment)

    def _understood(self, response: httpx.Response, told: bytes, call: str, moment: float | None = None) -> Any:
        status = response.status_code
        try:
            payload = json.loads(told)
        except (ValueError, RecursionError):
            payload = None
        words = f"{call}: {error_words(payload) or f'HTTP {status}'}"
        usable = isinstance(payload, dict) and status < 500
        self._heard(response, usable=usable, at=moment)
        if 200 <= status < 300 and usable:
            return payload
        if usable and status in {401, 403}:
            raise HubTrouble(words, cause=Cause.KEY)
        if usable and status == 404:
            raise NotFound(words)
        if status == 429:
            raise HubTrouble(words, cause=Cause.RATE, wait_s=retry_after(response.headers))
        raise HubTrouble(words, cause=Cause.HUB if not usable or status == 429 else None)

    def _heard(self, response: httpx.Response, *, usable: bool, at: float | None = None) -> None:
        if usable:
            self.time.hear(http_date(response.headers.get("date")), at)
            self.unreachable_since = None
        else:
            self._out_of_reach()

    def _out_of_reach(self) -> None:
        if self.unreachable_since is None:
            self.unreachable_since = self.clock.monotonic()

    # -- events ---------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Generation]]:
        """While inside, every end that the hub announces is yielded; nothing is buffered by the hub for later.

        The iterator ends when the hub closes the stream; `HubTrouble` when it breaks or falls silent.
        """
        from httpx_sse import EventSource  # noqa: PLC0415 - only a run listens

        try:
            async with (
                head_in_time() as extensions,
                self._events.open(
                    "GET",
                    f"{self.origin}/api/events",
                    headers={"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"},
                    timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S, pool=None),
                    extensions=extensions,
                ) as response,
            ):
                if response.status_code != 200:
                    told = await content(response, self.clock.monotonic)
                    self._understood(response, told, "GET /events")
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    raise HubTrouble("GET /events: the answer is no event stream", cause=Cause.HUB)
                self._heard(response, usable=True)
                yield _news(EventSource(Bounded(response)))  # type: ignore[arg-type]  # all that it asks of a response
        except (
            httpx.HTTPError,
            httpx.StreamError,
            httpx.InvalidURL,
            UnicodeDecodeError,
            Unreadable,
            TimeoutError,
        ) as error:
            raise HubTrouble(f"GET /events: {why(error)}", cause=Cause.HUB) from None

    # -- files ----------------------------------------------------------------------------------------------------

    def open_file(
        self, url: str, *, offset: int = 0, etag: str | None = None
    ) -> contextlib.AbstractAsyncContextManager[FileAnswer]:
        """The answer behind a result's address, its bytes still to come; see `Files.open`."""
        return self._files.open(url, offset=offset, etag=etag)


async def _news(source: Any) -> AsyncIterator[Generation]:
    async for event in source.aiter_sse():
        if event.data and (generation := read_event(event.event, event.data)):
            yield generation


def _read(reader: Callable[[Any], T], payload: Any) -> T:
    try:
        return reader(payload)
    except ValueError as error:
        raise HubTrouble(str(error), cause=Cause.HUB) from None


def _id(generation_id: str) -> str:
    checked = as_uuid(generation_id)
    if checked is None:
        raise ValueError("a generation_id is a UUID")
    return checked
