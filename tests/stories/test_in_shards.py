"""A batch in shards, as an array of jobs runs it: real processes, one hub, and the whole batch's limits."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING

from desk import Desk, machine_line
from sandbox_kit import IMAGE

from oxenbatch.folder import locked
from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 60


def manifest(desk: Desk, rows: int = ROWS, **more: object) -> None:
    own = desk.folder.name  # the hub has other tests' pictures too
    lines = [{"prompt": f"{own}, picture {n % (rows - 5)}", "model": IMAGE} | more for n in range(rows)]
    desk.write("m.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def shards(desk: Desk) -> dict[str, Counter[str]]:
    """The states in each shard's ledger."""
    found: dict[str, Counter[str]] = {}
    for path in sorted((desk.folder / "out/m/shards").glob("*/ledger.db")):
        with sqlite3.connect(path) as ledger:
            found[path.parent.name] = Counter(dict(ledger.execute("select state, count(*) from samples group by 1")))
    return found


def test_three_jobs_of_an_array_at_once_make_every_row_once_within_one_limit(tmp_path: Path) -> None:
    with Sandbox(speed=20) as hub:
        desk = Desk(tmp_path, hub)
        manifest(desk)
        running = [desk.start("run", "m.jsonl", "--shard", f"{n}/3", "-c", "8") for n in (1, 2, 3)]
        for one in running:
            one.communicate(timeout=120)

        assert [one.returncode for one in running] == [0, 0, 0]
        assert desk.made() == desk.posts() == ROWS
        assert hub.record()["peak_active"] <= 8
        assert list(shards(desk)) == ["1-of-3", "2-of-3", "3-of-3"]

        one_view = json.loads(desk.call("status", "out/m", "--json").stdout)
        assert one_view["states"]["downloaded"] == ROWS
        assert "all is well" in desk.call("audit", "out/m").stdout
        assert desk.call("audit", "m.jsonl").stdout.startswith(f"generations   {ROWS} in the ledger, {ROWS} of them")


def test_the_shards_together_cost_no_more_than_the_whole_may(desk: Desk) -> None:
    manifest(desk)
    codes = []
    for n in (1, 2, 3):
        running = desk.start("run", "m.jsonl", "--shard", f"{n}/3", "--max-cost", "0.50")
        said = running.communicate(timeout=120)[1]
        codes.append(running.returncode)
        assert running.returncode == 0 or "max-cost is reached" in said
    assert 5 in codes
    told = json.loads(desk.call("status", "out/m", "--json").stdout)
    assert 0.30 < float(told["cost"]) <= 0.50


def test_rows_that_are_added_or_change_their_places_move_nothing_that_exists(desk: Desk) -> None:
    manifest(desk, 30)
    for n in (1, 2):
        desk.call("run", "m.jsonl", "--shard", f"{n}/2")
    before, lines = shards(desk), (desk.folder / "m.jsonl").read_text().splitlines()
    added = json.dumps({"prompt": "one more", "model": IMAGE})
    desk.write("m.jsonl", "\n".join([added, *reversed(lines)]))
    for n in (1, 2):
        desk.call("run", "m.jsonl", "--shard", f"{n}/2")

    assert desk.posts() == 31
    grown = {name: count - before[name] for name, count in shards(desk).items()}
    assert sum(grown.values(), Counter()) == {"downloaded": 1}


def test_a_shard_that_is_killed_goes_on_and_the_merged_batch_sends_nothing(desk: Desk) -> None:
    manifest(desk)
    desk.call("run", "m.jsonl", "--shard", "1/2")
    killed = desk.start("run", "m.jsonl", "--shard", "2/2", "-c", "4", "--settle", "2s")
    while desk.made() < ROWS * 2 // 3:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    desk.call("run", "m.jsonl", "--shard", "2/2", "--settle", "2s")
    assert desk.made() == ROWS

    told = json.loads(desk.call("merge", "out/m/shards", "-o", "out/m", "--json").stdout)
    assert (told["parts"], told["jobs"], told["files"]) == (2, ROWS, {"linked": ROWS})
    assert json.loads(desk.call("merge", "out/m/shards", "-o", "out/m", "--json").stdout)["files"] == {"there": ROWS}
    again = desk.call("run", "m.jsonl")
    assert machine_line(again) | {"cost": ""} == {
        "exit": "0", "done": str(ROWS), "active": "0", "pending": "0", "held": "0", "failed": "0", "cost": "",
    }  # fmt: skip
    assert desk.made() == ROWS
    for command in ("status", "ls", "audit", "verify"):
        desk.call(command, "out/m")
    assert len((desk.folder / "out/m/metadata.jsonl").read_text().splitlines()) == ROWS
    name = json.loads(desk.call("ls", "out/m", "--json").stdout.splitlines()[0])["file"]
    assert "downloaded" in desk.call("show", "out/m", name).stdout


def test_a_merged_batch_goes_on_where_its_shards_stopped_and_they_do_not(desk: Desk) -> None:
    manifest(desk, 20)
    desk.call("run", "m.jsonl", "--shard", "1/2", "--limit-sends", "2", code=5)
    desk.call("run", "m.jsonl", "--shard", "2/2", "--limit-sends", "2", code=5)
    assert desk.posts() == 2, "the two sends of the whole are one for each shard"
    refused = desk.call("run", "m.jsonl", code=2).stderr
    assert "run as a whole it would pay for their rows again" in refused
    assert "oxenbatch merge out/m/shards -o out/m" in refused
    assert "is 2 shards: name one of them" in desk.call("ls", "out/m", code=2).stderr

    desk.call("merge", "out/m/shards", "-o", "out/m")
    desk.call("run", "m.jsonl")
    assert desk.made() == 20
    assert "has gone on as one batch" in desk.call("run", "m.jsonl", "--shard", "1/2", code=2).stderr
    assert "is a batch of its own" in desk.call("merge", "out/m/shards", "-o", "out/m", code=2).stderr
    assert desk.made() == 20


def test_a_person_decides_about_all_shards_at_once_and_they_go_on(desk: Desk) -> None:
    manifest(desk, 20)
    for n in (1, 2):
        desk.call("run", "m.jsonl", "--shard", f"{n}/2", "--limit-sends", "2", code=5)
    assert "cancelled: 18 not sent" in desk.call("cancel", "out/m").stdout
    for n in (1, 2):
        desk.call("run", "m.jsonl", "--shard", f"{n}/2", code=3)
    assert desk.posts() == 2
    assert "18 samples put back" in desk.call("retry", "out/m", "--state", "cancelled").stdout
    for n in (1, 2):
        desk.call("run", "m.jsonl", "--shard", f"{n}/2")
    assert "nothing is held" in desk.call("resolve", "out/m").stdout
    assert "nothing is held" in desk.call("resolve", "out/m", "--resubmit").stdout
    assert "nothing to put back" in desk.call("retry", "m.jsonl").stdout
    assert desk.made() == 20


def test_a_result_of_the_merged_view_is_rejected_in_its_shard_and_the_view_stays_one(desk: Desk) -> None:
    rows = [
        {"id": name, "prompt": f"{desk.folder.name}, {name}", "model": IMAGE} for name in ("Hero", "hero", "a", "b")
    ]
    desk.write("m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for n in (1, 2, 3):
        desk.call("run", "m.jsonl", "--shard", f"{n}/3")
    assert sum(bool(count) for count in shards(desk).values()) > 1, "else this test proves nothing"
    desk.call("merge", "out/m/shards", "-o", "out/m")
    listed = [json.loads(line) for line in desk.call("ls", "out/m", "--json").stdout.splitlines()]
    files = {one["job"]: one["file"] for one in listed}
    assert len({name.casefold() for name in files.values()}) == 4

    assert "2 results set aside" in desk.call("reject", "out/m", files["hero"], "a").stdout

    assert desk.states("out/m") == {"downloaded": 2, "pending": 2}, "merged again"
    assert sum(shards(desk).values(), Counter()) == {"downloaded": 2, "pending": 2}
    assert "names no job of these 3 shards" in desk.call("reject", "out/m", "nobody", code=2).stderr
    for n in (1, 2, 3):
        desk.call("run", "m.jsonl", "--shard", f"{n}/3")
    desk.call("merge", "out/m/shards", "-o", "out/m")
    assert desk.states("out/m") == {"downloaded": 4}
    assert desk.made() == 6
    assert Counter(prompt for prompt, in _prompts(desk)) == {
        f"{desk.folder.name}, {name}": 2 if name in ("hero", "a") else 1 for name in ("Hero", "hero", "a", "b")
    }  # fmt: skip


def _prompts(desk: Desk) -> list[tuple[str]]:
    """The prompt of each generation that any ledger knows."""
    with sqlite3.connect(desk.folder / "out/m/ledger.db") as ledger:
        return ledger.execute("select j.prompt from generations g join samples s on s.id = g.sample_id"
                              " join jobs j on j.id = s.job_id").fetchall()  # fmt: skip


def test_nobody_decides_about_shards_while_one_of_them_is_at_work(desk: Desk) -> None:
    manifest(desk, 10)
    desk.call("run", "m.jsonl", "--shard", "1/2")
    desk.call("run", "m.jsonl", "--shard", "2/2", "--limit-sends", "2", code=5)
    before = shards(desk)
    folder = desk.folder / "out/m/shards/2-of-2"
    with locked(folder, folder / "ledger.db"):
        for command in (["retry"], ["cancel"], ["reject", "x"], ["resolve", "--drop"]):
            said = desk.call(command[0], "out/m", *command[1:], code=75).stderr
            assert "another run works on" in said
        assert "nothing is held" in desk.call("resolve", "out/m").stdout
    assert shards(desk) == before


def test_a_merged_batch_that_has_gone_on_is_decided_about_in_its_own_ledger(desk: Desk) -> None:
    manifest(desk, 10)
    for n in (1, 2):
        desk.call("run", "m.jsonl", "--shard", f"{n}/2", "--limit-sends", "2", code=5)
    desk.call("merge", "out/m/shards", "-o", "out/m")
    desk.call("run", "m.jsonl")
    before = shards(desk)
    name = json.loads(desk.call("ls", "out/m", "--json").stdout.splitlines()[0])["file"]
    desk.call("reject", "out/m", name)
    assert shards(desk) == before
    assert desk.states("out/m") == {"downloaded": 9, "pending": 1}
    desk.call("run", "m.jsonl")
    assert desk.made() == 11


def test_bad_cuts_are_told_in_a_sentence_and_nothing_is_sent(desk: Desk) -> None:
    manifest(desk, 10, seed=1)
    assert "expected K/N" in desk.call("run", "m.jsonl", "--shard", "0/3", code=2).stderr
    assert "raise it to 9, or make fewer shards" in desk.call("run", "m.jsonl", "--shard", "1/9", code=2).stderr
    desk.write("m.jsonl", '{"prompt": 5}\n{"prompt": "x", "model": "no-such-model"}\n')
    for n in (1, 2, 3):
        said = desk.call("run", "m.jsonl", "--shard", f"{n}/3", code=65).stderr
        assert "m.jsonl:1" in said
        assert "m.jsonl:2" in said, "each shard checks every row"
    assert desk.posts() == 0
    assert not (desk.folder / "out").exists()
    assert "does not exist" in desk.call("merge", "nowhere", "-o", "out/x", code=2).stderr


def test_a_shard_without_rows_is_done(desk: Desk) -> None:
    desk.write("m.txt", "only one\n")
    for n in (1, 2, 3):
        desk.call("run", "m.txt", "--model", IMAGE, "--shard", f"{n}/3")
    assert desk.made() == 1
    desk.call("merge", "out/m/shards", "-o", "elsewhere")
    assert desk.states("elsewhere") == {"downloaded": 1}


def test_a_dated_shard_that_was_cut_off_is_finished_before_the_next_night(desk: Desk) -> None:
    desk.write("n.yaml", f"output: out/{{name}}/{{date}}\nmodel: {IMAGE}\nprompts: [{', '.join('abcdefghij')}]\n")
    for n in (1, 2):
        desk.call("run", "n.yaml", "--shard", f"{n}/2", "--date", "2026-01-01", "--limit-sends", "2", code=5)
    for n in (1, 2):
        assert "first, out/n/2026-01-01 is finished" in desk.call("run", "n.yaml", "--shard", f"{n}/2").stderr
    assert desk.posts() == 20
