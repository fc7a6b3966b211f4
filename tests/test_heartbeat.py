"""A heartbeat goes where such services expect it, without the key, and never ends a run."""

from __future__ import annotations

import pytest
from ears import Ears

from oxenbatch.errors import ConfigProblem
from oxenbatch.hub.heartbeat import Beat, address_of, beat, check_address


@pytest.mark.parametrize(
    ("url", "what", "address"),
    [
        ("https://hc-ping.com/uuid", "start", "https://hc-ping.com/uuid/start"),
        ("https://hc-ping.com/uuid/", "success", "https://hc-ping.com/uuid"),
        ("https://hc-ping.com/uuid", "fail", "https://hc-ping.com/uuid/fail"),
        ("https://example.org/ping?token=a/b", "start", "https://example.org/ping/start?token=a/b"),
        ("http://127.0.0.1:8000", "fail", "http://127.0.0.1:8000/fail"),
    ],
)
def test_each_beat_has_its_address(url: str, what: Beat, address: str) -> None:
    assert address_of(url, what) == address


def test_a_beat_is_one_call_that_says_who_calls_and_brings_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OXEN_API_KEY", "the-key")
    with Ears() as ears:
        assert beat(f"http://{ears.address}/uuid", "success") == ""
    assert ears.heard == [("GET /uuid", "")]
    assert ears.agents[0].startswith("oxenbatch/")


def test_a_service_in_trouble_is_tried_twice_and_its_address_is_not_told() -> None:
    with Ears() as ears:
        ears.answers = 503
        assert beat(f"http://{ears.address}/SECRET", "fail") == "HTTP 503"
        assert ears.calls == ["GET /SECRET/fail"] * 2
        address = ears.address
    assert beat(f"http://{address}/SECRET", "fail") == "ConnectError"


@pytest.mark.parametrize(
    "url", ["", "hc-ping.com/SECRET", "ftp://x/SECRET", "https://", "https://[SECRET", "http://x:y"]
)
def test_what_is_no_address_is_refused_without_saying_it(url: str) -> None:
    with pytest.raises(ConfigProblem) as problem:
        check_address(url)
    assert "SECRET" not in str(problem.value)


def test_spaces_around_an_address_are_nobodys_intention() -> None:
    assert check_address(" https://hc-ping.com/uuid\n") == "https://hc-ping.com/uuid"
