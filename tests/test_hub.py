"""The door to the network: what left and what may have landed, whom the key is told to, and where files may lie."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from world import _tls

from oxenbatch.addresses import AddressRefused
from oxenbatch.errors import ConfigProblem
from oxenbatch.hub import AddressExpired, FileTrouble, Hub, HubTrouble, NotFound, TooLargeToStore, check_key
from oxenbatch.jobs import sealed
from oxenbatch.wire import Answer, Cause, InputPlace, Outcome, Target

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

ID = "11111111-2222-4333-8444-555555555555"
OTHER = "99999999-2222-4333-8444-555555555555"
HUB = "https://hub.example"
KEY = "sk-secret-key"


@pytest.fixture(autouse=True)
def _quick_tls(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    tls = _tls()
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: tls)
    return tls


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_seconds: float) -> None:
        return None

    monkeypatch.setattr(asyncio, "sleep", at_once)


def _with(handler: Any, use: Callable[[Hub], Any], *, base_url: str = HUB, target: Target | None = None) -> Any:
    """What `use` makes of a hub that answers like this; every request is kept in `handler.seen`, if it has one."""

    async def main() -> Any:
        async with Hub(base_url, KEY, transport=httpx.MockTransport(handler), target=target) as hub:
            return await use(hub)

    return asyncio.run(main())


def _enqueue(handler: Any, count: int = 1) -> Answer:
    intent = sealed(1, "a-model", {"prompt": "x"}, count, "token")
    answer: Answer = _with(handler, lambda hub: hub.enqueue(intent))
    return answer


def _raising(error: Exception) -> Any:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return handler


# -- the POST: could it have landed? --------------------------------------------------------------------------------

NEVER_LEFT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
)
MAY_HAVE_LANDED = (
    httpx.ReadTimeout,
    httpx.WriteTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
    httpx.TooManyRedirects,
    httpx.DecodingError,
)


@pytest.mark.parametrize("error", NEVER_LEFT)
def test_a_post_that_never_left_was_not_sent(error: type[Exception]) -> None:
    assert _enqueue(_raising(error("no"))).outcome is Outcome.NOT_SENT


@pytest.mark.parametrize("error", MAY_HAVE_LANDED)
def test_a_post_that_broke_once_connected_may_have_landed(error: type[Exception]) -> None:
    assert _enqueue(_raising(error("no"))).outcome is Outcome.UNKNOWN


def test_every_error_of_a_request_that_httpx_knows_has_a_class_of_its_own_here() -> None:
    def below(kind: type[Exception]) -> set[type[Exception]]:
        own = [one for one in kind.__subclasses__() if one.__module__.startswith("httpx.") or one.__module__ == "httpx"]
        return {kind}.union(*(below(one) for one in own))

    abstract = {httpx.RequestError, httpx.TransportError, httpx.TimeoutException, httpx.NetworkError,
                httpx.ProtocolError}  # fmt: skip
    assert below(httpx.RequestError) - abstract == {*NEVER_LEFT, *MAY_HAVE_LANDED}


def test_a_post_is_sent_once_whatever_becomes_of_it() -> None:
    for result in (httpx.ReadError("no"), httpx.ConnectError("no"), 500, 429, 307):
        seen: list[httpx.Request] = []

        def handler(request: httpx.Request, result: Any = result, seen: list[httpx.Request] = seen) -> httpx.Response:
            seen.append(request)
            if isinstance(result, Exception):
                raise result
            return httpx.Response(result, json={}, headers={"location": f"{HUB}/elsewhere"})

        _enqueue(handler)
        assert len(seen) == 1


def test_the_error_of_a_post_does_not_tell_the_key_or_a_signed_address() -> None:
    answer = _enqueue(_raising(httpx.ReadError("https://files.example/x?signature=secret")))

    assert "secret" not in answer.words
    assert KEY not in repr(answer)


def test_an_answer_of_ids_that_nobody_could_use_is_unknown_and_keeps_those_that_came() -> None:
    rows = [{"generation_id": ID}, {"generation_id": "../../x"}]
    answer = _enqueue(lambda _: httpx.Response(200, json={"generations": rows}), 2)

    assert (answer.outcome, answer.ids) == (Outcome.UNKNOWN, (ID,))


def test_a_pool_that_never_gave_a_connection_is_replaced() -> None:
    tries = 0

    def handler(_request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise httpx.PoolTimeout("full")
        return httpx.Response(200, json={"generations": [{"generation_id": ID}]})

    async def use(hub: Hub) -> tuple[bool, Answer]:
        before = hub._api
        await hub.enqueue(sealed(1, "m", {}, 1, "t"))
        return before.is_closed, await hub.enqueue(sealed(2, "m", {}, 1, "t2"))

    closed, answer = _with(handler, use)
    assert closed
    assert answer.outcome is Outcome.ACCEPTED


def test_nothing_but_an_intent_can_be_enqueued() -> None:
    with pytest.raises(TypeError):
        _with(lambda _: httpx.Response(200), lambda hub: hub.enqueue({"model": "m"}))


def test_a_target_ends_in_the_submissions_own_token() -> None:
    seen: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, json={"generations": [{"generation_id": ID}]})

    _with(handler, lambda hub: hub.enqueue(sealed(1, "m", {"prompt": "x"}, 1, "tok")), target=Target("n", "r", "d"))

    assert seen == [
        {"model": "m", "prompt": "x", "target_namespace": "n", "target_repo": "r", "target_directory": "d/tok"}
    ]


# -- calls that read ------------------------------------------------------------------------------------------------

READS: dict[str, Any] = {
    "list": lambda hub: hub.active(),
    "get": lambda hub: hub.generation(ID),
    "history": lambda hub: hub.history(),
    "catalogue": lambda hub: hub.models(),
    "model": lambda hub: hub.model("a/b c"),
    "cancel": lambda hub: hub.cancel(ID),
}
TROUBLES: dict[str, tuple[Any, Cause | None, int]] = {
    "the connection dies": (httpx.ReadError("no"), Cause.HUB, 3),
    "silence": (httpx.ReadTimeout("no"), Cause.HUB, 3),
    "no network": (httpx.ConnectError("no"), Cause.HUB, 3),
    "500": (httpx.Response(500, json={"error": "x"}), Cause.HUB, 3),
    "a page of 502": (httpx.Response(502, text="<html>"), Cause.HUB, 3),
    "a page of 403": (httpx.Response(403, text="<html>sign in"), Cause.HUB, 3),
    "a redirect": (httpx.Response(307, headers={"location": "https://elsewhere.example/"}), Cause.HUB, 3),
    "broken JSON": (httpx.Response(200, text='{"generations": ['), Cause.HUB, 3),
    "an empty answer": (httpx.Response(200, text=""), Cause.HUB, 3),
    "a list": (httpx.Response(200, json=[]), Cause.HUB, 3),
    "429": (httpx.Response(429, json={"error": "x"}, headers={"retry-after": "7"}), Cause.RATE, 3),
    "401": (httpx.Response(401, json={"status_message": "unauthenticated"}), Cause.KEY, 1),
    "403": (httpx.Response(403, json={"status_message": "forbidden"}), Cause.KEY, 1),
    "400": (httpx.Response(400, json={"error": "x"}), None, 1),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("call", READS)
def test_a_reading_call_is_asked_three_times_where_that_may_help(call: str, trouble: str) -> None:
    result, cause, tries = TROUBLES[trouble]
    seen = 0

    def handler(_request: httpx.Request) -> httpx.Response:
        nonlocal seen
        seen += 1
        if isinstance(result, Exception):
            raise result
        return httpx.Response(result.status_code, content=result.content, headers=result.headers)

    with pytest.raises(HubTrouble) as raised:
        _with(handler, READS[call])

    assert (raised.value.cause, seen) == (cause, tries)
    assert KEY not in str(raised.value)


def test_what_the_hub_does_not_know_is_looked_for_in_the_history_too() -> None:
    paths: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        if "/ai/queue/" in request.url.path:
            return httpx.Response(404, json={"status_message": "resource_not_found"})
        return httpx.Response(200, json={"generation": {"generation_id": ID, "status": "succeeded"}})

    assert _with(handler, lambda hub: hub.generation(ID)).status == "succeeded"
    assert paths == [f"/api/ai/queue/{ID}", f"/api/ai/generations/{ID}"]


def test_an_id_that_is_in_neither_place_is_not_found() -> None:
    with pytest.raises(NotFound):
        _with(lambda _: httpx.Response(404, json={}), lambda hub: hub.generation(ID))


def test_an_answer_about_another_generation_is_not_taken_for_this_one() -> None:
    row = {"generation_id": OTHER, "status": "succeeded"}
    with pytest.raises(HubTrouble):
        _with(lambda _: httpx.Response(200, json=row), lambda hub: hub.generation(ID))


def test_an_id_that_is_no_uuid_gets_into_no_address() -> None:
    with pytest.raises(ValueError, match="UUID"):
        _with(lambda _: httpx.Response(200, json={}), lambda hub: hub.cancel("../models"))


def _page(rows: list[tuple[str, float]], number: int, pages: int) -> httpx.Response:
    found = [{"generation_id": i, "status": "queued", "enqueued_at": at} for i, at in rows]
    return httpx.Response(200, json={"generations": found, "page_number": number, "total_pages": pages})


def _ids(*numbers: int) -> list[str]:
    return [f"{n:08x}-2222-4333-8444-555555555555" for n in numbers]


def test_the_history_is_read_back_to_the_moment_that_is_asked_for_and_no_further() -> None:
    a, b, c, d = _ids(1, 2, 3, 4)
    pages = {1: [(a, 400.0), (b, 300.0)], 2: [(c, 200.0), (d, 90.0)], 3: []}
    asked: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(int(request.url.params["page"]))
        return _page(pages[asked[-1]], asked[-1], 3)

    rows = _with(handler, lambda hub: hub.history_since(100.0))
    assert [row.generation_id for row in rows] == [a, b, c, d]
    assert asked == [1, 2]


def test_a_history_in_another_order_is_read_to_its_end() -> None:
    a, b, c = _ids(1, 2, 3)
    pages = {1: [(a, 10.0)], 2: [(b, 500.0)], 3: [(c, 20.0)]}
    asked: list[int] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(int(request.url.params["page"]))
        return _page(pages[asked[-1]], asked[-1], 3)

    # Its first page looks as if all were older; the second shows that the order is another.
    rows = _with(handler, lambda hub: hub.history_since(5.0))
    assert {row.generation_id for row in rows} == {a, b, c}
    assert asked == [1, 2, 3]


def test_a_history_of_which_a_page_fails_is_no_history() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        number = int(request.url.params["page"])
        return _page([(_ids(1)[0], 400.0)], 1, 2) if number == 1 else httpx.Response(500)

    with pytest.raises(HubTrouble):
        _with(handler, lambda hub: hub.history_since(100.0))


# -- since when the hub has been out of reach -----------------------------------------------------------------------


def test_the_hub_is_out_of_reach_from_the_first_failure_until_it_answers() -> None:
    answers: list[Any] = [httpx.ReadError("no")] * 3 + [httpx.Response(200, json={"data": []})]

    def handler(_request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def use(hub: Hub) -> tuple[bool, bool]:
        with pytest.raises(HubTrouble):
            await hub.models()
        lost = hub.unreachable_since is not None
        await hub.models()
        return lost, hub.unreachable_since is not None

    assert _with(handler, use) == (True, False)


# -- events ---------------------------------------------------------------------------------------------------------


def _listen(content: bytes, **headers: str) -> list[str]:
    async def use(hub: Hub) -> list[str]:
        async with hub.listen() as stream:
            return [generation.generation_id async for generation in stream]

    heard: list[str] = _with(
        lambda _: httpx.Response(200, content=content, headers={"content-type": "text/event-stream"} | headers), use
    )
    return heard


def test_only_what_tells_of_an_end_is_heard() -> None:
    data = json.dumps({"generation_id": ID, "status": "succeeded"}).encode()
    content = (
        b": keep-alive\n\n"
        b"event: repository_updated\ndata: {}\n\n"
        b"event: media_generation_completed\ndata: broken\n\n"
        b"event: media_generation_completed\ndata: " + data + b"\n\n"
    )

    assert _listen(content) == [ID]


def test_a_page_in_place_of_the_stream_is_trouble_and_no_news() -> None:
    with pytest.raises(HubTrouble):
        _listen(b"<html>", **{"content-type": "text/html"})


# -- files: whom the key is told to, and where they may lie ---------------------------------------------------------


def _fetch(handler: Any, url: str, *, base_url: str = HUB, **options: Any) -> Any:
    async def use(hub: Hub) -> bytes:
        async with hub.open_file(url, **options) as answer:
            return b"".join([chunk async for chunk in answer.chunks])

    return _with(handler, use, base_url=base_url)


class Files:
    """Answers by address; what was asked, and with which headers, is kept."""

    def __init__(self, **answers: httpx.Response) -> None:
        self.answers = answers
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers[request.url.path.strip("/")]
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))

    def told(self) -> list[tuple[str, str | None]]:
        return [(request.url.host, request.headers.get("authorization")) for request in self.seen]


def _to(location: str) -> httpx.Response:
    return httpx.Response(302, headers={"location": location})


def test_the_key_goes_to_the_hubs_own_host_and_to_no_other() -> None:
    files = Files(mine=_to("https://files.example/theirs"), theirs=_to(f"{HUB}/again"), again=httpx.Response(200))

    _fetch(files, f"{HUB}/mine")

    assert files.told() == [("hub.example", f"Bearer {KEY}"), ("files.example", None), ("hub.example", f"Bearer {KEY}")]


@pytest.mark.parametrize("other", [
    "https://hub.example:444/x",
    "https://hub.example.evil.example/x",
    "https://HUB.example./x",
])  # fmt: skip
def test_an_address_that_only_looks_like_the_hubs_gets_no_key(other: str) -> None:
    files = Files(x=httpx.Response(200, content=b"file"))

    _fetch(files, other)

    assert KEY not in str(files.seen[0].headers.raw)


def test_an_address_relative_to_the_hub_is_the_hubs() -> None:
    files = Files(**{"api/files/1": httpx.Response(200, content=b"file")})

    assert _fetch(files, "/api/files/1") == b"file"
    assert files.told() == [("hub.example", f"Bearer {KEY}")]


@pytest.mark.parametrize("url", [
    "http://files.example/x",
    "https://hub.example@evil.example/x",
    "https://user:word@files.example/x",
    "ftp://files.example/x",
    "file:///etc/passwd",
    "data:image/png;base64,AAAA",
    "https://files.example:99999/x",
])  # fmt: skip
def test_an_address_that_is_not_https_is_refused(url: str) -> None:
    with pytest.raises((AddressRefused, FileTrouble)):
        _fetch(Files(x=httpx.Response(200)), url)


def test_a_redirect_away_from_https_is_refused() -> None:
    files = Files(x=_to("http://files.example/y"), y=httpx.Response(200))

    with pytest.raises(AddressRefused):
        _fetch(files, "https://files.example/x")
    assert len(files.seen) == 1


def test_a_redirect_without_a_place_to_go_is_refused() -> None:
    with pytest.raises(AddressRefused):
        _fetch(Files(x=httpx.Response(302)), "https://files.example/x")


def test_redirects_that_run_in_a_circle_end() -> None:
    files = Files(x=_to("/y"), y=_to("/x"))

    with pytest.raises(FileTrouble, match="redirects"):
        _fetch(files, "https://files.example/x")
    assert len(files.seen) == 6


PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "192.168.0.1",
    "169.254.169.254",
    "[::1]",
    "[fd00::1]",
    "[::ffff:10.0.0.1]",
    "0.0.0.0",  # noqa: S104 - nobody binds to it: it is refused
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_in_a_private_network_is_refused_before_anybody_is_asked(address: str) -> None:
    async def main() -> None:
        async with Hub(HUB, KEY) as hub, hub.open_file(f"https://{address}/x"):
            pass

    with pytest.raises(AddressRefused, match="private"):
        asyncio.run(main())


def test_a_name_that_leads_into_a_private_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def getaddrinfo(*_args: Any, **_options: Any) -> list[Any]:
            return [(0, 0, 0, "", ("93.184.216.34", 443)), (0, 0, 0, "", ("10.0.0.1", 443))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        async with Hub(HUB, KEY) as hub, hub.open_file("https://files.example/x"):
            pass

    with pytest.raises(AddressRefused, match="private"):
        asyncio.run(main())


def test_a_name_that_led_elsewhere_when_it_was_checked_is_refused_by_whom_we_reached() -> None:
    class Peer:
        def get_extra_info(self, _name: str) -> tuple[str, int]:
            return ("169.254.169.254", 443)

    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"secret", extensions={"network_stream": Peer()})

    with pytest.raises(AddressRefused, match="private"):
        _fetch(handler, "https://files.example/x")


def test_where_the_hub_is_this_machine_its_files_may_be_too() -> None:
    files = Files(x=httpx.Response(200, content=b"file"))

    assert _fetch(files, "http://127.0.0.1:8001/x", base_url="http://127.0.0.1:8000") == b"file"
    assert files.told() == [("127.0.0.1", None)]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_is_refused_has_expired_and_says_nothing_of_the_key(status: int) -> None:
    with pytest.raises(AddressExpired):
        _fetch(Files(x=httpx.Response(status, json={"status_message": "unauthenticated"})), "https://files.example/x")


@pytest.mark.parametrize(("answer", "options"), [
    (httpx.Response(500), {}),
    (httpx.Response(204), {}),
    (httpx.Response(206, content=b"x", headers={"content-range": "bytes 0-0/9"}), {}),
    (httpx.Response(206, content=b"x", headers={"content-range": "bytes 3-3/9"}), {"offset": 5, "etag": '"e"'}),
    (httpx.Response(206, content=b"x"), {"offset": 5, "etag": '"e"'}),
    (httpx.Response(416), {"offset": 5, "etag": '"e"'}),
    (httpx.Response(200, headers={"content-encoding": "br"}), {}),
])  # fmt: skip
def test_an_answer_that_is_not_the_file_that_was_asked_for_is_trouble(answer: httpx.Response, options: Any) -> None:
    with pytest.raises(FileTrouble):
        _fetch(Files(x=answer), "https://files.example/x", **options)


def test_the_rest_of_a_file_is_asked_for_only_where_its_bytes_are_marked() -> None:
    files = Files(x=httpx.Response(206, content=b"rest", headers={"content-range": "bytes 5-8/9"}))

    _fetch(files, "https://files.example/x", offset=5, etag='"e"')

    asked = files.seen[0].headers
    assert (asked["range"], asked["if-range"], asked["accept-encoding"]) == ("bytes=5-", '"e"', "identity")


# -- the key --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "  ", "a b", "a\nb", "clé", "a\x00b"])
def test_a_key_that_could_not_stand_in_a_header_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ConfigProblem) as raised:
        check_key(key)
    assert "clé" not in str(raised.value)


def test_a_key_loses_the_spaces_around_it_and_the_hub_does_not_show_it() -> None:
    assert check_key(f" {KEY}\n") == KEY
    assert KEY not in repr(Hub(HUB, KEY))


# -- files that requests send along ---------------------------------------------------------------------------------


def _store(handler: Any, name: str = "n.png", content: bytes = b"bytes") -> None:
    async def main() -> None:
        place = InputPlace("a b", "refs")
        async with Hub(HUB, KEY, transport=httpx.MockTransport(handler), inputs=place) as hub:
            if not await hub.store.has(name, len(content)):
                await hub.store.put(name, io.BytesIO(content), "image/png")

    asyncio.run(main())


def test_a_file_is_stored_with_the_key_under_its_own_address_and_only_if_it_is_not_there() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404 if request.method == "HEAD" else 200, json={"status": "success"})

    _store(handler)
    head, put = seen
    assert {str(request.url) for request in seen} == {"https://hub.example/api/repos/a%20b/refs/file/main/inputs/n.png"}
    assert put.headers["authorization"] == f"Bearer {KEY}"
    for part in (b'name="file"; filename="n.png"', b"image/png\r\n\r\nbytes\r\n", b'name="message"', b'name="name"',
                 b'name="email"'):  # fmt: skip
        assert part in put.content
    assert head.method == "HEAD"

    seen.clear()
    _store(lambda request: seen.append(request) or httpx.Response(200, headers={"content-length": "5"}))
    assert [request.method for request in seen] == ["HEAD"]
    seen.clear()
    _store(lambda request: seen.append(request) or httpx.Response(200, headers={"content-length": "4"}, json={}))
    assert [request.method for request in seen] == ["HEAD", "PUT"]


@pytest.mark.parametrize(
    ("answer", "kind", "cause", "tries"),
    [
        (httpx.ReadError("no"), HubTrouble, Cause.HUB, 3),
        (httpx.Response(409, json={"error": "another commit"}), HubTrouble, Cause.HUB, 3),
        (httpx.Response(503, text="<html>"), HubTrouble, Cause.HUB, 3),
        (httpx.Response(429, json={"error": "x"}), HubTrouble, Cause.RATE, 3),
        (httpx.Response(307, headers={"location": "https://elsewhere.example/"}), HubTrouble, Cause.HUB, 3),
        (httpx.Response(413, text="<html>"), TooLargeToStore, None, 1),
        (httpx.Response(403, json={"status_message": "forbidden"}), HubTrouble, Cause.KEY, 1),
        (httpx.Response(404, json={"status_message": "resource_not_found"}), NotFound, None, 1),
        (httpx.Response(422, json={"error": "x"}), HubTrouble, None, 1),
    ],
)
def test_storing_is_tried_again_only_where_that_may_help(answer: Any, kind: Any, cause: Any, tries: int) -> None:
    puts: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(404)
        puts.append(request.content)
        if isinstance(answer, Exception):
            raise answer
        response: httpx.Response = answer
        return response

    with pytest.raises(kind) as caught:
        _store(handler)
    assert (caught.value.cause, len(puts)) == (cause, tries)
    assert all(b"bytes" in content for content in puts)  # the whole file each time
    assert KEY not in str(caught.value)
