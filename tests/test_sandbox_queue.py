"""The stand-in hub's queue: what it accepts, what becomes of it, and how it is listed."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sandbox_kit import IMAGE, IMAGE_LIFE_S, KEY, TEXT, UNKNOWN_ID, VIDEO, VIDEO_LIFE_S, Bench, words_of

from oxenbatch.sandbox.models import CATALOGUE
from oxenbatch.sandbox.parameters import complaint, price

# --- lifecycle ------------------------------------------------------------------------------------------------------


def test_an_image_is_queued_then_processing_then_succeeded_within_its_time() -> None:
    bench = Bench()
    (made,) = bench.enqueue()
    seen = [bench.row(made)["status"]]
    for _ in range(int(IMAGE_LIFE_S) * 10 + 1):
        bench.clock.pass_by(0.1)
        status = bench.row(made)["status"]
        if status != seen[-1]:
            seen.append(status)

    assert seen == ["queued", "processing", "succeeded"]
    generation = bench.hub.generations[made]
    assert generation.completed_at is not None
    assert 5 <= generation.completed_at - generation.enqueued_at <= 30


def test_a_video_takes_one_to_ten_minutes() -> None:
    bench = Bench()
    ids = [bench.enqueue(VIDEO, prompt=f"wave {n}")[0] for n in range(50)]
    bench.clock.pass_by(VIDEO_LIFE_S)
    bench.hub.advance()
    lives = [(g.completed_at or 0) - g.enqueued_at for g in map(bench.hub.generations.__getitem__, ids)]

    assert all(60 <= life <= 600 for life in lives)
    assert max(lives) - min(lives) > 100


def test_speed_divides_durations_and_leaves_the_clock_alone() -> None:
    bench = Bench(speed=100)
    (made,) = bench.enqueue(VIDEO)
    assert bench.row(made)["enqueued_at"] == int(bench.clock.now)
    bench.clock.pass_by(VIDEO_LIFE_S / 100)

    assert bench.row(made)["status"] == "succeeded"


def test_a_hub_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="expected more than 0"):
        Bench(speed=0)


def test_the_story_is_the_same_whether_the_hub_is_asked_often_or_once() -> None:
    often, once = Bench(workers=2), Bench(workers=2)
    for bench in (often, once):
        for n in range(20):
            bench.enqueue(prompt=f"cube {n}", num_generations=2)
    for _ in range(900):
        often.clock.pass_by(0.5)
        often.hub.advance()
    once.clock.pass_by(450)
    once.hub.advance()

    def story(bench: Bench) -> list[object]:
        return [(g.id, g.status, g.started_at, g.completed_at) for g in bench.hub.generations.values()]

    assert story(often) == story(once)


def test_no_more_are_processing_at_once_than_there_are_workers() -> None:
    bench = Bench(workers=3)
    for n in range(12):
        bench.enqueue(prompt=f"cube {n}")
    most = 0
    for _ in range(200):
        bench.clock.pass_by(1)
        most = max(most, bench.get("/api/ai/queue?status=processing")["count"])

    assert most == 3
    assert bench.hub.record()["statuses"] == {"succeeded": 12}


def test_the_peak_of_active_generations_is_exact() -> None:
    bench = Bench()
    first = bench.enqueue(num_generations=4)
    bench.enqueue(num_generations=3)
    assert bench.hub.peak_active == 7
    bench.ask("DELETE", f"/api/ai/queue/{first[0]}")
    bench.enqueue()
    assert bench.hub.peak_active == 7
    bench.enqueue()
    assert bench.hub.peak_active == 8
    bench.clock.pass_by(IMAGE_LIFE_S)
    bench.enqueue(num_generations=4)

    assert bench.hub.peak_active == 8


def test_a_generation_whose_time_was_over_before_the_next_post_does_not_count_for_the_peak() -> None:
    bench = Bench()
    for n in range(5):
        bench.enqueue(prompt=f"cube {n}")
        bench.clock.pass_by(IMAGE_LIFE_S)

    assert bench.hub.peak_active == 1


def test_the_same_post_twice_is_two_generations_and_two_bills() -> None:
    bench = Bench()
    first, second = bench.enqueue(), bench.enqueue()
    bench.clock.pass_by(IMAGE_LIFE_S)

    assert first != second
    assert bench.get("/api/ai/generations")["total_cost"] == "0.028"


# --- enqueueing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "no-such-model", "prompt": "x"}, 404, "Model not found: no-such-model"),
        ({"prompt": "x"}, 404, "Model not found: None"),
        ({"model": TEXT, "prompt": "x"}, 400, ":unsupported_media_type"),
        ({"model": IMAGE}, 400, "prompt is required"),
        ({"model": IMAGE, "prompt": ""}, 400, "prompt is required"),
        ({"model": IMAGE, "prompt": "x", "multi_prompt": [{"prompt": "y"}]}, 400, "cannot be used together"),
        *(
            ({"model": IMAGE, "prompt": "x", "num_generations": n}, 400, "must be an integer between 1 and 4")
            for n in (0, 5, -1, "2", 1.5, True, None)
        ),
    ],
)
def test_what_can_be_seen_at_once_is_refused_at_once(body: dict[str, object], status: int, words: str) -> None:
    bench = Bench()
    answer = bench.ask("POST", "/api/ai/queue", body)

    assert answer.status == status
    assert words in words_of(answer)
    assert bench.hub.posts == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": NaN}', b'{"seed": 1e999}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused_in_json(body: bytes) -> None:
    answer = Bench().ask("POST", "/api/ai/queue", body)

    assert answer.status == 400
    assert "not a JSON object" in words_of(answer)


def test_the_largest_number_of_generations_a_post_is_an_option() -> None:
    assert len(Bench(max_generations=12).enqueue(num_generations=12)) == 12


@pytest.mark.parametrize("key", [None, "wrong", ""])
def test_without_the_right_key_everything_but_the_catalogue_is_refused(key: str | None) -> None:
    bench = Bench()
    for method, path in (
        ("POST", "/api/ai/queue"),
        ("GET", "/api/ai/queue"),
        ("GET", f"/api/ai/queue/{UNKNOWN_ID}"),
        ("DELETE", f"/api/ai/queue/{UNKNOWN_ID}"),
        ("GET", "/api/ai/generations"),
        ("GET", "/api/events"),
        ("PUT", "/api/repos/ox/set/file/main/a.png"),
    ):
        answer = bench.ask(method, path, key=key)
        assert (answer.status, words_of(answer)) == (401, "unauthenticated")
    for path in ("/api/ai/models", "/api/ai/models/search?search=kling", f"/api/ai/models/{VIDEO}"):
        assert bench.ask("GET", path, key=key).status == 200


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"duration": 7}, "duration: 7 is not one of 5, 10"),
        ({"duration": "5"}, "duration: '5' is not of type integer"),
        ({"cfg_scale": 2}, "cfg_scale: 2 is more than 1"),
        ({"generate_audio": "yes"}, "generate_audio: 'yes' is not of type boolean"),
        ({"prompt": "x" * 2501}, "prompt: longer than 2500 characters"),
        ({"seed": 1.5}, "seed: 1.5 is not of type integer or null"),
    ],
)
def test_a_wrong_parameter_costs_a_trip_through_the_queue(parameters: dict[str, object], words: str) -> None:
    bench = Bench()
    body = {"model": VIDEO, "prompt": "x"} | parameters
    answer = bench.ask("POST", "/api/ai/queue", body)
    assert answer.status == 200
    bench.clock.pass_by(VIDEO_LIFE_S)
    row = bench.row(answer.json()["generations"][0]["generation_id"])

    assert row["status"] == "failed"
    assert words in row["error_message"]
    assert bench.get("/api/ai/generations")["total_cost"] is None


def test_every_parameter_of_the_request_is_echoed_at_the_top_level() -> None:
    bench = Bench()
    sent = {"prompt": "A \ud800 cube", "seed": 7, "aspect_ratio": "16:9", "odd": {"deep": [1, None]}}
    row = bench.finished(**sent, target_repo="set", target_directory="nightly/a1", num_generations=1)

    assert sent.items() <= row.items()
    assert (row["model_name"], row["target_repo"], row["target_directory"]) == (IMAGE, "set", "nightly/a1")
    assert sent.items() <= bench.get("/api/ai/generations")["generations"][0].items()


def test_a_target_that_is_no_text_is_taken_as_one() -> None:
    row = Bench().finished(target_directory=2026, target_repo=["x"])

    assert (row["target_directory"], row["target_repo"]) == ("2026", "['x']")


def test_a_parameter_cannot_pass_itself_off_as_a_field_of_the_row() -> None:
    row = Bench().finished(status="succeeded", generation_id=UNKNOWN_ID, result_url="http://evil.test/")

    assert row["generation_id"] != UNKNOWN_ID
    assert "evil" not in row["result_url"]


def test_the_posts_on_record_are_what_was_sent() -> None:
    bench = Bench()
    body = {"model": IMAGE, "prompt": "A red cube", "seed": 1, "num_generations": 2, "target_repo": "set"}
    answer = bench.ask("POST", "/api/ai/queue", body)

    (post,) = bench.hub.posts
    assert post.body == body
    assert post.generation_ids == [entry["generation_id"] for entry in answer.json()["generations"]]


def test_fail_in_a_prompt_fails_for_its_content_and_fail_once_only_the_first_time() -> None:
    bench = Bench()
    assert "content policy" in bench.finished(prompt="a [fail] cube")["error_message"]
    assert "content policy" in bench.finished(prompt="a [fail] cube")["error_message"]
    assert "temporarily" in bench.finished(prompt="a [fail once] cube")["error_message"]
    assert bench.finished(prompt="a [fail once] cube")["status"] == "succeeded"


def test_credits_are_checked_when_enqueued_and_count_what_is_still_being_made() -> None:
    bench = Bench(credits=Decimal("0.03"))
    bench.enqueue(num_generations=2)
    answer = bench.ask("POST", "/api/ai/queue", {"model": IMAGE, "prompt": "x"})

    assert (answer.status, words_of(answer)) == (402, "Insufficient credits")
    assert len(bench.hub.posts) == 1


def test_what_fails_or_is_cancelled_gives_its_credits_back() -> None:
    bench = Bench(credits=Decimal("0.014"))
    (made,) = bench.enqueue()
    bench.ask("DELETE", f"/api/ai/queue/{made}")
    bench.finished(prompt="[fail]")

    assert bench.finished()["status"] == "succeeded"
    assert bench.hub.charged == Decimal("0.014")


# --- cancelling -----------------------------------------------------------------------------------------------------


def test_cancelling_keeps_the_row_and_frees_its_place() -> None:
    bench = Bench(workers=1)
    first, second = bench.enqueue(num_generations=2)
    bench.until_next_change()
    (working,) = [row["generation_id"] for row in bench.get("/api/ai/queue?status=processing")["generations"]]
    bench.until_next_change()  # the other one is ripe, and waits for the only worker
    answer = bench.ask("DELETE", f"/api/ai/queue/{working}")

    assert answer.json() == {"status": "success", "generation_id": working}
    assert bench.row(working)["status"] == "cancelled"
    other = second if working == first else first
    assert bench.row(other)["status"] == "processing"
    assert bench.get("/api/ai/queue")["count"] == 1


def test_cancelling_what_has_ended_has_no_effect() -> None:
    bench = Bench()
    row = bench.finished()
    assert bench.ask("DELETE", f"/api/ai/queue/{row['generation_id']}").status == 200

    assert bench.row(row["generation_id"])["status"] == "succeeded"


@pytest.mark.parametrize("text", [UNKNOWN_ID, "not-a-uuid", "..", "%2e%2e", "x" * 36])
def test_an_id_that_was_never_given_is_not_found(text: str) -> None:
    bench = Bench()
    for method, path in (("GET", "queue"), ("DELETE", "queue"), ("GET", "generations")):
        answer = bench.ask(method, f"/api/ai/{path}/{text}")
        assert (answer.status, answer.json()["status_message"]) == (404, "resource_not_found")


@pytest.mark.parametrize("path", ["/", "/api", "/api/ai", "/api/ai/queue/", "/api/nothing", "/_sandbox"])
def test_an_unknown_address_is_not_found_in_json(path: str) -> None:
    answer = Bench().ask("GET", path)

    assert (answer.status, words_of(answer)) == (404, "resource_not_found")


# --- lists ----------------------------------------------------------------------------------------------------------


def _mixed() -> tuple[Bench, dict[str, str]]:
    bench = Bench()
    ids = {
        "done": bench.enqueue(prompt="done", target_namespace="org", target_repo="set", target_directory="night")[0],
        "failed": bench.enqueue(prompt="[fail]", target_namespace="org", target_repo="other")[0],
        "cancelled": bench.enqueue(prompt="cancelled", target_directory="nightly")[0],
    }
    bench.ask("DELETE", f"/api/ai/queue/{ids['cancelled']}")
    bench.clock.pass_by(IMAGE_LIFE_S)
    ids["film"] = bench.enqueue(VIDEO, prompt="film", target_repo="set")[0]
    ids["fresh"] = bench.enqueue(prompt="fresh")[0]
    return bench, ids


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "film fresh"),
        ("?status=succeeded", "done"),
        ("?status=failed", "failed"),
        ("?status=cancelled", "cancelled"),
        ("?status=queued", "film fresh"),
        ("?media_type=video", "film"),
        (f"?model={IMAGE}", "fresh"),
        ("?repo=set", "film"),
        ("?namespace=org", ""),
        (f"?model={IMAGE}&status=succeeded&repo=set", "done"),
    ],
)
def test_the_queue_lists_what_is_active_or_has_the_status_asked_for(query: str, expected: str) -> None:
    bench, ids = _mixed()
    answer = bench.get(f"/api/ai/queue{query}")

    assert {row["generation_id"] for row in answer["generations"]} == {ids[name] for name in expected.split()}
    assert answer["count"] == len(answer["generations"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "fresh film cancelled failed done"),
        ("?status=failed", "failed"),
        ("?media_type=image", "fresh cancelled failed done"),
        ("?namespace=org", "failed done"),
        ("?namespace=sandbox", "fresh film cancelled"),
        ("?repo=set", "film done"),
        ("?folder=night", "cancelled done"),
        ("?folder=nightly", "cancelled"),
    ],
)
def test_the_history_lists_everything_newest_first(query: str, expected: str) -> None:
    bench, ids = _mixed()
    answer = bench.get(f"/api/ai/generations{query}")

    assert [row["generation_id"] for row in answer["generations"]] == [ids[name] for name in expected.split()]
    assert answer["total_entries"] == len(expected.split())


def test_the_history_is_paged_without_gaps_or_repeats() -> None:
    bench = Bench()
    made = [bench.enqueue(prompt=f"cube {n}")[0] for n in range(23)]
    bench.clock.pass_by(IMAGE_LIFE_S)
    pages = [bench.get(f"/api/ai/generations?page={n}&page_size=10") for n in (1, 2, 3, 4)]

    assert [row["generation_id"] for page in pages for row in page["generations"]] == made[::-1]
    assert [page["count"] for page in pages] == [10, 10, 3, 0]
    assert {(page["page_size"], page["total_pages"], page["total_entries"]) for page in pages} == {(10, 3, 23)}
    assert {page["total_cost"] for page in pages} == {"0.322"}


def test_a_page_holds_fifty_unless_asked_otherwise() -> None:
    bench = Bench(max_generations=60)
    bench.enqueue(num_generations=60)

    assert bench.get("/api/ai/generations")["count"] == 50
    assert bench.get("/api/ai/generations?page_size=1000")["count"] == 60


@pytest.mark.parametrize(
    "query", ["page=0", "page=x", "page_size=0", "page_size=1001", "status=finished", "media_type=audio"]
)
def test_a_query_that_cannot_be_meant_is_refused(query: str) -> None:
    assert Bench().ask("GET", f"/api/ai/generations?{query}").status == 400


def test_only_what_succeeded_has_a_cost() -> None:
    bench, _ = _mixed()
    costs = {row["prompt"]: row["cost"] for row in bench.get("/api/ai/generations")["generations"]}

    assert costs == {"done": "0.014", "[fail]": None, "cancelled": None, "film": None, "fresh": None}


# --- prices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "parameters", "dollars"),
    [
        (VIDEO, {"duration": 5}, "0.35"),
        (VIDEO, {"duration": 10, "generate_audio": True}, "1.40"),
        (VIDEO, {}, "0.35"),
        (IMAGE, {}, "0.014"),
        ("nano-banana-2", {}, "0.067"),
        ("nano-banana-2", {"resolution": "4K"}, "0.151"),
        ("openai-gpt-image-1-5", {"quality": "high", "size": "1536x1024"}, "0.2"),
        ("openai-sora-2-pro", {"seconds": "8"}, "2.4"),
        ("openai-sora-2-pro", {"seconds": "12", "resolution": "1080p"}, "6.0"),
        ("wan-v2-6-text-to-video", {"duration": 4, "resolution": "480p"}, "0.20"),
        ("google-veo-3-1-fast", {"duration": "auto"}, "0.75"),
        ("kling-video-v3-pro-text-to-video", {"multi_prompt": [{"duration": 3}, {"duration": "4"}]}, "0.784"),
        ("qwen-image", {}, "0.0120"),
    ],
)
def test_what_is_charged_follows_from_the_catalogues_prices(
    model: str, parameters: dict[str, object], dollars: str
) -> None:
    assert price(CATALOGUE[model], parameters, 10.0) == Decimal(dollars)


def test_a_model_without_a_schema_finds_no_fault_with_any_parameter() -> None:
    assert complaint(None, {"anything": object()}) is None


def test_several_prompts_take_the_place_of_one() -> None:
    bench = Bench()
    body = {"model": "kling-video-v3-pro-text-to-video", "multi_prompt": [{"prompt": "a", "duration": 3}]}
    assert bench.ask("POST", "/api/ai/queue", body).status == 200
    bench.clock.pass_by(VIDEO_LIFE_S)

    assert bench.get("/api/ai/generations")["generations"][0]["status"] == "succeeded"


# --- the record -------------------------------------------------------------------------------------------------------


def test_the_hubs_time_is_on_every_answer() -> None:
    bench = Bench()
    for path in ("/api/ai/queue", "/api/ai/models", "/nowhere"):
        assert bench.ask("GET", path).headers["date"] == "Fri, 15 Jan 2027 08:00:00 GMT"


def test_ids_differ_from_hub_to_hub_unless_a_seed_says_otherwise() -> None:
    assert Bench(seed=None).enqueue() != Bench(seed=None).enqueue()
    assert Bench(seed="a").enqueue() == Bench(seed="a").enqueue()


def test_the_record_counts_calls_by_kind() -> None:
    bench = Bench()
    made = bench.enqueue()
    bench.row(made[0])
    bench.ask("GET", "/api/ai/queue", key="wrong")
    record = bench.ask("GET", "/_sandbox/record", key=None).json()

    assert record["calls"] == {
        "POST /ai/queue": 1,
        "GET /ai/queue/ID": 1,
        "GET /ai/queue": 1,
        "GET /_sandbox/record": 1,
    }
    assert (record["posts"], record["generations"], record["active"], record["peak_active"]) == (1, 1, 1, 1)
    assert [received.authorized for received in bench.hub.requests] == [True, True, True, False]
    assert f"Bearer {KEY}" not in repr(bench.hub.requests)
