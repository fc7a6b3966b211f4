"""What a run tells others: when something is held, when it ends, and where the addresses come from."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from ears import Ears
from views import FLUX, a_view

from oxenbatch.cli.metrics import BY_BATCH, NAMES, WHILE_RUNNING, Metrics
from oxenbatch.cli.nightly import Night
from oxenbatch.errors import ConfigProblem
from oxenbatch.jobs import JobState
from oxenbatch.ledger.follow import ModelSeen
from oxenbatch.settings import Addresses, addresses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from oxenbatch.cli.view import View


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@contextlib.contextmanager
def a_night(**more: Any) -> Iterator[Night]:
    with Night() as night:
        night.begin({"heartbeat": None, "notify": (), "metrics_file": None, "dry_run": False} | more)
        yield night


def held() -> View:
    return a_view(models=(ModelSeen(FLUX, {JobState.HELD: 1, JobState.PENDING: 3}, None),), failures=())


def test_people_hear_of_what_is_held_at_once_and_once() -> None:
    with Ears() as ears:
        with a_night(notify=(f"json://{ears.address}/n",)) as night:
            for _ in range(3):
                night.show(held(), 0.0)
            night.end(4, "exit=4 held=1")
        told = [json.loads(body) for _, body in ears.heard]
    assert [one["title"] for one in told] == [
        "oxenbatch: ocean-loops needs a decision",
        "oxenbatch: run: a person must decide (exit 4)",
    ]
    assert "oxenbatch resolve out/ocean-loops" in told[0]["message"]


def test_a_dry_run_tells_nobody() -> None:
    with Ears() as ears:
        with a_night(heartbeat=f"http://{ears.address}/b", notify=(f"json://{ears.address}/n",), dry_run=True) as night:
            night.end(0, "")
        assert ears.heard == []


def test_a_bug_is_a_failure_and_is_told_as_one() -> None:
    with Ears() as ears:
        with pytest.raises(ZeroDivisionError), a_night(heartbeat=f"http://{ears.address}/b"):
            raise ZeroDivisionError
        assert ears.calls == ["GET /b/start", "GET /b/fail"]


@pytest.mark.parametrize(("code", "call"), [(0, "GET /b"), (75, "GET /b"), (3, "GET /b/fail"), (69, "GET /b/fail")])
def test_a_heartbeat_says_how_it_ended(code: int, call: str) -> None:
    with Ears() as ears:
        with a_night(heartbeat=f"http://{ears.address}/b") as night:
            night.end(code, "")
        assert ears.calls == ["GET /b/start", call]


# -- addresses --------------------------------------------------------------------------------------------------------


def write(home: Path, text: str, mode: int = 0o600) -> Path:
    path = home / "config.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_addresses_may_stand_in_a_file_that_nobody_else_reads(home: Path) -> None:
    path = write(home, 'notify = ["mailto://a"]\nheartbeat = "https://h"\nconcurrency = 3\n')
    assert addresses(path) == Addresses(("mailto://a",), "https://h")
    path.chmod(0o644)
    with pytest.raises(ConfigProblem, match="others on this machine can read"):
        addresses(path)
    assert addresses(home / "none.toml") == Addresses()
    assert addresses(write(home, "concurrency = 3\n", mode=0o644)) == Addresses()  # no secret in it
    assert addresses(write(home, 'notify = "mailto://a"\n')).notify == ("mailto://a",)


@pytest.mark.parametrize("text", ["notify = 3\n", "notify = [3]\n", "heartbeat = []\n"])
def test_what_is_no_address_is_told(home: Path, text: str) -> None:
    with pytest.raises(ConfigProblem, match="`notify` is a list of addresses"):
        addresses(write(home, text))


# -- metrics ----------------------------------------------------------------------------------------------------------


def test_the_metrics_file_has_every_name_that_is_promised_and_no_other(home: Path) -> None:
    metrics = Metrics(home / "m.prom")
    view = a_view()
    metrics.show(view, 0.0)
    running = names(home / "m.prom")
    metrics.ended(view.name, view.counts, cost=view.spent, committed=view.spent, sends=3)
    metrics.end(0)
    ended = names(home / "m.prom")
    assert running | ended == set(NAMES)
    assert running - ended == WHILE_RUNNING
    labelled = {line.partition("{")[0] for line in (home / "m.prom").read_text().splitlines() if "{" in line}
    assert labelled == BY_BATCH - WHILE_RUNNING


def names(path: Path) -> set[str]:
    return {line.split()[2] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# HELP")}


def test_the_metrics_file_is_written_every_15_seconds_and_no_part_of_it_is_left_about(home: Path) -> None:
    metrics = Metrics(home / "m.prom")
    written = []
    for now in range(40):
        (home / "m.prom").unlink(missing_ok=True)
        metrics.show(a_view(), float(now))
        written += [now] if (home / "m.prom").exists() else []
    assert written == [0, 15, 30]
    metrics.end(0)
    assert [path.name for path in home.iterdir()] == ["m.prom"]


def test_a_metrics_file_that_is_nonsense_is_written_anew(home: Path) -> None:
    (home / "m.prom").write_text("}}} not metrics\n", encoding="utf-8")
    Metrics(home / "m.prom").end(0)
    assert "oxenbatch_exit_code 0" in (home / "m.prom").read_text(encoding="utf-8")


def test_a_metrics_file_that_cannot_be_written_on_the_way_ends_nothing(home: Path) -> None:
    folder = home / "gone"
    folder.mkdir()
    metrics = Metrics(folder / "m.prom")
    folder.rmdir()
    metrics.show(a_view(), 0.0)
    metrics.end(0)
    assert not folder.exists()
