"""What programs read is what docs/json.md says, field by field; each command is really called."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from ledgers import Book, row
from sandbox_kit import IMAGE
from views import MOODY, a_view, seen

from oxenbatch.advice import Why
from oxenbatch.cli import cli
from oxenbatch.cli.watch import view_as_json
from oxenbatch.jobs import JobState
from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
BY_NAME = ("states", "models", "mood", "job", "samples[]", "submissions[]", "generations[]", "events[]", "orphans[]",
           "duplicates[]")  # fmt: skip
"""Objects whose fields are not fixed, or stand on another page."""


def documented(title: str) -> set[str]:
    """The fields that the page has under this title."""
    part = re.split(r"\n##+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1)[0]
    return {match[1] for match in re.finditer(r"^\| `([^`]+)` \|", part, re.MULTILINE)}


def fields(value: Any, path: str = "") -> set[str]:
    """The paths of all that is in the value; of an empty list only that it is one."""
    if isinstance(value, list):
        if not value:
            return {f"{path}[]"}
        return set().union(*(fields(inner, f"{path}[]") for inner in value))
    if isinstance(value, dict) and path.rpartition(".")[2] not in BY_NAME:
        return set().union(*(fields(inner, f"{path}.{name}".lstrip(".")) for name, inner in value.items()))
    return {path}


def told(*words: str) -> list[Any]:
    """What the command printed: a value a line."""
    done = CliRunner().invoke(cli, list(words))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a run has made two files, one failed, and one is then found damaged."""
    folder = tmp_path_factory.mktemp("json")
    with pytest.MonkeyPatch.context() as patch, Sandbox(speed=500) as hub:
        for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            patch.setenv(name, str(folder / "home"))
        patch.setenv("OXEN_API_KEY", hub.key)
        patch.setenv("OXEN_BASE_URL", hub.url)
        patch.chdir(folder)
        text = f"model: {IMAGE}\nprompts: [a, b, {{id: bad, prompt: 'c [fail]'}}]\n"
        (folder / "m.yaml").write_text(text, encoding="utf-8")
        yield folder


@pytest.fixture(scope="module")
def run(nights: Path) -> dict[str, Any]:
    (summary,) = told("run", "m.yaml", "--json", "-q", "--limit-sends", "3", "--max-cost", "1")
    assert isinstance(summary, dict)
    return summary


def test_run(run: dict[str, Any]) -> None:
    assert fields(run) == documented("oxenbatch run --json")


def test_status(run: dict[str, Any], nights: Path) -> None:
    (status,) = told("status", "out/m", "--json")
    assert fields(status) == documented("oxenbatch status --json")
    assert set(status["states"]) == set(map(str, JobState))
    assert status["batches"][0]["failures"][0]["cause"] == "content"


def test_every_cause_is_documented() -> None:
    (line,) = re.findall(r"failures\[\]\.cause` \| (.*) \|", PAGE)
    assert set(re.findall(r"`(\w+)`", line)) == set(Why)


def test_watch_and_mood() -> None:
    value = json.loads(json.dumps(view_as_json(a_view(), seen(), MOODY, running=True)))
    assert fields(value) == documented("oxenbatch status --watch --json")
    mood = {name.removesuffix("[]") for name in fields(value["mood"])}
    assert mood == documented("mood")


def test_ls(run: dict[str, Any], nights: Path) -> None:
    lines = told("ls", "out/m", "--json")
    assert len(lines) == 3
    assert all(fields(line) == documented("oxenbatch ls --json") for line in lines)


def test_show_has_the_ledgers_columns(run: dict[str, Any], nights: Path) -> None:
    (story,) = told("show", "out/m", "bad", "--json")
    assert fields(story) == documented("oxenbatch show --json")
    with sqlite3.connect("out/m/ledger.db") as ledger:
        for name in ("samples", "submissions", "generations", "events"):
            columns = {column[1] for column in ledger.execute(f"pragma table_info({name})")} - {"result_url"}
            assert set(story[name][0]) == columns
        assert set(story["job"]) == {column[1] for column in ledger.execute("pragma table_info(jobs)")}


def test_audit(run: dict[str, Any], nights: Path) -> None:
    (value,) = told("audit", "out/m", "--json")
    assert {name.removesuffix("[]") for name in fields(value)} == {
        name.removesuffix("[]") for name in documented("oxenbatch audit --json")
    }


def test_verify(run: dict[str, Any], nights: Path) -> None:
    next(Path("out/m").glob("*.png")).write_bytes(b"noise")
    (value,) = told("verify", "out/m", "--json")
    assert fields(value) == documented("oxenbatch verify --json")


def test_resolve(tmp_path: Path) -> None:
    book = Book(tmp_path / "ledger.db")
    book.stage(row("one"))
    book.bring(JobState.HELD)
    book.close()
    (line,) = told("resolve", str(tmp_path), "--json")
    assert fields(line) == documented("oxenbatch resolve --json")


def test_doctor(nights: Path) -> None:
    (value,) = told("doctor", "--json")
    assert fields(value) == documented("oxenbatch doctor --json")
    (line,) = re.findall(r"findings\[\]\.what` \| (.*) \|", PAGE)
    known = set(re.findall(r"`([\w ]+)`", line))
    assert {re.sub(r"^extra .*", "extra NAME", one["what"]) for one in value["findings"]} <= known
    assert value["exit_code"] == 0
