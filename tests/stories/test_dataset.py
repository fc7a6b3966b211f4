"""From a run to a data set: what is odd is told, made anew on request, and handed on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from desk import Desk

MANIFEST = """
model: nano-banana-2
prompts:
  - {id: good, prompt: a red cube, aspect_ratio: "16:9", metadata: {split: train}}
  - {id: void, prompt: "[blank] a red cube", seed: 3, metadata: {split: test}}
  - {id: wide, prompt: "[wrong size] a red cube", aspect_ratio: "9:16"}
  - {id: pair, prompt: "[twin] a red cube", samples: 2}
  - {id: film, prompt: "[wrong size] a wave", model: kling-video-v2-6-pro-text-to-video, duration: 10,
     generate_audio: true}
  - {id: bad, prompt: "[fail] a red cube"}
"""


def status(desk: Desk) -> Any:
    (one,) = json.loads(desk.call("status", "m.yaml", "--json").stdout)["batches"]
    return one


def test_odd_results_are_told_made_anew_on_request_and_left_out_of_the_data_set(desk: Desk) -> None:
    desk.write("m.yaml", MANIFEST)
    desk.call("run", "m.yaml", "--extra-columns", "metadata", code=3)

    told = {(one["what"], one["says"]): one for one in status(desk)["oddities"]}
    assert {key: one["count"] for key, one in told.items()} == {
        ("mismatch", "aspect_ratio: asked 9:16, got 448×179"): 1,
        ("mismatch", "duration: asked 10, got 5 s"): 1,
        ("mismatch", "generate_audio: asked true, got no sound"): 1,
        ("identical", "the same bytes"): 2,
        ("blank", "one colour"): 1,
    }
    assert told["blank", "one colour"]["files"] == ["void.png"]
    words = desk.call("status", "m.yaml").stdout
    assert "duration: asked 10, got 5 s" in words
    assert "oxenbatch reject out/m " in words

    posts = desk.posts()
    desk.call("reject", "m.yaml", "void.png", "wide")
    desk.write("m.yaml", MANIFEST.replace("[blank] ", "").replace("[wrong size] a red", "a red"))
    desk.call("run", "m.yaml", "--changed", "rerun", code=3)
    assert desk.posts() == posts + 2
    assert {one["what"] for one in status(desk)["oddities"]} == {"mismatch", "identical"}
    assert len(list((desk.folder / "out/m/set-aside").iterdir())) == 2

    clean = ("--without", "blank", "--without", "identical", "--without", "mismatched")
    desk.call("export", "m.yaml", "-o", "set.parquet", *clean)
    assert pq.read_table(desk.folder / "set.parquet").column("file_name").to_pylist() == [
        "good.png", "void.png", "wide.png", "pair-1.png",
    ]  # fmt: skip
    desk.call("export", "m.yaml", "-o", "set", "--format", "folder", "--split-by", "split", *clean)
    assert sorted(path.name for path in (desk.folder / "set").iterdir() if path.is_dir()) == ["other", "test", "train"]
    page = desk.folder / "out/m/report.html"
    desk.call("report", "m.yaml", "-o", str(page))
    assert "duration: asked 10, got 5 s" in page.read_text(encoding="utf-8")
    assert desk.posts() == posts + 2


def test_a_batch_that_is_under_way_can_be_exported_and_shown(desk: Desk) -> None:
    desk.write("m.txt", "one\ntwo\n")
    desk.call("run", "m.txt", "--model", "nano-banana-2", "--no-wait", code=75)
    desk.call("export", "m.txt", "-o", "a.csv")
    desk.call("report", "m.txt", "-o", "r.html")

    assert (desk.folder / "a.csv").read_text() == "file_name,prompt,model\n"
    assert "2 results" in desk.call("report", "m.txt", "-o", "r.html").stderr
    desk.call("export", "nowhere", "-o", "a.csv", code=2)
