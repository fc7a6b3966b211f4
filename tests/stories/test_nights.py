"""A month of nights, as cron runs them: cut off, repeated, overlapping, without a hub; and one look at all of it."""

from __future__ import annotations

import datetime as dt
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from ears import Ears
from sandbox_kit import IMAGE

from oxenbatch.cli import cli
from oxenbatch.cli import run as running
from oxenbatch.folder import locked
from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = dt.date(2026, 11, 1)
MANIFEST = f"""\
name: ocean
output: nights/{{date}}
model: {IMAGE}
prompts:
  - {{id: dawn, prompt: "The reef at dawn on {{date}}"}}
  - {{id: noon, prompt: "The reef at noon on {{date}}"}}
  - {{id: dusk, prompt: "The reef at dusk on {{date}}"}}
variables: {{}}
"""


class Cron:
    """What cron does: the same command each night, at its date."""

    def __init__(self, folder: Path, hub: Sandbox, ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hub, self.ears = folder, hub, ears
        self.metrics = folder / "ocean.prom"
        self._patch = monkeypatch
        (folder / "ocean.yaml").write_text(MANIFEST, encoding="utf-8")

    def night(self, date: dt.date, *more: str) -> tuple[int, str]:
        """The exit code, and what cron would put into a mail."""
        self._patch.setattr(running, "date_of", lambda _: date)
        words = ["run", "ocean.yaml", "-q", "--metrics-file", str(self.metrics), "--log-file", "ocean.log",
                 "--heartbeat", f"http://{self.ears.address}/beat", "--notify", f"json://{self.ears.address}/notice",
                 *more]  # fmt: skip
        done = CliRunner().invoke(cli, words)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stderr

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(CliRunner().invoke(cli, ["status", "nights", "--json"]).output)
        return told

    def metric(self, name: str) -> float:
        lines = self.metrics.read_text(encoding="utf-8").splitlines()
        return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def cron(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cron]:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with Sandbox(speed=500) as hub, Ears() as ears:
        monkeypatch.setenv("OXEN_API_KEY", hub.key)
        monkeypatch.setenv("OXEN_BASE_URL", hub.url)
        yield Cron(tmp_path, hub, ears, monkeypatch)


@contextmanager
def overlapping(folder: Path) -> Iterator[None]:
    """Another run holds the batch."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, folder / "ledger.db"):
        yield


@pytest.mark.slow
def test_a_month_of_nights(cron: Cron) -> None:
    beats: list[str] = []
    for number in range(30):
        date = FIRST + dt.timedelta(days=number)
        cron.ears.heard.clear()
        if number == 7:  # the limit is too low: two rows are left for the next night
            code, mail = cron.night(date, "--limit-sends", "1")
            assert (code, "limit-sends is reached" in mail) == (5, True)
        elif number == 12:  # the hub is not there
            code, mail = cron.night(date, "--hub", "http://127.0.0.1:9", "--max-outage", "0s")
            assert code == 69
        elif number == 20:  # the night before has not ended
            with overlapping(cron.folder / "nights" / date.isoformat()):
                code, mail = cron.night(date)
            assert (code, "another run works on" in mail) == (75, True)
            assert cron.ears.calls == ["GET /beat/start"]  # the other run tells how it ends
            assert cron.metric("oxenbatch_exit_code") == 0  # and the metrics file is that one's
            code, mail = cron.night(date)
            assert code == 0
        else:
            code, mail = cron.night(date)
            assert (code, mail) == (0, ""), f"night {date}"  # quiet: cron sends no mail
        beats.append(cron.ears.calls[-1])
        if number == 15:  # cron was told to run twice: a night that has nothing to do
            before = cron.hub.record()["posts"]
            cron.ears.heard.clear()
            assert cron.night(date) == (0, "")
            assert cron.ears.calls == ["GET /beat/start", "GET /beat"]  # no notice: nothing has happened
            assert cron.hub.record()["posts"] == before

    told = cron.status()
    assert len(told["batches"]) == 30
    assert told["states"]["downloaded"] == 90
    assert sum(told["states"].values()) == 90
    assert [one["next"] for one in told["batches"]] == [[]] * 30
    # The judge: what was made, once each; nothing twice, nothing that is not known.
    record = cron.hub.record()
    assert (record["generations"], record["posts"]) == (90, 90)
    assert beats[7] == "GET /beat/fail"
    assert beats[12] == "GET /beat/fail"
    assert [beat for number, beat in enumerate(beats) if number not in (7, 12)] == ["GET /beat"] * 28
    assert cron.metric("oxenbatch_exit_code") == 0
    assert cron.metric('oxenbatch_files{batch="ocean",state="downloaded"}') == 3
    log = (cron.folder / "ocean.log").read_text(encoding="utf-8")
    assert log.count("the run begins") == 32
    assert cron.ears.address not in log

    table = CliRunner().invoke(cli, ["status", "nights"]).output
    assert "all 30 batches     90 of 90" in table
    assert table.endswith("nothing is left to do: every wanted file is on disk\n")


def test_a_night_that_has_nothing_to_do_says_so(cron: Cron) -> None:
    assert cron.night(FIRST) == (0, "")
    said = CliRunner().invoke(cli, ["run", "ocean.yaml"]).stderr
    assert "nights/2026-11-01: nothing to do: all there, 3 files" in said


def test_success_is_remembered_over_a_night_that_failed(cron: Cron) -> None:
    cron.night(FIRST)
    when = cron.metric("oxenbatch_last_success_time_seconds")
    code, _ = cron.night(FIRST + dt.timedelta(days=1), "--limit-sends", "0")
    assert code == 5
    assert cron.metric("oxenbatch_last_success_time_seconds") == when
    assert cron.metric("oxenbatch_exit_code") == 5
    assert cron.metric("oxenbatch_running") == 0


def test_a_night_that_failed_tells_people_why(cron: Cron) -> None:
    cron.night(FIRST, "--limit-sends", "1")
    (notice,) = [json.loads(body) for call, body in cron.ears.heard if call == "POST /notice"]
    assert notice["title"] == "oxenbatch: ocean: a limit was reached (exit 5)"
    again = f"oxenbatch run ocean.yaml --hub {cron.hub.url} --date 2026-11-01"
    assert notice["message"].splitlines() == [
        "nights/2026-11-01: limit-sends is reached",
        f"next: go on: send 2 (a limit stopped the last one: raise it, or wait): {again}",
        "exit=5 done=1 active=0 pending=2 held=0 failed=0 cost=0.014",
    ]


def test_log_rotation_is_left_to_the_system(cron: Cron) -> None:
    cron.night(FIRST)
    (cron.folder / "ocean.log").rename(cron.folder / "ocean.log.1")
    cron.night(FIRST + dt.timedelta(days=1))
    assert "the run begins" in (cron.folder / "ocean.log").read_text(encoding="utf-8")


def test_an_address_that_does_not_answer_changes_nothing(cron: Cron) -> None:
    with Ears() as gone:
        dead = gone.address
    code, mail = cron.night(FIRST, "--heartbeat", f"http://{dead}/SECRET", "--notify", f"json://{dead}/SECRET")
    assert code == 0
    assert "SECRET" not in mail
    log = (cron.folder / "ocean.log").read_text(encoding="utf-8")
    assert "SECRET" not in log
    assert "the heartbeat was not heard (ConnectError)" in log
    assert "a notice could not be sent" in log


def test_the_ledger_remembers_the_command_without_its_secrets(cron: Cron) -> None:
    cron.night(FIRST, "-c", "3", "--max-cost", "2.50", "--settle", "90s")
    (batch,) = cron.status()["batches"]
    assert batch["last_run"]["command"] == (
        f"oxenbatch run ocean.yaml --concurrency 3 --max-cost 2.50 --settle 90s --hub {cron.hub.url} --date 2026-11-01"
    )
    assert b"beat" not in (cron.folder / "nights/2026-11-01/ledger.db").read_bytes()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--heartbeat", "ftp://example.org/SECRET", "heartbeat"),
        ("--heartbeat", "nonsense-SECRET", "heartbeat"),
        ("--notify", "nonsense://SECRET", "address 1 of --notify"),
        ("--metrics-file", "no-such-folder/x.prom", "metrics file"),
    ],
)
def test_what_cannot_be_told_is_found_out_before_anything_is_sent(
    cron: Cron, option: str, value: str, words: str
) -> None:
    done = CliRunner().invoke(cli, ["run", "ocean.yaml", option, value])
    assert done.exit_code == 78
    assert words in done.stderr
    assert done.stderr.splitlines()[-1].startswith("oxenbatch: exit=78 done=0 ")
    assert "SECRET" not in done.output
    assert cron.hub.record()["posts"] == 0
