"""What the hub says is read without trust, and no answer is read so that money is paid twice or a result is lost."""

from __future__ import annotations

import json
import unicodedata
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oxenbatch.echo import echoes
from oxenbatch.jobs import Event
from oxenbatch.wire import (
    RETRY_AFTER_MAX_S,
    STATUS_EVENTS,
    Generation,
    Outcome,
    Target,
    as_uuid,
    enqueue_body,
    http_date,
    read_answer,
    read_dollars,
    read_event,
    read_generation,
    read_generations,
    read_page,
    retry_after,
)
from oxenbatch.words import Cause, cause_of, error_words, fails_again, failure_event

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ID2 = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
REFUSED, AWAY, UNKNOWN, ACCEPTED = Outcome.REFUSED, Outcome.TURNED_AWAY, Outcome.UNKNOWN, Outcome.ACCEPTED
OF_THE_ROW = [400, 404, 413, 415, 422]
OF_THE_RUN = {401: Cause.KEY, 402: Cause.CREDITS, 403: Cause.KEY, 429: Cause.RATE}
IN_DOUBT = sorted({*range(300, 600)} - {*OF_THE_ROW, *OF_THE_RUN})

SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**308, max_value=10**320)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([ID, ID.upper(), "queued", "succeeded", "failed", "media_generation_completed", "1e999", "NaN"])
)
NAMES = st.text(max_size=5) | st.sampled_from([
    "generation_id", "status", "generations", "error", "detail", "message", "title", "status_message", "result_url",
    "images", "videos", "url", "enqueued_at", "completed_at", "cost", "model_name", "page_number", "total_pages",
])  # fmt: skip
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=7), max_leaves=15
)


def row(**changes: Any) -> dict[str, Any]:
    return {
        "generation_id": ID,
        "model_name": "nano-banana-2",
        "media_type": "image",
        "status": "queued",
        "result_url": None,
        "error_message": None,
        "enqueued_at": 1_800_000_000,
        "started_at": None,
        "completed_at": None,
        "prompt": "A red cube",
    } | changes


def body(*ids: str, **more: Any) -> bytes:
    return json.dumps({"generations": [{"generation_id": i, "status": "queued"} for i in ids], **more}).encode()


def words(text: str) -> bytes:
    return json.dumps({"error": {"message": text}}).encode()


# -- nothing that the hub may send is an error of ours --------------------------------------------------------------


@given(value=JSON)
@example(value={"generation_id": ID, "status": []})
@example(value={"generation_id": ID, "status": "queued", "enqueued_at": 10**400})
@example(value={"generation_id": ID, "status": "queued", "cost": 10**5000})
@example(value={"generation_id": ID, "status": "succeeded", "images": [[]]})
def test_any_row_is_read_or_left_out(value: Any) -> None:
    generation = read_generation(value)

    if generation is not None:
        assert as_uuid(generation.generation_id) == generation.generation_id
        assert generation.status in STATUS_EVENTS
        times = (generation.enqueued_at, generation.started_at, generation.completed_at)
        assert all(at is None or abs(at) < float("inf") for at in times)
        assert generation.cost is None or generation.cost >= 0


@given(value=JSON)
def test_any_list_is_read_or_is_a_value_error(value: Any) -> None:
    for reader in (read_generations, read_page):
        try:
            reader(value)
        except ValueError:
            continue


@given(changes=st.dictionaries(st.sampled_from([*row()]), SCALAR | JSON, max_size=4))
def test_a_mutated_row_harms_no_other_row_of_its_list(changes: dict[str, Any]) -> None:
    page = read_page({"generations": [row(**changes), row(generation_id=ID2)], "page_number": 1, "total_pages": 1})

    assert page.generations[-1] == read_generation(row(generation_id=ID2))


@given(kind=st.just("media_generation_completed") | st.text(max_size=8), data=st.text() | JSON.map(json.dumps))
def test_any_event_is_news_or_nothing(kind: str, data: str) -> None:
    assert isinstance(read_event(kind, data), Generation | None)


def test_news_nested_beyond_reason_are_nothing() -> None:
    assert read_event("media_generation_completed", "[" * 100_000) is None


@given(value=JSON)
def test_any_error_has_words_or_none(value: Any) -> None:
    assert isinstance(error_words(value), str)


@given(
    status=st.integers(100, 599),
    content=st.binary(max_size=80) | JSON.map(json.dumps).map(str.encode),
    wanted=st.integers(1, 4),
    headers=st.dictionaries(st.sampled_from(["retry-after", "date"]), st.text(max_size=12)),
)
@example(status=200, content=b"[" * 100_000, wanted=1, headers={})
@example(status=400, content=b"9" * 5_000, wanted=1, headers={})
@example(status=200, content=b"\xff\xfe\x00\x00", wanted=1, headers={})
def test_any_answer_has_a_meaning_and_acceptance_has_just_the_ids_wanted(
    status: int, content: bytes, wanted: int, headers: dict[str, str]
) -> None:  # fmt: skip
    answer = read_answer(status, headers, content, wanted)

    assert answer.outcome is not Outcome.NOT_SENT, "whatever was answered had been sent"
    assert all(as_uuid(i) == i for i in answer.ids)
    assert len(set(answer.ids)) == len(answer.ids)
    if answer.outcome is ACCEPTED:
        assert len(answer.ids) == wanted
        assert 200 <= status < 300
    if answer.outcome in (REFUSED, AWAY):
        assert not answer.ids, "what named its generations was not refused"
        assert isinstance(json.loads(content), dict)
        assert status in {*OF_THE_ROW, *OF_THE_RUN} or 200 <= status < 300


# -- the outcome table (the money rules, section 2) ------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [HTML, b"", b"null", b"[]", b'"no"', b'{"error": {"mess', b"\xff\xfe"],
    ids=["html", "empty", "null", "list", "text", "cut", "bytes"],
)
def test_an_answer_that_is_no_json_object_settles_nothing_whatever_its_status(content: bytes) -> None:
    for status in range(200, 600):
        answer = read_answer(status, {}, content, 1)

        assert (answer.outcome, answer.ids) == (UNKNOWN, ()), status


def test_every_status_with_a_json_error_has_its_class() -> None:
    classes = {status: read_answer(status, {}, words("no"), 1).outcome for status in range(200, 600)}

    assert {s for s, outcome in classes.items() if outcome is REFUSED} == set(OF_THE_ROW)
    assert {s for s, outcome in classes.items() if outcome is AWAY} == set(OF_THE_RUN)
    assert ACCEPTED not in classes.values()


@pytest.mark.parametrize("status", IN_DOUBT)
def test_a_status_that_a_proxy_may_have_spoken_settles_nothing_even_in_json(status: int) -> None:
    for content in (b"{}", words("no"), words("Insufficient credits"), body()):
        assert read_answer(status, {}, content, 1).outcome is UNKNOWN


@pytest.mark.parametrize("status", [408, 409, 425, 500, 502, 503, 504, 301, 307])
def test_the_statuses_that_the_rules_name_are_among_those(status: int) -> None:
    assert status in IN_DOUBT


@pytest.mark.parametrize("status", OF_THE_ROW)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (words("seed must be a whole number"), "seed must be a whole number"),
        (words("unauthenticated"), "unauthenticated"),
        (words("forbidden words in the prompt"), "forbidden words in the prompt"),
        (b"{}", "HTTP"),
        (body(), "HTTP"),
    ],
)
def test_a_refusal_in_json_is_the_rows(status: int, content: bytes, said: str) -> None:
    answer = read_answer(status, {}, content, 1)

    assert (answer.outcome, answer.cause) == (REFUSED, None)
    assert answer.words.startswith(said)


@pytest.mark.parametrize(("status", "cause"), OF_THE_RUN.items())
@pytest.mark.parametrize("content", [b"{}", words("no"), words("your prompt is invalid")])
def test_a_refusal_of_the_account_blames_no_row(status: int, cause: Cause, content: bytes) -> None:
    answer = read_answer(status, {}, content, 1)

    assert (answer.outcome, answer.cause) == (AWAY, cause)


@pytest.mark.parametrize("status", [*OF_THE_ROW, *OF_THE_RUN])
@pytest.mark.parametrize(
    "said",
    ["Insufficient credits", "insufficient_credits", "Not enough credits", "You do not have enough credits",
     "out of credits", "Your credit balance is too low", "insufficient funds", "Insufficient account balance"],
)  # fmt: skip
def test_words_about_credits_act_on_the_run_whatever_the_status(status: int, said: str) -> None:
    answer = read_answer(status, {"retry-after": "3"}, words(said), 1)

    assert (answer.outcome, answer.cause, answer.words) == (AWAY, Cause.CREDITS, said)


def test_a_quota_of_calls_a_minute_is_a_matter_of_rate() -> None:
    assert read_answer(429, {}, words("Quota exceeded for requests per minute"), 1).cause is Cause.RATE
    assert read_answer(400, {}, words("quota exceeded"), 1).cause is Cause.CREDITS


@pytest.mark.parametrize("said", ["the prompt 'a billing clerk' is too long", "billing_address is not a parameter"])
def test_a_prompt_that_speaks_of_money_does_not_stop_the_batch(said: str) -> None:
    assert read_answer(400, {}, words(said), 1).outcome is REFUSED


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    ("content", "wanted", "outcome", "ids"),
    [
        (body(ID), 1, ACCEPTED, (ID,)),
        (body(ID.upper()), 1, ACCEPTED, (ID,)),
        (body(ID, ID2), 2, ACCEPTED, (ID, ID2)),
        (b"\xef\xbb\xbf" + body(ID), 1, ACCEPTED, (ID,)),
        (body(ID, status="success", more=[]), 1, ACCEPTED, (ID,)),
        (body(ID), 2, UNKNOWN, (ID,)),
        (body(ID, ID2), 1, UNKNOWN, (ID, ID2)),
        (body(ID, ID), 2, UNKNOWN, (ID,)),
        (body(ID, ID), 1, UNKNOWN, (ID,)),
        (body(ID, "7"), 2, UNKNOWN, (ID,)),
        (body("../../etc"), 1, UNKNOWN, ()),
        (body(ID + "\\n"), 1, UNKNOWN, ()),
        (body(f"{{{ID}}}"), 1, UNKNOWN, ()),
        (body(), 1, UNKNOWN, ()),
        (body(error=None), 1, UNKNOWN, ()),
        (body(error=""), 1, UNKNOWN, ()),
        (b"{}", 1, UNKNOWN, ()),
        (b'{"error": "no such model"}', 1, UNKNOWN, ()),
        (b'{"generations": null, "error": "no"}', 1, UNKNOWN, ()),
        (b'{"generations": {}, "error": "no"}', 1, UNKNOWN, ()),
        (b'{"generations": ["' + ID.encode() + b'"]}', 1, UNKNOWN, ()),
        (body(ID)[:-1], 1, UNKNOWN, ()),
        (body(ID, error="queued all the same"), 1, ACCEPTED, (ID,)),
        (body(error={"message": "prompt is too long"}), 1, REFUSED, ()),
        (body(error=True), 1, REFUSED, ()),
        (body(error={"detail": "Insufficient credits"}), 1, AWAY, ()),
        (body(error="unauthenticated"), 1, AWAY, ()),
        (body(error="forbidden words in the prompt"), 1, REFUSED, ()),
    ],
)  # fmt: skip
def test_success_means_just_the_ids_that_were_wanted(
    status: int, content: bytes, wanted: int, outcome: Outcome, ids: tuple[str, ...]
) -> None:
    answer = read_answer(status, {}, content, wanted)

    assert (answer.outcome, answer.ids, answer.status) == (outcome, ids, status)


@pytest.mark.parametrize("status", [*OF_THE_ROW, *OF_THE_RUN, 408, 409, 500, 503, 302])
def test_a_refusal_that_names_generations_is_not_believed_and_its_ids_are_kept(status: int) -> None:
    answer = read_answer(status, {}, body(ID, error="no"), 1)

    assert (answer.outcome, answer.ids) == (UNKNOWN, (ID,))


def test_an_empty_success_with_an_error_is_told_in_the_errors_words() -> None:
    assert read_answer(200, {}, body(error={"detail": "Model not found: x"}), 1).words == "Model not found: x"
    assert read_answer(200, {}, body(error={"code": 7}), 1).words == "refused without a reason"


# -- how long to wait ---------------------------------------------------------------------------------------------

NOW = "Sun, 22 Nov 2026 10:00:00 GMT"


@pytest.mark.parametrize(
    ("text", "date", "wait_s"),
    [
        ("7", None, 7.0),
        (" 7 ", None, 7.0),
        ("1.5", None, 1.5),
        ("0", None, 0.0),
        ("-5", None, 0.0),
        ("900", None, 900.0),
        ("901", None, 900.0),
        ("1e300", None, 900.0),
        ("inf", None, 900.0),
        ("-inf", None, 0.0),
        ("nan", None, None),
        ("", None, None),
        (" ", None, None),
        ("soon", None, None),
        ("7 seconds", None, None),
        ("Sun, 22 Nov 2026 10:00:09 GMT", NOW, 9.0),
        ("Sun, 22 Nov 2026 10:00:09", NOW, 9.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", NOW, 0.0),
        ("Mon, 22 Nov 2027 10:00:00 GMT", NOW, 900.0),
        ("Sun, 22 Nov 2026 10:00:09 GMT", None, None),
        ("Sun, 22 Nov 2026 10:00:09 GMT", "yesterday", None),
        ("Sun, 99 Nov 2026 10:00:09 GMT", NOW, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_a_quarter_of_an_hour(
    text: str, date: str | None, wait_s: float | None
) -> None:
    headers = {"retry-after": text} | ({"date": date} if date else {})

    assert retry_after(headers) == wait_s
    assert read_answer(429, headers, b"{}", 1).retry_after_s == wait_s


def test_without_retry_after_nothing_is_said() -> None:
    assert retry_after({}) is None


@given(text=st.text(max_size=40), date=st.text(max_size=40) | st.just(NOW))
def test_no_header_can_make_us_wait_longer_or_fall(text: str, date: str) -> None:
    wait_s = retry_after({"retry-after": text, "date": date})

    assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_MAX_S


@pytest.mark.parametrize(
    ("text", "at"),
    [
        (NOW, 1_795_341_600.0),
        ("Sun, 22 Nov 2026 10:00:00", 1_795_341_600.0),
        ("Sun, 22 Nov 2026 10:00:00 -0000", 1_795_341_600.0),
        ("Sunday, 22-Nov-26 10:00:00 GMT", 1_795_341_600.0),
        ("", None),
        (None, None),
        ("noon", None),
    ],
)
def test_an_http_date_is_always_of_greenwich(
    text: str | None, at: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert http_date(text) == at
    finally:
        monkeypatch.undo()
        time.tzset()


# -- a generation -------------------------------------------------------------------------------------------------


def test_a_row_is_read_whole() -> None:
    told = row(status="succeeded", result_url="https://x/a.png", cost="0.04", completed_at=1_800_000_009.5,
               target_directory="nightly/ab12", error_message="")  # fmt: skip
    generation = read_generation(told)

    assert generation == Generation(
        ID, "nano-banana-2", "succeeded", "https://x/a.png", None, 1_800_000_000.0, None, 1_800_000_009.5,
        Decimal("0.04"), "nightly/ab12", told,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({"result_url": "https://x/1"}, "https://x/1"),
        ({"images": [{"url": "https://x/2"}]}, "https://x/2"),
        ({"videos": [{"url": "https://x/3"}]}, "https://x/3"),
        ({"images": [], "videos": [{"url": "https://x/4"}]}, "https://x/4"),
        ({"images": [{}], "videos": "no"}, None),
        ({"result_url": 5}, None),
        ({"result_url": ""}, None),
    ],
)
def test_an_address_is_found_where_the_hub_has_been_seen_to_put_it(changes: dict[str, Any], url: str | None) -> None:
    generation = read_generation(row(**changes))

    assert generation
    assert generation.result_url == url


@pytest.mark.parametrize("status", ["starting", "completed", "QUEUED", "", None, 5, [], {}])
def test_a_row_with_a_status_we_do_not_know_is_there_all_the_same(status: Any) -> None:
    """Left out of a scan it would be "proved absent", and bought again."""
    generation = read_generation(row(status=status))

    assert generation
    assert generation.status == "processing"


@pytest.mark.parametrize("status", ["cancelled", "canceled"])
def test_both_spellings_of_cancelled_are_the_end(status: str) -> None:
    generation = read_generation(row(status=status))

    assert generation
    assert STATUS_EVENTS[generation.status] is Event.SEEN_CANCELLED


@pytest.mark.parametrize(
    "generation_id", [None, 5, "", "x", ID + "\n", ID[:-1], f"urn:uuid:{ID}", ID.replace("-", ""), []]
)
def test_a_row_without_a_uuid_is_left_out(generation_id: Any) -> None:
    assert read_generation(row(generation_id=generation_id)) is None
    assert as_uuid(generation_id) is None


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("0.04", Decimal("0.04")), ("0", Decimal(0)), (1, Decimal(1)), (0.1, Decimal("0.1")),
        ("1e-3", Decimal("0.001")),
        (None, None), (True, None), ("", None), ("free", None), ("-1", None), (-0.5, None), ("NaN", None),
        (float("nan"), None), (float("inf"), None), ("1e6", None), ("999999.99", Decimal("999999.99")), ([], None),
    ],
)  # fmt: skip
def test_dollars_are_exact_or_unsaid(value: Any, amount: Decimal | None) -> None:
    assert read_dollars(value) == amount


@pytest.mark.parametrize("payload", [None, [], "no", {}, {"generations": None}, {"generations": {}}, {"error": "no"}])
def test_what_is_no_list_is_not_an_empty_list(payload: Any) -> None:
    with pytest.raises(ValueError, match="no list of generations"):
        read_generations(payload)
    with pytest.raises(ValueError, match="no list of generations"):
        read_page(payload)


@pytest.mark.parametrize("page", [{}, {"page_number": 1}, {"page_number": "1", "total_pages": 1},
                                  {"page_number": 1, "total_pages": None}])  # fmt: skip
def test_a_page_that_does_not_say_which_it_is_is_none(page: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="which page"):
        read_page({"generations": [], **page})


def test_a_page_is_read_whole() -> None:
    page = read_page({"generations": [row(), {}, row(generation_id=ID2)], "page_number": 2, "total_pages": 3})

    assert ([g.generation_id for g in page.generations], page.number, page.pages) == ([ID, ID2], 2, 3)


# -- events -------------------------------------------------------------------------------------------------------


def test_an_end_that_the_hub_announces_is_read() -> None:
    made = read_event(
        "media_generation_completed",
        json.dumps(
            {"generation_id": ID, "status": "succeeded", "media_type": "image", "model": "m", "url": "https://x/1"}
        ),
    )
    failed = read_event(
        "media_generation_completed", json.dumps({"generation_id": ID, "status": "failed", "error": "too long"})
    )

    assert made
    assert (made.status, made.model, made.result_url) == ("succeeded", "m", "https://x/1")
    assert failed
    assert (failed.status, failed.error, failed.result_url) == ("failed", "too long", None)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("message", json.dumps(row())),
        ("media_generation_started", json.dumps(row())),
        ("media_generation_completed", ""),
        ("media_generation_completed", json.dumps(row())[:-1]),
        ("media_generation_completed", json.dumps([row()])),
        ("media_generation_completed", "null"),
    ],
)
def test_other_events_and_broken_ones_are_not_for_us(kind: str, data: str) -> None:
    assert read_event(kind, data) is None


def test_an_event_cut_anywhere_is_nothing() -> None:
    data = json.dumps({"generation_id": ID, "status": "succeeded", "url": "https://x/1"})

    assert all(read_event("media_generation_completed", data[:end]) is None for end in range(len(data)))


# -- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"error": {"type": "t", "title": "T", "detail": "D"}, "status_message": "S"}, "D"),
        ({"error": {"title": "T", "message": "M"}}, "M"),
        ({"error": {"title": "T", "detail": ""}}, "T"),
        ({"error": {"type": "t"}, "status_message": "S"}, "S"),
        ({"error": "E", "status_message": "S"}, "E"),
        ({"status": "error", "status_message": "unauthenticated"}, "unauthenticated"),
        ({"error": ["E"], "status_message": 5}, ""),
        ({}, ""),
        (None, ""),
        ([{"error": "E"}], ""),
    ],
)
def test_the_useful_words_are_found_in_the_references_order(payload: Any, said: str) -> None:
    assert error_words(payload) == said


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Insufficient credits", Cause.CREDITS),
        ("insufficient_credits", Cause.CREDITS),
        ("Payment Required", Cause.CREDITS),
        ("unauthenticated", Cause.KEY),
        ("Invalid API key", Cause.KEY),
        ("this key has been revoked", Cause.KEY),
        ("Unauthorized", Cause.KEY),
        ("403 Forbidden", Cause.KEY),
        ("could not fetch input_image: 403 Forbidden", None),
        ("unauthorized likeness of a public figure", None),
        ("forbidden content", None),
        ("billing clerk is not a style", None),
        ("rate limit exceeded", None),
        ("", None),
        (None, None),
    ],
)
def test_words_blame_the_account_only_where_they_speak_of_it(said: str | None, cause: Cause | None) -> None:
    """One row whose picture cannot be had must not stop the batch, tonight and every night."""
    assert cause_of(said) is cause


@pytest.mark.parametrize(
    ("said", "final"),
    [
        ("Content policy violation", True),
        ("prompt was flagged by the safety system", True),
        ("duration must be one of 5, 10", True),
        ("Invalid aspect_ratio", True),
        ("Model not found: x", True),
        ("HTTP 422", True),
        ("timed out: not made within 900 s, and cancelled", False),
        ("Internal server error", False),
        ("502 Bad Gateway", False),
        ("rate limit exceeded", False),
        ("the model is overloaded, try again", False),
        ("validation service unavailable", False),
        ("something odd", False),
        ("", False),
        (None, False),
    ],
)
def test_only_what_would_fail_again_is_final(said: str | None, final: bool) -> None:
    assert fails_again(said) is final
    assert failure_event(said) is (Event.SEEN_FAILED if final else Event.SEEN_FAILED_IN_PASSING)


# -- what we say --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "target", "more"),
    [
        (1, None, {}),
        (3, None, {"num_generations": 3}),
        (1, Target(), {"target_directory": "tok"}),
        (1, Target("org", "set", "night"),
         {"target_namespace": "org", "target_repo": "set", "target_directory": "night/tok"}),
        (2, Target("org"), {"target_namespace": "org", "target_directory": "tok", "num_generations": 2}),
    ],
)  # fmt: skip
def test_a_request_is_the_models_parameters_and_our_few_fields(
    count: int, target: Target | None, more: dict[str, Any]
) -> None:
    parameters = {"prompt": "x", "seed": 1}

    assert enqueue_body("m", parameters, count, target, "tok") == {"model": "m", **parameters, **more}
    assert parameters == {"prompt": "x", "seed": 1}


# -- whose a row is -------------------------------------------------------------------------------------------------


def echo(model: str = "m", **fields: Any) -> Generation:
    return Generation(ID, model, "queued", echo=fields)


LONG = "A very long prompt about the sea, its light and its weather at dawn. " * 40
YES, NO, CANNOT_TELL = True, False, None


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        # the same, as JSON or as a hub may store it
        (5, 5, YES), (5.0, 5, YES), ("5", 5, YES), (5, "5", YES), ("5.0", 5, YES), ("7.50", 7.5, YES),
        (0.699999988079071, 0.7, YES), (2**31 - 1, 2**31 - 1, YES), ("A cat", "A cat", YES), ("A cat", " A cat\n", YES),
        ("a\nb", "a\r\nb", YES), (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"), YES),
        (True, True, YES), ("true", True, YES), ("False", False, YES), ("https://x/1", "https://x/1", YES),
        (["https://x/1"], "https://x/1", YES), ("https://x/1", ["https://x/1"], YES), ([1, 2], [1.0, "2"], YES),
        ({"a": 1, "filled": 2}, {"a": 1}, YES), ([{"prompt": "x", "duration": 5}], [{"prompt": "x"}], YES),
        # null and emptiness are as good as not sent
        (7, None, YES), (None, None, YES), (None, "", YES), ("", "", YES), (None, [], YES), (None, {}, YES),
        # another request's
        (6, 5, NO), ("6", 5, NO), (5, 5.5, NO), (2**31 - 1, 2**31 - 2, NO), (0, 1, NO), ("A dog", "A cat", NO),
        ("A cat", "A cat in a hat", NO), ("A cat in a hat", "A cat", NO), (False, True, NO), ("false", True, NO),
        ("16:9", "9:16", NO), ([1, 2], [2, 1], NO), ([1, 2], [1, 2, 3], NO), ({"a": 2}, {"a": 1}, NO),
        ([{"prompt": "y"}], [{"prompt": "x"}], NO), (LONG + "dusk", LONG + "dawn", NO),
        # the row does not say, or the hub may have said it in its own way
        (None, 5, CANNOT_TELL), (None, "A cat", CANNOT_TELL), ("", "A cat", CANNOT_TELL), (None, False, CANNOT_TELL),
        (None, 0, CANNOT_TELL), ({}, {"a": 1}, CANNOT_TELL), ({"b": 1}, {"a": 1}, CANNOT_TELL),
        ("blurry", "", CANNOT_TELL), (8, "auto", CANNOT_TELL), ("16:9", "auto", CANNOT_TELL),
        (4711, -1, CANNOT_TELL), ("4711", "-1", CANNOT_TELL), (1, True, CANNOT_TELL), (0, False, CANNOT_TELL),
        ("https://hub/files/1", "https://x/1", CANNOT_TELL), ("file-1", "data:image/png;base64,AA", CANNOT_TELL),
        (["https://hub/1", "https://hub/2"], ["https://x/1", "https://x/2"], CANNOT_TELL),
        (LONG[:255], LONG, CANNOT_TELL), (LONG[:255] + "…", LONG, CANNOT_TELL), ("HIGH", "high", CANNOT_TELL),
        ("A  cat", "A cat", CANNOT_TELL), ("A cat", "A\u200b cat", CANNOT_TELL), ("ﬁn", "fin", CANNOT_TELL),
        ('{"a": 1}', {"a": 1}, CANNOT_TELL), ('["a", "b"]', ["a", "b"], CANNOT_TELL), ("5s", 5, CANNOT_TELL),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_a_row_is_denied_only_where_the_hub_cannot_have_written_it_so(
    theirs: Any, ours: Any, same: bool | None
) -> None:
    """A wrong no is paid twice; a wrong "cannot tell" asks a person; a wrong yes hands one twin the other's file."""
    assert echoes(echo(value=theirs), "m", {"value": ours}) is same


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        ("nano-banana-2", "nano-banana-2", YES),
        ("Nano Banana 2", "nano-banana-2", YES),
        ("google/nano-banana-2", "nano-banana-2", CANNOT_TELL),
        ("nano-banana-2", ID, CANNOT_TELL),
        (ID, "nano-banana-2", CANNOT_TELL),
        ("", "nano-banana-2", CANNOT_TELL),
        ("kling-video", "nano-banana-2", NO),
    ],
)
def test_a_model_is_known_by_its_name_in_any_spelling(theirs: str, ours: str, same: bool | None) -> None:
    assert echoes(echo(theirs, prompt="x"), ours, {"prompt": "x"}) is same


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"prompt": "x", "seed": 1, "guidance": 7.5}, YES),
        ({"prompt": "x"}, CANNOT_TELL),
        ({}, CANNOT_TELL),
        ({"prompt": "y"}, NO),
        ({"seed": 2}, NO),
        ({"prompt": "x", "seed": 2}, NO),
    ],
)
def test_only_what_was_sent_is_compared_and_what_is_missing_is_not_a_no(
    fields: dict[str, Any], same: bool | None
) -> None:
    assert echoes(echo(**fields), "m", {"prompt": "x", "seed": 1}) is same


def test_a_parameter_named_like_a_field_of_the_hubs_own_cannot_be_read_back() -> None:
    assert echoes(echo(prompt="x", status="queued"), "m", {"prompt": "x", "status": "draft"}) is CANNOT_TELL
    assert echoes(echo(prompt="y", status="queued"), "m", {"prompt": "x", "status": "draft"}) is NO


@given(value=JSON)
def test_what_comes_back_as_it_was_sent_is_never_denied(value: Any) -> None:
    try:
        sent = json.loads(json.dumps(value, allow_nan=False))
    except ValueError:
        return

    assert echoes(echo(value=sent), "m", {"value": sent}) is not False


@given(theirs=JSON, ours=JSON)
def test_any_two_values_can_be_compared(theirs: Any, ours: Any) -> None:
    assert echoes(echo(value=theirs), "m", {"value": ours}) in (YES, NO, CANNOT_TELL)


ONE, TWO = "0" * 64 + ".png", "1" * 64 + ".png"


@pytest.mark.parametrize(
    ("theirs", "ours", "same"),
    [
        (f"https://hub/api/repos/a/b/file/main/inputs/{ONE}", f"https://hub/api/repos/a/b/file/main/inputs/{ONE}", YES),
        (f"https://cdn/x/{ONE}?signature=1", f"https://hub/api/repos/a/b/file/main/inputs/{ONE}", YES),
        (f"http://127.0.0.1:1/api/repos/a/{ONE}", f"http://127.0.0.1:2/api/repos/a/{ONE}", YES),
        (f"https://hub/api/repos/a/b/file/main/inputs/{ONE}", f"input:{ONE}", YES),
        (f"https://hub/api/repos/a/b/file/main/inputs/{ONE}", f"https://hub/api/repos/a/b/file/main/inputs/{TWO}", NO),
        (f"http://127.0.0.1:1/api/repos/a/{ONE}", f"http://127.0.0.1:2/api/repos/a/{TWO}", NO),
        (f"https://cdn/x/{ONE}", f"https://hub/api/repos/a/b/file/main/inputs/{TWO}", CANNOT_TELL),
        (f"https://hub/inputs/{ONE}", f"input:{TWO}", CANNOT_TELL),
        ("https://cdn/x/ox.png", f"https://hub/api/repos/a/b/file/main/inputs/{ONE}", CANNOT_TELL),
    ],
)
def test_a_stored_file_is_known_by_its_name_wherever_the_hub_serves_it(theirs: str, ours: str, same: Any) -> None:
    assert echoes(echo(value=theirs), "m", {"value": ours}) is same
    assert echoes(echo(value=[theirs]), "m", {"value": [ours]}) is same
