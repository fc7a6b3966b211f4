"""A run is watched from another terminal: real processes, the real stand-in hub, the ledger alone between them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any

import pytest
from sandbox_kit import IMAGE

from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 60.0
CODES = re.compile(r"\x1b\[[\d;]*[A-Za-z]")


class Night:
    """A manifest, a hub that is slow enough to be watched, and the command."""

    def __init__(self, folder: Path, hub: Sandbox) -> None:
        self.folder, self.hub = folder, hub
        (folder / "home").mkdir()
        keep = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.env = keep | {"HOME": str(folder / "home"), "OXEN_API_KEY": hub.key, "OXEN_BASE_URL": hub.url,
                           "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}  # fmt: skip
        self.write(24)
        self.started: list[subprocess.Popen[Any]] = []

    def write(self, rows: int) -> None:
        prompts = "".join(f"  - picture {n}\n" for n in range(rows))
        text = f"model: {IMAGE}\nconcurrency: 4\nmax_cost: 5\nprompts:\n{prompts}"
        (self.folder / "m.yaml").write_text(text, encoding="utf-8")

    def start(self, *words: str, **how: Any) -> subprocess.Popen[Any]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-m", "oxenbatch", *words], cwd=self.folder, env=self.env,
                                   **(pipes | how))  # fmt: skip
        self.started.append(process)
        return process

    def run_until_it_works(self) -> subprocess.Popen[Any]:
        """A run that is at work, and would be for longer than any of these tests looks at it."""
        self.write(100)
        posts = self.hub.record()["posts"]
        run = self.start("run", "m.yaml", "-q")
        while self.hub.record()["posts"] < posts + 4:
            assert run.poll() is None
            time.sleep(0.02)
        return run


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    with Sandbox(speed=25) as hub:
        night = Night(tmp_path, hub)
        yield night
        for process in night.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


def lines_of(watcher: subprocess.Popen[Any], count: int) -> list[dict[str, Any]]:
    """The next lines that it prints, waited for."""
    assert watcher.stdout is not None
    return [json.loads(watcher.stdout.readline()) for _ in range(count)]


def test_a_run_is_watched_as_one_json_object_a_line_until_it_ends(night: Night) -> None:
    run = night.run_until_it_works()
    watcher = night.start("status", "out/m", "--watch", "--json")
    told = lines_of(watcher, 3)
    run.send_signal(signal.SIGINT)
    printed, said = watcher.communicate(timeout=PATIENCE_S)
    run.communicate(timeout=PATIENCE_S)
    told += [json.loads(line) for line in printed.splitlines()]
    assert said == ""
    assert [one["running"] for one in told] == [True] * (len(told) - 1) + [False]
    done = [one["done"] for one in told]
    assert done == sorted(done)
    assert (told[-1]["exit_code"], run.returncode) == (130, 130)
    assert told[0]["max_cost"] == "5"
    assert told[2]["mood"]["listening"] is True
    assert all(one["done"] + one["active"] + one["pending"] == 100 for one in told)


def test_whoever_watches_takes_no_lock_and_leaves_the_run_alone(night: Night) -> None:
    run = night.run_until_it_works()
    watchers = [night.start("status", "m.yaml", "--watch", "--json") for _ in range(3)]
    for watcher in watchers:
        assert lines_of(watcher, 1)[0]["running"]
    watchers[0].send_signal(signal.SIGKILL)
    watchers[1].send_signal(signal.SIGINT)
    assert watchers[1].communicate(timeout=PATIENCE_S)[1] == ""
    assert watchers[1].returncode == 130
    assert lines_of(watchers[2], 1)[0]["running"]
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=PATIENCE_S)
    printed, _ = watchers[2].communicate(timeout=PATIENCE_S)
    assert (run.returncode, watchers[2].returncode) == (130, 0)
    assert json.loads(printed.splitlines()[-1])["exit_code"] == 130


def test_a_run_that_is_killed_is_watched_no_longer_and_the_next_one_finishes(night: Night) -> None:
    run = night.run_until_it_works()
    watcher = night.start("status", "out/m", "--watch", "--progress", "plain")
    assert watcher.stdout is not None
    assert "of 100 done" in watcher.stdout.readline()
    run.kill()
    run.communicate()
    printed, _ = watcher.communicate(timeout=PATIENCE_S)
    assert "; it was killed, or its machine went down\n" in printed
    assert "last run" in printed  # and then where it stands, and what to do next
    assert "oxenbatch run m.yaml" in printed

    again = night.start("run", "m.yaml", "-q", "-c", "64")
    again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0
    printed, said = night.start("status", "out/m", "--watch").communicate(timeout=PATIENCE_S)
    assert "no run is under way" in said
    assert "nothing is left to do" in printed
    assert night.hub.record()["generations"] == 100


def on_a_terminal(night: Night, *words: str, columns: int, resize: int | None = None) -> str:
    """What the command writes to a terminal of so many columns, made narrower or wider on the way."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = night.start(*words, stdout=theirs, stderr=theirs, stdin=theirs, start_new_session=True)
    os.close(theirs)
    parts: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other side is closed: it has ended
                break
            if not part:
                break
            parts.append(part)
            if resize and sum(map(len, parts)) > 2000:
                fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, resize, 0, 0))
                resize = None
    os.close(ours)
    process.wait(timeout=PATIENCE_S)
    return b"".join(parts).decode()


@pytest.mark.parametrize(("columns", "resize"), [(200, None), (80, 40), (40, 120)])
def test_run_paints_on_a_terminal_of_any_width_and_leaves_only_its_words(
    night: Night, columns: int, resize: int | None
) -> None:
    written = on_a_terminal(night, "run", "m.yaml", columns=columns, resize=resize)
    assert " of 24" in written
    assert "━" in written
    assert "of $5.00" in written
    plain = CODES.sub("", written)
    assert plain.rstrip().splitlines()[-1].startswith("oxenbatch: exit=0 done=24 ")
    assert "Traceback" not in written
    assert "\x1b[?25l" not in written  # the cursor is never hidden


def test_on_a_dumb_terminal_no_code_is_written(night: Night) -> None:
    night.env["TERM"] = "dumb"
    assert "\x1b" not in on_a_terminal(night, "run", "m.yaml", columns=80)


def test_without_a_terminal_and_without_quiet_a_log_stays_short(night: Night) -> None:
    night.write(1)
    _, said = night.start("run", "m.yaml").communicate(timeout=PATIENCE_S)
    assert "\x1b" not in said
    assert len(said.splitlines()) == 3  # what is wanted, what came of it, and the machines' line


def test_verbose_says_why(night: Night) -> None:
    rows = "  - {id: bad, prompt: 'x [fail]'}\n  - {id: once, prompt: 'y [fail once]'}\n"
    (night.folder / "m.yaml").write_text(f"model: {IMAGE}\nprompts:\n{rows}", encoding="utf-8")
    _, said = night.start("run", "m.yaml", "-v").communicate(timeout=PATIENCE_S)
    assert f"of {IMAGE} will not be made, try 1 of 3: The prompt was rejected by the content policy" in said
    assert f"of {IMAGE} failed and is tried again, try 1 of 3: " in said
    assert "next: see which rows cannot be made as they are" in said
    assert said.splitlines()[-1].startswith("oxenbatch: exit=3 ")


def test_a_terminal_that_lacks_a_letter_gets_its_number(night: Night) -> None:
    (night.folder / "m.yaml").write_text(f"model: {IMAGE}\nprompts: [a 海]\n", encoding="utf-8")
    night.start("run", "m.yaml", "-q").communicate(timeout=PATIENCE_S)
    night.env["PYTHONIOENCODING"] = "latin-1"  # not ascii, which click takes for a mistake
    printed, said = night.start("ls", "out/m", encoding="latin-1").communicate(timeout=PATIENCE_S)
    assert "a \\u6d77" in printed
    assert said == ""


def test_quiet_on_a_terminal_says_nothing_at_all(night: Night) -> None:
    assert on_a_terminal(night, "run", "m.yaml", "-q", columns=80) == ""
