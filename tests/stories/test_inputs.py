"""Files that rows send along, from end to end: stored once, sent as addresses, and nothing is paid twice."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from desk import Desk, machine_line
from test_manifest_inputs import png
from world import World, open_quickly, scratch

from oxenbatch.jobs import InputFile, JobState, Row
from oxenbatch.ledger import rebuild, runs
from oxenbatch.manifest.inputs import InputFiles, Marks
from oxenbatch.plan import Limits
from oxenbatch.runner import ModelFacts
from oxenbatch.sandbox.calls import history_row
from oxenbatch.wire import InputPlace, read_generation

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.sandbox import Request, Sandbox

MODEL = "nano-banana-2"
PLACE = InputPlace("ox", "refs")


def rows_with_files(root: Path, *names: str, prompt: str = "White background") -> list[Row]:
    """A row for each file, all with the same prompt."""
    rows = []
    for number, name in enumerate(names, 1):
        if not (root / name).exists():
            root.mkdir(exist_ok=True)
            (root / name).write_bytes(png(len(name) + ord(name[0])))
        found: list[InputFile] = []
        value = InputFiles(root).replaced(name, Marks("image"), found)
        rows.append(Row(MODEL, {"prompt": prompt, "input_image": value}, number=number, where=f"test:{number}",
                        inputs=tuple(found), written={"input_image": name}))  # fmt: skip
    return rows


def world_of(folder: Path, *names: str, **options: Any) -> World:
    root = folder / "refs"
    rows = rows_with_files(root, *(names or ("a.png", "b.png", "c.png", "b.png")))
    options = {"limits": Limits(concurrency=3, settle_s=20.0), "seed": "inputs"} | options
    return World(folder / "out", rows, inputs=PLACE, inputs_root=root, **options)


def assert_each_was_sent_with_its_own_file(world: World) -> None:
    """The hub could fetch every file, and the bytes behind each address are the row's."""
    assert not [g.error for g in world.hub.generations.values() if g.error]
    sent = Counter(str(g.parameters["input_image"]) for g in world.hub.generations.values())
    wanted = Counter(
        f"http://127.0.0.1:8000/api{PLACE.path(row.inputs[0].name)}" for row in world.rows for _ in range(row.samples)
    )
    assert sent == wanted
    for path, (media_type, sha256) in world.hub.stored.items():
        assert (path.rpartition("/")[2], media_type) == (f"{sha256}.png", "image/png")
    assert len(world.hub.stored) == len({file.sha256 for row in world.rows for file in row.inputs})


WEATHER: dict[str, list[dict[str, Any]]] = {
    "all is well": [],
    "answers are lost": [{"do": "lose_answer", "chance": 0.5}],
    "stores fail in passing": [
        {"do": "die", "on": "PUT /repos/file", "chance": 0.3},
        {"do": "lose_answer", "on": "PUT /repos/file", "chance": 0.3},
        {"do": "server_error", "on": "HEAD", "chance": 0.3},
    ],
}


@pytest.mark.parametrize("weather", WEATHER)
def test_killed_at_every_point_each_file_is_stored_once_and_each_row_paid_once(weather: str) -> None:
    with scratch() as folder:
        world = world_of(folder, faults=WEATHER[weather])
        world.run()
        world.assert_whole()
        points = world.points
    assert any("PUT" in point for point in points)
    for point in range(len(points)):
        with scratch() as folder:
            world = world_of(folder, faults=WEATHER[weather])
            world.run(kill_at=point)
            world.run()
            world.assert_whole()
            assert_each_was_sent_with_its_own_file(world)


def test_rows_that_differ_in_their_file_alone_are_told_apart_when_answers_are_lost() -> None:
    with scratch() as folder:
        world = world_of(folder, *(f"{n}.png" for n in "abcdefgh"), faults=[{"do": "lose_answer", "chance": 0.7}])
        summary = world.run()

        assert summary is not None
        assert summary.counts[JobState.HELD] == 0
        world.assert_whole()
        assert_each_was_sent_with_its_own_file(world)


def test_a_file_is_at_the_hub_before_the_request_that_names_it(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    late: list[str] = []

    def look(request: Request) -> None:
        if request.method == "POST":
            named = re.findall(r"/api/repos/([^\"]+)", request.body.decode())
            late.extend(path for path in named if path not in world.hub.stored)

    world.on_request = look
    world.run()

    assert not late
    assert_each_was_sent_with_its_own_file(world)


def test_what_is_stored_already_is_not_sent_again_by_another_batch(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.run()
    assert world.hub.calls["PUT /repos/file"] == 3
    world.folder = tmp_path / "other"
    world.folder.mkdir()
    world.run()

    assert world.hub.calls["PUT /repos/file"] == 3
    assert len(world.hub.generations) == 8


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ({"do": "refuse_key", "status": 403}, 77, "does not let this key store files in ox/refs"),
        ({"do": "refuse_key", "status": 401}, 77, "does not let this key store files in ox/refs"),
        ({"do": "no_repository"}, 65, "the hub has no repository ox/refs with a branch main"),
        ({"do": "small_store", "bytes": 10}, 65, "a.png is too large for the hub ("),
        ({"do": "words", "status": 422, "json": {"error": "no such format"}}, 65, "the hub does not take a.png: "),
        ({"do": "server_error"}, 69, "the hub has not let us store files"),
        ({"do": "die"}, 69, ""),
    ],
)
def test_what_cannot_be_stored_stops_sending_with_a_clear_reason(
    tmp_path: Path, fault: dict[str, Any], code: int, words: str
) -> None:
    limits = Limits(concurrency=3, settle_s=20.0, max_outage_s=120.0)
    world = world_of(tmp_path, "a.png", faults=[{"on": "PUT /repos/file"} | fault], limits=limits)
    summary = world.run()

    assert summary is not None
    assert summary.exit_code == code
    assert words in " ".join(summary.reasons)
    assert world.posts() == 0
    assert world.states() == {"pending": 1}


def test_one_odd_refusal_stops_no_run(tmp_path: Path) -> None:
    world = world_of(
        tmp_path, "a.png", faults=[{"do": "refuse_key", "on": "PUT /repos/file", "status": 403, "times": 1}]
    )
    world.run()

    world.assert_whole()


def test_what_is_paid_is_collected_although_nothing_more_can_be_stored(tmp_path: Path) -> None:
    world = world_of(
        tmp_path, "a.png", faults=[{"do": "refuse_key", "status": 403, "on": "PUT /repos/file", "after": 1}]
    )
    world.run(limits=Limits(settle_s=20.0, wait=False))
    assert world.states() == {"queued": 1}
    world.rows = rows_with_files(tmp_path / "refs", "a.png", "b.png")
    summary = world.run()

    assert summary is not None
    assert (summary.exit_code, world.states()) == (77, {"downloaded": 1, "pending": 1})


def test_a_file_that_changed_since_the_manifest_was_read_is_not_stored(tmp_path: Path) -> None:
    world = world_of(tmp_path, "a.png")
    (tmp_path / "refs/a.png").write_bytes(png(99))
    summary = world.run()

    assert summary is not None
    assert (summary.exit_code, world.posts(), world.hub.stored) == (65, 0, {})
    assert "a.png was changed since the manifest was read" in summary.reasons[0]
    (tmp_path / "refs/a.png").unlink()
    summary = world.run()
    assert summary is not None
    assert "a.png cannot be read: No such file or directory" in summary.reasons[0]


def test_with_no_wait_the_run_stays_until_what_fits_is_stored_and_sent(tmp_path: Path) -> None:
    world = world_of(tmp_path, "a.png", "b.png", limits=Limits(settle_s=20.0, wait=False, canary="none"))
    world.run()

    assert world.posts() == 2


def test_what_has_its_files_does_not_wait_for_what_takes_longer(tmp_path: Path) -> None:
    root = tmp_path / "refs"
    names = [f"{chr(97 + n)}.png" for n in range(16)]
    rows = [
        replace(row, model="google-veo-3-1-fast", parameters={**row.parameters, "duration": 8 if n > 12 else 4})
        for n, row in enumerate(rows_with_files(root, *names), 1)
    ]
    facts = {"google-veo-3-1-fast": ModelFacts(has_schema=True, video=True)}
    limits = Limits(concurrency=2, settle_s=20.0)
    world = World(tmp_path / "out", rows, inputs=PLACE, inputs_root=root, limits=limits, models=facts, seed="inputs")
    world.run()

    world.assert_whole()
    sends = [row[0] for row in world.query("select length_s from submissions b join samples s on s.submission_id = b.id"
                                           " order by b.id")]  # fmt: skip
    assert sends[0] == 4, "files are stored in the manifest's order"
    assert sends.index(8) < 12, "what takes longest goes first, once its files are there"


def test_another_place_at_the_hub_is_no_other_request(tmp_path: Path) -> None:
    world = world_of(tmp_path, "a.png", "b.png", limits=Limits(concurrency=8, settle_s=20.0, limit_sends=1))
    world.run()
    world.inputs = InputPlace("ox", "elsewhere", directory="files")
    world.run(limits=Limits(concurrency=8))

    world.assert_whole()
    assert {path.partition("/file/")[0] for path in world.hub.stored} == {"ox/refs", "ox/elsewhere"}


def test_a_lost_ledger_is_rebuilt_with_the_files_that_were_sent(tmp_path: Path) -> None:
    from oxenbatch.hub import Hub  # noqa: F401

    world = world_of(tmp_path, "a.png", "b.png", "c.png")
    world.run()
    for path in world.folder.iterdir():
        path.unlink()
    world.run(kill_at=8)  # the rows are staged anew, and nothing is sent
    rows = [read_generation(history_row(world.hub, g, "GET /ai/generations")) for g in world.hub.generations.values()]

    with open_quickly(world.ledger_path) as ledger:
        run_id = runs.begin_run(ledger, version="0", at=world.wall())
        assert rebuild.rebuild(ledger, [row for row in rows if row], at=world.wall(), run_id=run_id) == 3
    world.run()
    world.assert_whole()


# -- from the command line -------------------------------------------------------------------------------------------

EDITS = f"""model: {MODEL}
inputs: {{namespace: ox, repo: refs}}
prompts:
  - {{id: ox, prompt: On white, input_image: refs/ox.png}}
  - {{prompt: On white, input_image: refs/field.png}}
"""


@pytest.fixture
def desk(desk: Desk, tmp_path: Path) -> Desk:
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/ox.png").write_bytes(png(int.from_bytes(tmp_path.name.encode()) % 251))
    (tmp_path / "refs/field.png").write_bytes(png(252))
    desk.write("edits.yaml", EDITS)
    return desk


def stores(desk: Desk) -> int:
    return int(desk.hub.record()["calls"].get("PUT /repos/file", 0) - desk.before["calls"].get("PUT /repos/file", 0))


def test_a_day_with_files_of_one_s_own(desk: Desk) -> None:
    told = desk.call("run", "edits.yaml", "--dry-run")
    assert told.stdout.startswith("would send 2 generations")
    assert (desk.posts(), stores(desk)) == (0, 0)

    desk.call("run", "edits.yaml")
    lines = [json.loads(line) for line in (desk.folder / "out/edits/metadata.jsonl").read_text().splitlines()]
    assert [line["input_image"] for line in lines] == ["refs/ox.png", "refs/field.png"]
    first = stores(desk)
    assert desk.posts() == 2

    (desk.folder / "refs/field.png").rename(desk.folder / "refs/meadow.png")
    desk.write("edits.yaml", EDITS.replace("field", "meadow"))
    assert desk.call("run", "edits.yaml", "-q").stderr == ""
    assert (desk.posts(), stores(desk)) == (2, first)

    (desk.folder / "refs/ox.png").write_bytes(png(253))  # the manifest's own bytes are as they were
    refused = desk.call("run", "edits.yaml", code=65)
    assert "'ox' was sent with another request before" in refused.stderr
    assert desk.posts() == 2
    desk.call("run", "edits.yaml", "--changed", "rerun")
    assert desk.posts() == 3
    assert desk.call("run", "edits.yaml", "-q").stderr == ""

    (desk.folder / "refs/ox.png").unlink()
    assert "edits.yaml:4:45: row 1, input_image: 'refs/ox.png' does not exist" in desk.call(
        "run", "edits.yaml", code=65
    ).stderr  # fmt: skip
    assert (desk.posts(), desk.hub.record()["key_leaks"]) == (3, desk.before["key_leaks"])


def test_a_link_that_leads_to_another_file_is_a_changed_row(desk: Desk) -> None:
    (desk.folder / "refs/now.png").symlink_to("ox.png")
    desk.write("edits.yaml", EDITS.replace("refs/ox.png", "refs/now.png"))
    desk.call("run", "edits.yaml")
    (desk.folder / "refs/now.png").unlink()
    (desk.folder / "refs/now.png").symlink_to("field.png")

    assert "'ox' was sent with another request" in desk.call("run", "edits.yaml", code=65).stderr


def test_kept_rows_keep_their_files_and_are_not_asked_about_again(desk: Desk) -> None:
    desk.call("run", "edits.yaml")
    (desk.folder / "refs/ox.png").write_bytes(png(254))
    desk.call("run", "edits.yaml", "--changed", "keep")
    with sqlite3.connect(desk.folder / "out/edits/ledger.db") as ledger:
        assert ledger.execute("select count(*) from samples where state = 'downloaded'").fetchone() == (2,)

    assert machine_line(desk.call("run", "edits.yaml"))["done"] == "2"
    assert desk.posts() == 2


def test_the_stand_in_hub_remembers_files_over_its_own_end(tmp_path: Path, hub: Sandbox) -> None:
    desk = Desk(tmp_path, hub)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs/ox.png").write_bytes(png(1))
    (tmp_path / "refs/field.png").write_bytes(png(2))
    desk.write("edits.yaml", EDITS)
    desk.call("run", "edits.yaml", "--sandbox", "--limit-sends", "1", code=5, OXENBATCH_SPEED="100")
    desk.call("run", "edits.yaml", "--sandbox", OXENBATCH_SPEED="100")

    journal = (tmp_path / "out/.edits.sandbox.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["do"] for line in journal)["store"] == 2
    assert desk.states("out/edits") == {"downloaded": 2}
