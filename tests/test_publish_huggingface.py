"""Publishing to Hugging Face: the real library, over real HTTP, to an endpoint on loopback."""

from __future__ import annotations

import io
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from hf_endpoint import TOKEN, Endpoint, served
from huggingface_hub import constants
from huggingface_hub.utils import _http
from world import World, rows

from oxenbatch.cli import cli
from oxenbatch.errors import OxenbatchError
from oxenbatch.ledger import decisions
from oxenbatch.ledger.book import Ledger
from oxenbatch.publish import huggingface

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the library's own, to its client


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with three results."""
    folder = tmp_path_factory.mktemp("made") / "set"
    World(folder, rows(3)).run()
    return folder


@pytest.fixture
def batch(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "set"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Endpoint]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a store of its own, that no endpoint of ours has
    with served() as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint.url)
        yield endpoint


def publish(batch: Path, *options: str, to: str = "hf:me/set") -> Result:
    return CliRunner().invoke(cli, ["publish", str(batch), "--to", to, *options], catch_exceptions=True)


def told(result: Result) -> dict[str, Any]:
    assert result.exception is None, (result.exception, result.exception.__cause__)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def code(result: Result) -> int:
    return result.exception.exit_code if isinstance(result.exception, OxenbatchError) else result.exit_code


def test_a_data_set_is_uploaded_whole_and_the_next_night_only_what_is_new(batch: Path, hub: Endpoint) -> None:
    first = told(publish(batch, "--json"))
    files = hub.files["me/set"]

    names = {path.name for path in batch.glob("*.png")}
    assert set(files) == names | {"metadata.jsonl", "results.parquet", "README.md"}
    assert all(files[name] == (batch / name).read_bytes() for name in names)
    assert files["metadata.jsonl"] == (batch / "metadata.jsonl").read_bytes()
    table = pyarrow.parquet.read_table(io.BytesIO(files["results.parquet"])).to_pylist()
    assert table == [json.loads(line) for line in files["metadata.jsonl"].splitlines()]
    assert b"3 files of 3 prompts in one batch" in files["README.md"]
    assert (first["files"], first["added"], first["missing"]) == (3, 3, 0)
    assert first["pushed_to"] == f"{hub.url}/datasets/me/set"

    commits = len(hub.commits)
    again = told(publish(batch, "--json"))
    assert (again["added"], again["commit"], len(hub.commits)) == (0, None, commits)

    with Ledger.open(batch / "ledger.db") as ledger, ledger.immediate():
        ledger.conn.execute('update jobs set metadata = \'{"split": "test"}\' where id = 1')
    uploads = hub.calls["upload"]
    changed = told(publish(batch, "--json"))
    assert (changed["added"], hub.calls["upload"]) == (0, uploads)
    assert hub.commits[-1]["added"] == ["metadata.jsonl", "results.parquet"]


def test_a_new_result_is_the_only_upload(tmp_path: Path, hub: Endpoint) -> None:
    world = World(tmp_path / "set", rows(2))
    world.run()
    publish(world.folder)
    uploads = hub.calls["upload"]
    world.rows = rows(3)
    world.run()
    answer = told(publish(world.folder, "--json"))

    assert (answer["files"], answer["added"], hub.calls["upload"]) == (3, 1, uploads + 1)


def test_a_result_that_was_rejected_is_removed_and_others_files_are_not(batch: Path, hub: Endpoint) -> None:
    publish(batch)
    hub.files["me/set"]["theirs.png"] = b"somebody else's"
    with Ledger.open(batch / "ledger.db") as ledger:
        (gone,) = ledger.conn.execute("select file from samples where id = 1").fetchone()
        decisions.set_aside(ledger, [1], attempts=3, at=0.0)
    answer = told(publish(batch, "--json"))

    assert (answer["removed"], answer["files"], answer["missing"]) == (1, 2, 1)
    assert hub.commits[-1]["deleted"] == [gone]
    assert "theirs.png" in hub.files["me/set"]
    assert gone not in hub.files["me/set"]


def test_killed_half_way_it_goes_on_with_the_rest(batch: Path, hub: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "PER_COMMIT", 1)
    hub.fail_after_commits = 1
    assert publish(batch).exit_code != 0
    assert len(hub.files["me/set"]) == 1
    assert "metadata.jsonl" not in hub.files["me/set"]  # no table names what is not there yet
    hub.fail_after_commits = None

    assert told(publish(batch, "--json"))["added"] == 2
    assert len(hub.files["me/set"]) == 6


def test_what_people_wrote_in_the_card_stays(batch: Path, hub: Endpoint) -> None:
    publish(batch)
    card = hub.files["me/set"]["README.md"].decode()
    hub.files["me/set"]["README.md"] = (
        "---\nlicense: cc0-1.0\n---\nOurs.\n" + card[card.index("<!--") :] + "Below.\n"
    ).encode()
    with Ledger.open(batch / "ledger.db") as ledger, ledger.immediate():
        ledger.conn.execute("update generations set cost = '1.5' where file is not null")
    publish(batch)
    card = hub.files["me/set"]["README.md"].decode()

    assert card.startswith("---\nlicense: cc0-1.0\n---\nOurs.\n<!-- oxenbatch publish")
    assert card.endswith("<!-- /oxenbatch publish -->\nBelow.\n")
    assert f"${3 * Decimal('1.5'):.2f}" in card


def test_a_dry_run_changes_nothing(batch: Path, hub: Endpoint) -> None:
    answer = told(publish(batch, "--json", "--dry-run"))

    assert (answer["added"], answer["dry_run"], hub.commits, hub.files) == (3, True, [], {"me/set": {}})


def test_dated_batches_are_one_data_set_with_a_folder_each(made: Path, tmp_path: Path, hub: Endpoint) -> None:
    for day in ("2026-11-22", "2026-11-23"):
        shutil.copytree(made, tmp_path / "nightly" / day)
    answer = told(publish(tmp_path / "nightly", "--json"))
    files = hub.files["me/set"]

    assert answer["files"] == 6
    assert {path.split("/")[0] for path in files} == {"README.md", "2026-11-22", "2026-11-23"}
    assert b"| `2026-11-22` | 3 |" in files["README.md"]
    assert "2026-11-23/metadata.jsonl" in files


@pytest.mark.parametrize(
    ("refuse", "exit_code", "words"),
    [
        ({"commit": 403}, 77, "does not let you write to me/set"),
        ({"tree": 401}, 2, "there is no data set me/set"),  # so the hub answers for what one may not see
        ({"preupload": 403}, 77, "does not let you write to me/set"),
        ({"commit": 400}, 69, "Hugging Face answered 400"),
    ],
)
def test_what_is_refused_is_told(
    batch: Path, hub: Endpoint, refuse: dict[str, int], exit_code: int, words: str
) -> None:
    hub.refuse = refuse
    result = publish(batch)

    assert (code(result), words in str(result.exception)) == (exit_code, True), result.exception
    assert TOKEN not in str(result.exception)


def test_a_data_set_that_is_not_there_and_a_hub_that_is_not_are_told(
    batch: Path, hub: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = publish(batch, to="hf:me/other")
    assert (code(result), "there is no data set me/other" in str(result.exception)) == (2, True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)  # the library tries for half a minute
    result = publish(batch)
    assert (code(result), "cannot be reached" in str(result.exception)) == (69, True)


def test_a_damaged_file_is_not_published(batch: Path, hub: Endpoint) -> None:
    damaged = next(batch.glob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    result = publish(batch)

    assert (code(result), hub.commits) == (74, [])
    assert "is not what was downloaded: `oxenbatch verify --repair` fetches it again" in str(result.exception)
    damaged.unlink()
    assert "is gone" in str(publish(batch).exception)
