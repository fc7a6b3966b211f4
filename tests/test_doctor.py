"""The doctor says what works, what does not and what to do, without a key, without a network, and leaves nothing."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from sandbox_kit import IMAGE

from oxenbatch import doctor, kept
from oxenbatch.cli import cli
from oxenbatch.cli.doctor import SIGNS
from oxenbatch.errors import MachineError
from oxenbatch.sandbox import Sandbox
from oxenbatch.sandbox.models import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "a-key-that-nobody-may-see"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("OXEN_API_KEY", "OXEN_BASE_URL", "OXEN_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "work"


@pytest.fixture(scope="module")
def hub() -> Iterator[Sandbox]:
    with Sandbox(speed=100) as served:
        yield served


def look(*words: str, code: int = 0, **env: str) -> dict[str, Any]:
    """What was found, by what was looked at."""
    done = CliRunner().invoke(cli, ["doctor", *words, "--json"], env=env)
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert done.exit_code == code, done.output
    assert KEY not in done.output
    told = json.loads(done.stdout)
    assert told["exit_code"] == code
    return {one["what"]: one for one in told["findings"]}


def verdicts(found: dict[str, Any], *names: str) -> list[str]:
    return [found[name]["verdict"] for name in names]


def test_where_all_is_well_nothing_stands_in_a_runs_way(hub: Sandbox, place: Path) -> None:
    found = look("--hub", hub.url, OXEN_API_KEY=hub.key)
    for what in ("versions", "settings", "key", "hub", "clock", "catalogue", "access", "disk", "folder", "ledger",
                 "locks", "register", "terminal"):  # fmt: skip
        assert found[what]["verdict"] in ("works", "mind"), found[what]
    assert found["key"]["words"] == "found in OXEN_API_KEY"
    assert re.match(r"11 models, 2 of them without a schema", found["catalogue"]["words"])
    assert list(place.iterdir()) == []  # nothing is left behind


def test_a_key_that_the_hub_does_not_accept_is_told_from_one_that_is_missing(hub: Sandbox) -> None:
    refused = look("--hub", hub.url, code=77, OXEN_API_KEY=KEY)
    assert verdicts(refused, "key", "hub", "access") == ["works", "works", "fails"]
    missing = look("--hub", hub.url, code=77)
    assert verdicts(missing, "key", "hub", "catalogue") == ["fails", "works", "works"]
    assert "OXEN_API_KEY" in missing["key"]["words"]
    assert "access" not in missing


def test_a_key_in_a_file_is_found_there_and_one_that_others_can_read_is_a_setting_to_mend(
    hub: Sandbox, tmp_path: Path
) -> None:
    config = tmp_path / "home/.config/oxen/auth_config.toml"
    config.parent.mkdir(parents=True)
    host = hub.url.removeprefix("http://")
    config.write_text(f'[[host_configs]]\nhost = "{host}"\nauth_token = "{hub.key}"\n')
    config.chmod(0o600)
    assert look("--hub", hub.url)["key"]["words"] == f"found in {config}"
    config.chmod(0o644)
    assert "chmod 600" in look("--hub", hub.url, code=78)["key"]["words"]


def test_a_key_that_no_header_can_hold_is_told_and_not_shown() -> None:
    assert look("--offline", code=78, OXEN_API_KEY=f"'{KEY}'")["key"]["verdict"] == "fails"


def test_a_hub_that_is_not_there_is_told_with_its_address() -> None:
    found = look("--hub", NOWHERE, code=69, OXEN_API_KEY=KEY)
    assert NOWHERE in found["hub"]["words"]
    assert found["hub"]["remedy"]


def test_offline_asks_no_network_and_looks_at_what_was_kept(tmp_path: Path) -> None:
    found = look("--offline", OXEN_API_KEY=KEY)
    assert verdicts(found, "key", "catalogue") == ["works", "mind"]
    assert "hub" not in found
    payload = {"object": "list", "data": [model.shown() for model in CATALOGUE.values()]}
    old = time.time() - 40 * 86_400
    kept.save(tmp_path / "home/oxenbatch", "https://hub.oxen.ai:443", payload, now=old)
    stale = look("--offline", OXEN_API_KEY=KEY)["catalogue"]
    assert stale["words"] == "11 models, kept from 40 days ago"
    assert stale["verdict"] == "mind"


def test_with_a_stand_in_no_key_is_needed() -> None:
    found = look("--sandbox")
    assert verdicts(found, "hub", "catalogue", "access") == ["works"] * 3


def test_a_folder_that_cannot_be_written_is_this_machines_fault() -> None:
    found = look("/proc/self", "--offline", code=74, OXEN_API_KEY=KEY)
    assert found["folder"]["verdict"] == "fails"


def test_a_disk_that_is_nearly_full_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")  # noqa: PYI024 - shutil's own is one
    for free, verdict, code in ((1024, "fails", 74), (200 * 1024**2, "mind", 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: usage(free))
        assert look("--offline", code=code, OXEN_API_KEY=KEY)["disk"]["verdict"] == verdict


def test_a_file_system_that_lets_two_runs_in_is_no_place_for_a_batch(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(doctor, "locked", lambda *_: nullcontext())
    assert look("--offline", code=74, OXEN_API_KEY=KEY)["locks"]["verdict"] == "fails"


def test_a_file_system_without_a_write_ahead_log_is_told_in_the_ledgers_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MachineError("a file system where SQLite cannot keep a write-ahead log")

    monkeypatch.setattr(doctor.Ledger, "open", refuse)
    found = look("--offline", code=74, OXEN_API_KEY=KEY)
    assert "write-ahead log" in found["ledger"]["words"]


def test_settings_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    config = tmp_path / "home/oxenbatch/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("speed = 3\n")
    assert "is no setting" in look("--offline", code=78, OXEN_API_KEY=KEY)["settings"]["words"]


def test_a_batch_is_looked_at_where_it_is(hub: Sandbox, place: Path) -> None:
    (place / "m.yaml").write_text(f"model: {IMAGE}\nprompts: [a]\n")
    env = {"OXEN_API_KEY": hub.key, "OXEN_BASE_URL": hub.url}
    assert CliRunner().invoke(cli, ["run", "m.yaml", "-q"], env=env).exit_code == 0
    before = sorted(path.name for path in (place / "out/m").iterdir())
    for name in ("out/m", "m.yaml", "out/m/ledger.db"):
        assert "can be read: 1 files wanted" in look(name, **env)["batch"]["words"]
    assert sorted(path.name for path in (place / "out/m").iterdir()) == before
    (place / "out/m/ledger.db").write_bytes(b"noise" * 100)
    assert look("out/m", code=74, **env)["batch"]["verdict"] == "fails"


def test_a_clock_that_is_wrong_is_worth_a_word(hub: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() + 300)
    found = look("--hub", hub.url, OXEN_API_KEY=hub.key)["clock"]
    assert found["verdict"] == "mind"
    assert found["words"].endswith("s ahead of the hub")


def test_each_extra_is_there_or_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = look("--offline", OXEN_API_KEY=KEY)
    assert {"extra sandbox", "extra metrics", "extra notify"} <= found.keys()
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name != "apprise")
    gone = look("--offline", OXEN_API_KEY=KEY)["extra notify"]
    assert (gone["verdict"], gone["exit_code"]) == ("unknown", 0)
    assert "pip install 'oxenbatch[notify]'" in gone["remedy"]


def test_for_eyes_each_line_says_works_or_not_and_what_to_do() -> None:
    told = CliRunner().invoke(cli, ["doctor", "--offline"]).stdout
    assert re.search(r"^FAILS  key +no key for hub\.oxen\.ai: set OXEN_API_KEY", told, re.MULTILINE)
    assert re.search(r"^ok     versions +oxenbatch ", told, re.MULTILINE)
    assert re.search(r"^ +-> run it once with a network", told, re.MULTILINE)
    assert told.endswith("a run would end with exit code 77\n")
    assert set(SIGNS) == set(doctor.Verdict.__args__)  # type: ignore[attr-defined]  # a Literal has them
