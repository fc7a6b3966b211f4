"""A batch over a real cluster: a scheduler and workers as processes, killed, lost and resumed; the hub is the judge."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from desk import Desk, machine_line
from sandbox_kit import IMAGE

from oxenbatch.sandbox import Sandbox

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import scale

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
SCALE = Path(scale.__file__)
ROWS = 80
WORDS = ("--model", IMAGE, "--settle", "2s", "--max-outage", "30s")


class Site(Desk):
    """A desk with a cluster: the command has no key, nor has the scheduler."""

    def __init__(self, folder: Path, hub: Sandbox, cluster: scale.Cluster) -> None:
        super().__init__(folder, hub)
        self.cluster = cluster
        self.with_key = dict(self.env)
        del self.env["OXEN_API_KEY"]
        self.write("m.txt", "".join(f"{folder.name}, picture {n % (ROWS - 6)}\n" for n in range(ROWS)))

    def over_cluster(self, *more: str) -> subprocess.Popen[str]:
        return self.start("run", "m.txt", *WORDS, "--dask", self.cluster.address, *more)

    def wait_until_made(self, count: int, running: subprocess.Popen[str]) -> None:
        while self.made() < count:
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)

    def check(self) -> None:
        """Every row was made once, and everything agrees."""
        assert self.made() == ROWS
        assert len(list((self.folder / "out/m").glob("*.png"))) == ROWS
        self.env = self.with_key
        assert self.states("out/m") == {"downloaded": ROWS}
        assert "all is well" in self.call("audit", "out/m").stdout
        self.call("verify", "out/m")


@pytest.fixture(scope="module")
def hub() -> Iterator[Sandbox]:
    with Sandbox(speed=30, key=scale.KEY) as served:
        yield served


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[scale.Cluster]:
    with scale.Cluster(tmp_path_factory.mktemp("cluster")) as started:
        for _ in range(2):
            started.start_worker()
        scale.wait_for_workers(started, 2)
        yield started


@pytest.fixture
def site(tmp_path: Path, hub: Sandbox, cluster: scale.Cluster) -> Site:
    while (missing := 2 - sum(worker.poll() is None for worker in cluster.workers)) > 0:
        for _ in range(missing):
            cluster.start_worker()
    return Site(tmp_path, hub, cluster)


def test_the_page_is_followed_a_worker_is_killed_and_the_batch_is_whole(tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- followed: cluster -->\n```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    scheduler, first, second, command = block.replace("8786", port).strip().splitlines()
    with Sandbox(speed=30) as hub:
        desk = Desk(tmp_path, hub)
        desk.write("nightly.txt", "".join(f"picture {n}\n" for n in range(60)))
        path = {"PATH": f"{scale.BIN}:{desk.env['PATH']}"}
        keyless = {name: value for name, value in desk.env.items() if name != "OXEN_API_KEY"} | path
        started: list[subprocess.Popen[str]] = []

        def typed(line: str) -> subprocess.Popen[str]:
            started.append(subprocess.Popen(["sh", "-c", f"exec env {line}"], cwd=tmp_path, env=keyless, text=True,
                                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))  # fmt: skip
            return started[-1]

        try:
            for line in (scheduler, first, second):
                typed(line)
            run = typed(f"{command} --settle 2s")
            while desk.made() < 20:
                assert run.poll() is None, run.communicate()
                time.sleep(0.02)
            started[1].kill()
            typed(first)
            said = run.communicate(timeout=120)[1]
        finally:
            for process in started:
                process.kill()
                process.communicate()
        assert run.returncode == 0, said
        assert desk.made() == 60
        assert hub.record()["peak_active"] <= 8
        assert desk.states("out/nightly") == {"downloaded": 60}
        assert "all is well" in desk.call("audit", "out/nightly").stdout
        assert (tmp_path / "out/nightly/metadata.jsonl").read_text().count("\n") == 60


def test_the_key_is_the_workers_and_never_with_the_scheduler_nor_on_disk(site: Site) -> None:
    run = site.over_cluster("-c", "8")
    site.wait_until_made(10, run)
    assert scale.KEY.encode() in _memory(site.cluster.workers[-1].pid), "else this test proves nothing"
    assert site.cluster.scheduler is not None
    assert scale.KEY.encode() not in _memory(site.cluster.scheduler.pid)
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    for path in [*site.folder.rglob("*"), *site.cluster.home.glob("*")]:
        if path.is_file():
            assert scale.KEY.encode() not in path.read_bytes(), path
    site.check()


def _memory(pid: int) -> bytes:
    """What a process of ours has in its memory."""
    found = b""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if not rights.startswith("rw") or line.endswith("[vvar]"):
                continue
            begin, end = (int(text, 16) for text in span.split("-"))
            memory.seek(begin)
            try:
                found += memory.read(end - begin)
            except OSError:
                continue
    return found


def test_a_scheduler_that_is_lost_is_told_and_the_next_run_goes_on(tmp_path: Path, hub: Sandbox) -> None:
    (tmp_path / "cluster").mkdir()
    with scale.Cluster(tmp_path / "cluster") as cluster:
        for _ in range(2):
            cluster.start_worker()
        scale.wait_for_workers(cluster, 2)
        site = Site(tmp_path, hub, cluster)
        run = site.over_cluster("-c", "6")
        site.wait_until_made(20, run)
        assert cluster.scheduler is not None
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        said = run.communicate(timeout=60)[1]
        assert run.returncode == 75
        assert "the dask scheduler is gone; nothing is lost, and nothing will be paid twice" in said
        assert machine_line(subprocess.CompletedProcess([], 75, "", said))["exit"] == "75"

        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker()
        run = site.over_cluster("-c", "6")
        said = run.communicate(timeout=120)[1]
        assert run.returncode == 0, said
        site.check()


def test_a_command_that_is_killed_is_followed_by_one_that_calls_its_workers_back(site: Site) -> None:
    run = site.over_cluster("-c", "6")
    site.wait_until_made(15, run)
    run.kill()
    run.communicate()

    run = site.over_cluster("-c", "4")
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    site.check()


def test_ctrl_c_calls_the_workers_back_and_the_next_run_goes_on(site: Site) -> None:
    run = site.over_cluster("-c", "4")
    site.wait_until_made(10, run)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130, said
    assert "the workers finish what is open, and leave" in said
    assert site.made() < ROWS

    run = site.over_cluster("-c", "16")
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    assert f"{ROWS} files" in said
    site.check()


def test_the_money_is_the_wholes_and_what_one_shard_leaves_another_gets(site: Site) -> None:
    price = 0.014  # of one picture; the shards are not of equal size, and an equal part is too little for one
    run = site.over_cluster("-c", "8", "--max-cost", f"{ROWS * price:.3f}")
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    assert "exit 5" in said, "else this test proves nothing"
    site.check()

    site.write("m.txt", "".join(f"{site.folder.name}, more {n}\n" for n in range(ROWS)))
    run = site.over_cluster("-c", "8", "--max-cost", f"{(ROWS + 9) * price:.3f}")
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 5, said
    assert "max-cost is reached" in said
    assert site.made() == ROWS + 9, "every dollar that was allowed is used, and no more"


def test_a_rejected_result_is_made_anew_by_the_cluster_and_nothing_else_is(site: Site) -> None:
    run = site.over_cluster("-c", "8")
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    name = next((site.folder / "out/m").glob("*.png")).name
    assert "1 result set aside" in site.call("reject", "out/m", name).stdout
    assert site.states("out/m") == {"downloaded": ROWS - 1, "pending": 1}

    run = site.over_cluster("-c", "8")
    said = run.communicate(timeout=120)[1]
    assert run.returncode == 0, said
    assert site.states("out/m") == {"downloaded": ROWS}
    assert site.made() == ROWS + 1


def test_a_manifest_that_is_wrong_is_told_once_and_nothing_is_sent(site: Site) -> None:
    site.write("m.txt", "x\n")
    run = site.start("run", "m.txt", "--model", "no-such-model", "--dask", site.cluster.address)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 65, said
    assert said.count("is not in the hub's catalogue") == 1
    assert site.made() == 0


def test_a_cluster_that_is_not_there_is_told_in_a_sentence(site: Site, tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        said = site.call("run", "m.txt", *WORDS, "--dask", f"tcp://127.0.0.1:{nobody.getsockname()[1]}", code=75).stderr
    assert "no dask scheduler answers at tcp://127.0.0.1:" in said
    assert "expected tcp://HOST:PORT" in site.call("run", "m.txt", *WORDS, "--dask", "what://is this", code=2).stderr
    assert "--dry-run does not go with --dask" in site.call(
        "run", "m.txt", *WORDS, "--dask", "local", "--dry-run", code=2
    ).stderr  # fmt: skip
    assert "use --dask local" in site.call("run", "m.txt", "--dask", "tcp://h:1", "--sandbox", code=2).stderr
    assert site.made() == 0
    assert not (tmp_path / "out/m/ledger.db").exists()


def test_a_trial_without_a_cluster_and_without_a_key(tmp_path: Path, hub: Sandbox) -> None:
    desk = Desk(tmp_path, hub)
    del desk.env["OXEN_API_KEY"], desk.env["OXEN_BASE_URL"]
    desk.write("m.txt", "a\nb\nc\nd\n")
    said = desk.call("run", "m.txt", "--model", IMAGE, "--dask", "local", "--sandbox", OXENBATCH_SPEED="200").stderr
    assert "4 files, would cost $0.056, 4 requests sent in this run" in said
    assert "all is well" in desk.call("audit", "out/m", "--sandbox").stdout


@pytest.mark.slow
def test_in_20_kills_of_workers_nothing_is_paid_twice_or_lost_and_the_limit_holds() -> None:
    run = subprocess.run([sys.executable, str(SCALE), "--kills", "20", "--rows", "250", "--json"],
                         capture_output=True, text=True, timeout=280, check=False)  # fmt: skip
    assert run.returncode in (0, 1), run.stderr
    found = json.loads(run.stdout)

    wrong = {what: found[what] for what in ("twice", "lost", "torn", "unknown", "held")}
    assert not any(wrong.values()), json.dumps(found)
    assert found["most_active"] <= scale.PLACES
    assert found["kills"] == 20, "kills that did not happen prove nothing"
    assert found["hit_posts"] >= 5, "kills that hit nothing prove nothing"
    assert found["adopted"] >= 3
    assert found["ok"], found["said"]
