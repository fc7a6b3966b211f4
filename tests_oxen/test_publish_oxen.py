"""Publishing to an Oxen repository: the real library, on this machine, without a network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from world import World, rows

from oxenbatch.folder import locked
from oxenbatch.ledger import decisions
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "a-key-that-nobody-may-see"


class Desk:
    """A user's home with one finished batch of three results in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.batch, self.repository = folder, folder / "out/set", folder / "out/.set.oxen"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "OXEN_API_KEY": KEY,
                    "PYTHONPATH": str(Path(__file__).parent.parent)}  # fmt: skip
        (folder / "home").mkdir()

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "oxenbatch", "publish", *(options or ("out/set",))]
        return subprocess.Popen(command, cwd=self.folder, env=self.env, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    def call(self, *options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*options)
        printed, said = process.communicate(timeout=120)
        assert process.returncode == code, f"{process.returncode}\n{printed}\n{said}"
        assert "Traceback" not in said
        assert KEY not in printed + said
        return subprocess.CompletedProcess([], code, printed, said)

    def publish(self, *options: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.call("out/set", "--json", *options).stdout)
        return told

    def results(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.batch.glob("*.png")}

    def committed(self) -> dict[str, bytes]:
        """What a fresh checkout of the repository holds."""
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.repository / ".oxen", copy / ".oxen")
        self._ask(copy, "repo.restore(repo.path)")
        return {path.name: path.read_bytes() for path in copy.iterdir() if path.is_file()}

    def log(self) -> list[str]:
        told: list[str] = self._ask(self.repository, "[commit.message for commit in repo.log()]")
        return told

    def is_clean(self) -> bool:
        return bool(self._ask(self.repository, "repo.status().is_clean()"))

    def _ask(self, folder: Path, expression: str) -> Any:
        """A process of its own: whoever has looked into a repository holds its lock until the end."""
        code = f"import json, oxen; repo = oxen.Repo({str(folder)!r}); print(json.dumps({expression}))"
        done = subprocess.run([sys.executable, "-c", code], env=self.env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "set"
    World(folder, rows(3)).run()
    return folder


@pytest.fixture
def desk(made: Path, tmp_path: Path) -> Desk:
    shutil.copytree(made, tmp_path / "out/set")
    return Desk(tmp_path)


def test_a_data_set_is_committed_on_this_machine_without_a_network(desk: Desk) -> None:
    told = desk.publish()

    assert (told["files"], told["added"], told["pushed_to"]) == (3, 3, None)
    assert desk.log() == ["3 files added"]
    committed = desk.committed()
    assert {name: body for name, body in committed.items() if name.endswith(".png")} == desk.results()
    assert committed["metadata.jsonl"] == (desk.batch / "metadata.jsonl").read_bytes()
    assert b"3 files of 3 prompts" in committed["README.md"]
    assert desk.is_clean()
    assert not list((desk.folder / "home").rglob("*.toml"))  # the user's settings are not touched


def test_only_what_is_new_is_committed_each_night(desk: Desk) -> None:
    first = desk.publish()
    again = desk.publish()
    assert (again["added"], again["commit"], desk.log()) == (0, None, ["3 files added"])

    with Ledger.open(desk.batch / "ledger.db") as ledger, ledger.immediate():
        ledger.conn.execute('update jobs set metadata = \'{"split": "test"}\' where id = 1')
    changed = desk.publish("-m", "Splits")
    assert changed["commit"] not in (None, first["commit"])
    assert desk.log() == ["Splits", "3 files added"]
    assert b'"split": "test"' in desk.committed()["metadata.jsonl"]


def test_a_result_that_was_rejected_leaves_the_data_set_and_stays_in_its_history(desk: Desk) -> None:
    desk.publish()
    with Ledger.open(desk.batch / "ledger.db") as ledger:
        (gone,) = ledger.conn.execute("select file from samples where id = 1").fetchone()
        decisions.set_aside(ledger, [1], attempts=3, at=0.0)
    told = desk.publish()

    assert (told["removed"], told["files"], told["missing"]) == (1, 2, 1)
    assert gone not in desk.committed()
    assert desk.log()[0] == "1 removed"
    assert desk.is_clean()


def test_an_older_version_checked_out_there_does_not_touch_the_results(desk: Desk) -> None:
    desk.publish()
    before = desk.results()
    for path in desk.repository.glob("*.png"):
        path.write_bytes(b"somebody's brush")

    assert desk.results() == before


def test_dated_batches_are_one_repository_with_a_folder_each(made: Path, desk: Desk) -> None:
    shutil.copytree(made, desk.folder / "out/nightly/2026-11-22")
    told = json.loads(desk.call("out/nightly", "--json").stdout)
    assert (told["to"], told["files"]) == ("out/.nightly.oxen", 3)
    shutil.copytree(made, desk.folder / "out/nightly/2026-11-23")
    told = json.loads(desk.call("out/nightly", "--json").stdout)

    assert (told["files"], told["added"]) == (6, 3)
    assert (desk.folder / "out/.nightly.oxen/2026-11-23/metadata.jsonl").exists()


@pytest.mark.parametrize(
    "moment",
    [
        "out/.set.oxen", "out/.set.oxen/.oxen/HEAD", "out/.set.oxen/*.part", "out/.set.oxen/*.png",
        "out/.set.oxen/metadata.jsonl", "out/.set.oxen/README.md", "out/.set.oxen/.oxen/staged",
        "out/.set.oxen/.oxen/history/*", "out/.set.oxen/.oxen/versions/files/*",
    ],
)  # fmt: skip
def test_killed_at_any_moment_the_next_publication_goes_on(desk: Desk, moment: str) -> None:
    process = desk.start()
    while process.poll() is None and not any(desk.folder.glob(moment)):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    desk.publish()

    committed = desk.committed()
    assert {name: body for name, body in committed.items() if name.endswith(".png")} == desk.results()
    assert {"metadata.jsonl", "README.md"} <= committed.keys()
    assert not [name for name in committed if name.endswith(".part")]
    assert desk.is_clean()
    assert desk.publish()["commit"] is None


def test_another_program_in_the_repository_is_left_alone(desk: Desk) -> None:
    desk.publish()
    code = f"import oxen; repo = oxen.Repo({str(desk.repository)!r}); repo.log(); print('in', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], env=desk.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with Ledger.open(desk.batch / "ledger.db") as ledger, ledger.immediate():
            ledger.conn.execute('update jobs set metadata = \'{"split": "test"}\' where id = 1')
        said = desk.call(code=75).stderr
        other.communicate("\n")

    assert "another program works on out/.set.oxen" in said
    assert desk.publish()["commit"] is not None


def test_two_publications_at_once_are_told_apart(desk: Desk) -> None:
    desk.publish()
    with locked(desk.repository / ".oxen", desk.repository / "none"):
        said = desk.call(code=75).stderr

    assert "another publication works on out/.set.oxen" in said


def test_what_oxenai_prints_is_talk_and_what_we_print_is_data(desk: Desk) -> None:
    done = desk.call()

    assert done.stdout.startswith("out/.set.oxen: 3 files, 3 files added, commit ")
    assert "oxen added" in done.stderr


def test_a_folder_that_is_something_else_is_left_alone(desk: Desk) -> None:
    (desk.folder / "work").mkdir()
    (desk.folder / "work/mine.txt").write_text("mine")
    said = desk.call("out/set", "--repository", "work", code=2).stderr

    assert "work is no Oxen repository, and not empty" in said
    assert [path.name for path in (desk.folder / "work").iterdir()] == ["mine.txt"]
    desk.repository.write_text("mine")
    assert "out/.set.oxen is no folder" in desk.call(code=2).stderr
    desk.repository.unlink()
    desk.repository.symlink_to("gone")
    assert "out/.set.oxen is no folder" in desk.call(code=2).stderr


def test_a_damaged_result_is_not_committed(desk: Desk) -> None:
    damaged = next(desk.batch.glob("*.png"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")

    assert "`oxenbatch verify --repair` fetches it again" in desk.call(code=74).stderr
    assert not list((desk.repository / ".oxen/history").glob("*"))


# --- remotes --------------------------------------------------------------------------------------------------------


class Remote:
    """Something that answers like a hub which does not let us in; what it was asked, and with which key."""

    def __init__(self, status: int) -> None:
        self.asked: list[tuple[str, str | None]] = []
        remote = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                remote.asked.append((self.path, self.headers.get("authorization")))
                words = {401: "unauthenticated", 403: "forbidden", 404: "resource_not_found"}.get(status, "error")
                body = json.dumps({"status": "error", "status_message": words}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def remote(request: pytest.FixtureRequest) -> Iterator[Remote]:
    found = Remote(request.param)
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.mark.parametrize(
    ("remote", "code", "words"),
    [
        (404, 2, "there is no repository at"),
        (401, 77, "does not accept the key"),
        (403, 77, "this key may not write to"),
        (500, 69, "is pushed next time"),
    ],
    indirect=["remote"],
)
def test_what_keeps_a_push_back_is_told_and_the_commit_is_kept(
    desk: Desk, remote: Remote, code: int, words: str
) -> None:
    said = desk.call("out/set", "--to", "ox/set", "--hub", remote.url, code=code).stderr

    assert words in said
    assert desk.log() == ["3 files added"]
    assert remote.asked[0] == ("/api/repos/ox/set", f"Bearer {KEY}")
    assert not list(desk.folder.rglob("auth_config.toml"))


def test_a_remote_that_is_not_there_is_told_and_one_without_a_key_too(desk: Desk) -> None:
    assert (
        "is pushed next time" in desk.call("out/set", "--to", "ox/set", "--hub", "http://127.0.0.1:9", code=69).stderr
    )
    del desk.env["OXEN_API_KEY"]
    said = desk.call("out/set", "--to", "ox/set", code=77).stderr
    assert "no key for hub.oxen.ai: set OXEN_API_KEY" in said
    assert str(desk.folder / "home/.config/oxen/auth_config.toml") in said
    assert desk.log() == ["3 files added"]


def test_a_repository_that_has_a_remote_is_pushed_there(desk: Desk) -> None:
    desk.publish()
    config = desk.repository / ".oxen/config.toml"
    text = config.read_text().replace("remotes = []\n", "")
    config.write_text(text + '\n[[remotes]]\nname = "origin"\nurl = "http://127.0.0.1:9/ox/set"\n')

    said = desk.call("out/set", "--hub", "http://127.0.0.1:9", code=69).stderr
    assert "http://127.0.0.1:9/ox/set cannot be reached" in said
    assert desk.publish("--dry-run")["pushed_to"] == "http://127.0.0.1:9/ox/set"


@pytest.mark.parametrize("remote", [404], indirect=True)
def test_a_repository_does_not_decide_where_the_key_goes(desk: Desk, remote: Remote) -> None:
    """A folder from somebody else names somebody else's hub as its remote."""
    desk.publish()
    config = desk.repository / ".oxen/config.toml"
    text = config.read_text().replace("remotes = []\n", "")
    config.write_text(text + f'\n[[remotes]]\nname = "origin"\nurl = "{remote.url}/ox/set"\n')

    assert f"say so with --hub {remote.url}" in desk.call(code=2).stderr
    assert remote.asked == []
    desk.call("out/set", "--hub", remote.url, code=2)
    assert remote.asked[0] == ("/api/repos/ox/set", f"Bearer {KEY}"), "its owner has said so"
