"""What can be known before money is spent: `check`, `models`, `model`, `init`, `schema`, and the lock."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from desk import Desk, machine_line
from sandbox_kit import IMAGE

from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

VIDEO = "kling-video-v2-6-pro-text-to-video"


def checked(desk: Desk, *words: str, code: int = 0, **env: str) -> dict[str, Any]:
    return dict(json.loads(desk.call("check", *words, "--json", code=code, **env).stdout))


def asked(desk: Desk) -> int:
    """How often the hub was asked for its catalogue since this desk was set up."""
    calls = [record["calls"].get("GET /ai/models", 0) for record in (desk.hub.record(), desk.before)]
    return int(calls[0] - calls[1])


def other_calls(desk: Desk) -> dict[str, int]:
    """What the hub was asked, but for its catalogue and its record."""
    calls = desk.hub.record()["calls"]
    return {name: count for name, count in calls.items() if "models" not in name and "_sandbox" not in name}


# What a manifest makes and costs


def test_check_says_rows_generations_and_dollars_by_model_and_needs_no_key(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {VIDEO}\nprompts:\n- a\n- {{prompt: b, duration: 10, samples: 2}}\n"
               f"- {{prompt: c, model: {IMAGE}}}\n- {{prompt: d, model: qwen-image}}\n")  # fmt: skip
    said = checked(desk, "m.yaml", OXEN_API_KEY="")

    assert (said["ok"], said["rows"], said["generations"], said["cost"], said["unpriced"]) == (True, 4, 5, "1.764", 1)
    assert {one["model"]: (one["generations"], one["cost"]) for one in said["models"]} == {
        VIDEO: (3, "1.75"), IMAGE: (1, "0.014"), "qwen-image": (1, None),
    }  # fmt: skip
    shown = desk.call("check", "m.yaml").stdout
    assert "about $1.764 and 1 generation of unknown price" in shown
    assert shown.splitlines()[-1].split() == ["qwen-image", "1", "row", "1", "generation", "unknown"]
    assert desk.posts() == 0
    assert not (desk.folder / "out").exists()


def test_a_wrong_duration_and_a_slip_are_refused_with_what_is_accepted_and_what_was_meant(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {VIDEO}\nprompts:\n  - prompt: a\n    duration: 7\n  - {{prompt: b, duratoin: 5}}\n")
    done = desk.call("check", "m.yaml", code=65)
    assert done.stderr.splitlines()[:2] == [
        "m.yaml:4:15: row 1, duration: 7, expected one of 5, 10",
        f"m.yaml:5:17: row 2, duratoin: is not a parameter of {VIDEO}; did you mean duration?",
    ]
    said = checked(desk, "m.yaml", code=65)
    assert said["problems"][0] == {"file": "m.yaml", "line": 4, "column": 15, "row": 1, "field": "duration",
                                   "message": "7, expected one of 5, 10"}  # fmt: skip
    assert [one["row"] for one in json.loads(desk.call("run", "m.yaml", "--json", code=65).stdout)["problems"]] == [
        1,
        2,
    ]
    assert desk.posts() == 0


def test_fifty_problems_are_told_and_the_rest_is_counted(desk: Desk) -> None:
    desk.write("m.csv", "prompt,seed\n" + "x,abc\n" * 120)
    done = desk.call("check", "m.csv", "--model", IMAGE, code=65)
    lines = done.stderr.splitlines()
    assert lines[0].startswith("m.csv:2:3: row 1, seed: 'abc', expected a whole number")
    assert len(lines) == 52
    assert lines[50:] == ["… and 70 more", "oxenbatch: 120 problems in the manifest; nothing was sent"]


def test_several_manifests_are_all_looked_at(desk: Desk) -> None:
    desk.write("a.txt", "x\n")
    desk.write("b.yaml", "- {prompt: x, model: nano-banan}\n")
    desk.write("c.txt", "x\ny\n")
    said = checked(desk, "a.txt", "b.yaml", "c.txt", "--model", IMAGE, code=65)
    assert [one["exit_code"] for one in said["manifests"]] == [0, 65, 0]
    assert (said["rows"], said["cost"]) == (3, "0.042")
    assert "did you mean nano-banana-2" in said["problems"][0]["message"]
    assert desk.call("check", "a.txt", "missing.yaml", "--model", IMAGE, code=2).stderr.startswith("oxenbatch: missing")


def test_a_folder_that_cannot_be_made_is_found_out_before_the_night(desk: Desk) -> None:
    desk.write("m.txt", "x\n")
    desk.write("file", "")
    assert "file is no folder" in desk.call("check", "m.txt", "--model", IMAGE, "-o", "file/out", code=74).stderr


def test_a_limit_that_is_too_low_is_told_beforehand(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nmax_cost: 0.02\nprompts: [a, b, {{prompt: c, model: qwen-image}}]\n")
    warnings = " ".join(checked(desk, "m.yaml")["warnings"])
    assert "about $0.028 is more than the $0.02" in warnings
    assert "--allow-unpriced" in warnings


# Against a ledger that exists


def test_the_plan_says_what_is_new_changed_unfinished_done_and_left_over(desk: Desk) -> None:
    rows = [f"- {{id: {name}, prompt: {name}}}\n" for name in "abcde"]
    desk.write("m.yaml", f"model: {IMAGE}\nprompts:\n{''.join(rows)}- '[fail] this one'\n")
    assert checked(desk, "m.yaml")["plan"] is None
    desk.call("run", "m.yaml", code=3)
    rows[1] = "- {id: b, prompt: another}\n"
    rows[2] = "- {id: c, prompt: c, samples: 3}\n"
    desk.write("m.yaml", f"model: {IMAGE}\nprompts:\n- new\n{''.join(rows[:4])}- '[fail] this one'\n")
    before = other_calls(desk)
    ledger = (desk.folder / "out/m/ledger.db").read_bytes()

    said = checked(desk, "m.yaml", code=65)
    plan = {name: (lot["rows"], lot["generations"], lot["cost"]) for name, lot in said["plan"].items()}
    assert plan == {
        "new": (1, 1, "0.014"), "changed": (1, 1, "0.014"), "unfinished": (2, 2, "0.028"),
        "done": (2, 2, "0.028"), "orphaned": (1, 1, "0.014"), "to_send": (3, 3, "0.042"),
    }  # fmt: skip
    assert said["plan"]["changed"]["named"][0]["changes"] == {"prompt": ["b", "another"]}
    assert [row["id"] for row in said["plan"]["orphaned"]["named"]] == ["e"]
    assert "'b' was sent with another request before" in said["problems"][0]["message"]
    kept = checked(desk, "m.yaml", "--changed", "keep")
    assert kept["plan"]["to_send"]["cost"] == "0.042"
    assert checked(desk, "m.yaml", "--changed", "rerun")["plan"]["to_send"]["cost"] == "0.056"
    assert desk.call("check", "m.yaml", "--changed", "keep").stdout.endswith("a run would send 3 generations, for about"
                                                                             " $0.042\n")  # fmt: skip
    assert (desk.folder / "out/m/ledger.db").read_bytes() == ledger
    assert other_calls(desk) == before

    desk.call("run", "m.yaml", "--changed", "keep", code=3)
    assert desk.made() == 9
    assert checked(desk, "m.yaml")["plan"]["to_send"]["generations"] == 0


# The catalogue


def test_the_catalogue_is_asked_for_once_an_hour_and_not_at_all_offline(desk: Desk) -> None:
    desk.write("m.txt", "x\n")
    assert "no copy of the catalogue" in desk.call("check", "m.txt", "--model", IMAGE, "--offline").stderr
    assert asked(desk) == 0
    for words in (["check", "m.txt", "--model", IMAGE], ["models"], ["model", IMAGE], ["models", "video", "--offline"]):
        desk.call(*words, OXEN_API_KEY="")
    assert asked(desk) == 1
    desk.call("models", "--refresh")
    assert asked(desk) == 2

    (cache,) = (desk.folder / "home/.cache/oxenbatch").glob("models-*.json")
    kept = json.loads(cache.read_text("utf-8"))
    cache.write_text(json.dumps(kept | {"fetched_at": time.time() - 3 * 86400}), "utf-8")
    assert "3 days ago" in desk.call("models", "--offline").stderr
    assert asked(desk) == 2
    desk.call("models")
    assert asked(desk) == 3
    cache.write_text('{"version": 1, "payload": {"data": [', "utf-8")  # a damaged copy is as good as none
    assert len(json.loads(desk.call("models", "--json").stdout)) == 10
    assert asked(desk) == 4
    assert json.loads(cache.read_text("utf-8"))["payload"]["data"]


def test_a_kept_copy_checks_a_manifest_when_the_hub_is_gone(tmp_path: Path) -> None:
    with Sandbox(speed=100) as served:
        desk = Desk(tmp_path, served)
        desk.write("bad.yaml", f"model: {VIDEO}\nprompts: [{{prompt: a, duration: 7}}]\n")
        desk.call("models")
    for flags in (["--offline"], []):
        done = desk.call("check", "bad.yaml", *flags, code=65)
        assert "expected one of 5, 10" in done.stderr
    desk.write("good.txt", "x\n")
    assert "copy that was fetched" in desk.call("check", "good.txt", "--model", IMAGE, "--refresh").stderr


def test_models_are_found_by_words_and_by_medium(desk: Desk) -> None:
    ids = [one["id"] for one in json.loads(desk.call("models", "kling", "VIDEO", "--json").stdout)]
    assert ids == [VIDEO, "kling-video-v3-pro-text-to-video"]
    assert [one["media_type"] for one in json.loads(desk.call("models", "image", "--json").stdout)].count("video") <= 1
    assert len(json.loads(desk.call("models", "--all", "--json").stdout)) == 11
    assert "qwen-image " in desk.call("models").stdout
    assert json.loads(desk.call("models", "nothing-like-it", "--json").stdout) == []


def test_a_model_shows_what_it_takes_and_costs(desk: Desk) -> None:
    said = json.loads(desk.call("model", "nano-banana-2", "--json").stdout)
    assert said["parameters"][0]["name"] == "prompt"
    assert {one["name"]: one.get("enum") for one in said["parameters"]}["resolution"] == ["1K", "2K", "4K"]
    shown = desk.call("model", VIDEO).stdout
    assert "one of 5, 10; default 5" in shown
    assert "$0.07 to $0.14 a second; $0.35 with the defaults" in shown
    assert "not known" in desk.call("model", "qwen-image").stdout
    assert "did you mean nano-banana-2" in desk.call("model", "nano-banana", code=2).stderr


# The lock


def test_a_night_warns_of_other_prices_and_stops_where_it_is_locked(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nprompts: [a]\n")
    assert "has no lock" in desk.call("run", "m.yaml", "--locked", code=65).stderr
    desk.call("check", "m.yaml", "--lock")
    lock = desk.folder / "m.yaml.lock"
    assert list(json.loads(lock.read_text("utf-8"))["models"]) == [IMAGE]
    desk.call("check", "m.yaml", "--locked")

    lock.write_text(
        lock.read_text("utf-8").replace("0.014", "0.012").replace('"maximum": 50', '"maximum": 40'), "utf-8"
    )
    words = "pricing.cost_per_image was 0.012 and is 0.014; parameters.num_inference_steps.maximum was 40 and is 50"
    assert words in desk.call("check", "m.yaml").stderr
    assert words in desk.call("check", "m.yaml", "--locked", code=65).stderr
    assert words in desk.call("run", "m.yaml", "--locked", code=65).stderr
    assert desk.posts() == 0
    assert words in desk.call("run", "m.yaml").stderr

    desk.call("check", "m.yaml", "--lock")
    desk.write("m.yaml", f"model: {IMAGE}\nprompts: [a, {{prompt: b, model: nano-banana-2}}]\n")
    assert "nano-banana-2: is not in the lock" in desk.call("check", "m.yaml", "--locked", code=65).stderr
    assert "nano-banana-2: is not in the lock" in desk.call("run", "m.yaml", "--locked", code=65).stderr
    assert desk.posts() == 1
    lock.write_text("{", "utf-8")
    assert "cannot be used" in desk.call("check", "m.yaml", "--locked", code=65).stderr


def test_a_lock_is_as_good_as_a_catalogue_without_a_network(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {VIDEO}\nprompts: [a]\n")
    desk.call("check", "m.yaml", "--lock")
    for copy in (desk.folder / "home/.cache/oxenbatch").glob("models-*.json"):
        copy.unlink()
    desk.write("m.yaml", f"model: {VIDEO}\nprompts: [{{prompt: a, duration: 7}}]\n")
    assert "expected one of 5, 10" in desk.call("check", "m.yaml", "--offline", code=65).stderr


def test_a_hub_that_is_no_address_is_a_usage_problem(desk: Desk) -> None:
    desk.write("m.txt", "x\n")
    for words in (["check", "m.txt"], ["run", "m.txt"], ["models"]):
        assert "--hub: not an http address: hub.oxen.ai" in desk.call(*words, "--hub", "hub.oxen.ai", code=2).stderr


# The first minute


@pytest.mark.parametrize("name", ["manifest.yaml", "loops.yml"])
def test_the_starter_manifest_passes_check_and_is_never_written_over(desk: Desk, name: str) -> None:
    words = [] if name == "manifest.yaml" else [name]
    desk.call("init", *words)
    said = checked(desk, name)
    assert (said["ok"], said["rows"], said["cost"]) == (True, 4, "0.335")
    (desk.folder / name).write_text("mine", "utf-8")
    assert "is there already" in desk.call("init", *words, code=2).stderr
    assert (desk.folder / name).read_text("utf-8") == "mine"
    desk.call("init", *words, "--force", "--model", VIDEO)
    assert checked(desk, name)["models"][0]["model"] == VIDEO
    assert desk.call("init", "-").stdout.startswith("# A manifest")


# run


def test_offline_a_run_records_the_rows_and_leaves_the_rest_to_the_next(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\n")
    before = other_calls(desk)
    done = desk.call("run", "m.txt", "--model", IMAGE, "--offline", code=75, OXEN_API_KEY="")
    assert machine_line(done) | {"cost": ""} == {"exit": "75", "done": "0", "active": "0", "pending": "2", "held": "0",
                                                 "failed": "0", "cost": ""}  # fmt: skip
    assert other_calls(desk) == before
    desk.call("run", "m.txt", "--model", IMAGE)
    assert desk.call("run", "m.txt", "--model", IMAGE, "--offline", "-q").stderr == ""
    assert desk.made() == 2


def at_a_terminal(desk: Desk, answer: str, *words: str) -> tuple[int, str]:
    """The command with a terminal for everything, and a person who types the answer to its question."""
    leader, follower = pty.openpty()
    env = desk.env | {"TERM": "dumb"}
    running = subprocess.Popen([sys.executable, "-m", "oxenbatch", *words], cwd=desk.folder, env=env, stdin=follower,
                               stdout=follower, stderr=follower, start_new_session=True)  # fmt: skip
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 65536)
        except OSError:  # the terminal's other end is gone
            break
        if b"[y/N]: " in shown and answer:
            os.write(leader, answer.encode() + b"\n")
            answer = ""
    os.close(leader)
    return running.wait(60), shown.decode()


def test_a_person_is_asked_above_an_amount_and_cron_is_not(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\n")
    words = ["run", "m.txt", "--model", IMAGE, "--progress", "none"]
    code, shown = at_a_terminal(desk, "n", *words, "--confirm-above", "0.02")
    assert code == 5
    assert "send 2 generations, for about $0.028?" in shown
    assert desk.posts() == 0

    code, shown = at_a_terminal(desk, "y", *words, "--confirm-above", "0.02")
    assert (code, desk.posts()) == (0, 2)
    desk.write("m.txt", "a\nb\nc\n")
    code, shown = at_a_terminal(desk, "", *words, "--confirm-above", "0.02")
    assert (code, "[y/N]" in shown) == (0, False)
    desk.write("m.txt", "a\nb\nc\nd\ne\n")
    code, shown = at_a_terminal(desk, "", *words, "--confirm-above", "0.02", "--yes")
    assert (code, "[y/N]" in shown) == (0, False)
    desk.write("m.txt", "a\nb\nc\nd\ne\nf\ng\n")
    desk.call(*words, "--confirm-above", "0.02")
    assert desk.posts() == 7


def test_what_cannot_be_priced_is_asked_about_as_well(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    words = ["run", "m.txt", "--model", "qwen-image", "--progress", "none", "--confirm-above", "100"]
    code, shown = at_a_terminal(desk, "n", *words)
    assert (code, desk.posts()) == (5, 0)
    assert "1 whose price is not known" in shown


def test_unpriced_rows_stop_at_a_limit_unless_they_are_allowed(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    desk.call("run", "m.txt", "--model", "qwen-image", "--max-cost", "5", code=5)
    assert desk.posts() == 0
    desk.call("run", "m.txt", "--model", "qwen-image", "--max-cost", "5", "--allow-unpriced")
    assert desk.posts() == 1


# What an older batch has bought


def test_a_request_that_was_bought_before_is_not_bought_again(desk: Desk) -> None:
    # Other desks ask this hub too, and their orphans would be ours: nobody else asks for a mill, a weir or a quay.
    desk.write("old.yaml", f"model: {IMAGE}\nprompts: [{{id: x, prompt: a mill, seed: 1}},"
               " {prompt: a weir, samples: 2}, a quay]\n")  # fmt: skip
    desk.call("run", "old.yaml")
    assert desk.made() == 4
    desk.write("new.yaml", f"model: {IMAGE}\nprompts: [{{id: y, prompt: a mill, seed: 1}}, {{prompt: a mill, seed: 2}},"
               " {id: z, prompt: a weir, samples: 3}, a quay, a quay]\n")  # fmt: skip
    dry = ["run", "new.yaml", "--reuse", "out/old", "--dry-run"]
    assert desk.call(*dry).stdout == "would send 3 generations, for about $0.042\n"
    said = json.loads(desk.call(*dry, "--json").stdout)
    assert [(one["generations"], one["cost"], one["models"]) for one in said["would_send"]] == [(3, "0.042", [IMAGE])]
    done = desk.call("run", "new.yaml", "--reuse", "old.yaml")
    assert "4 files are taken from older batches" in done.stderr
    assert desk.made() == 7

    lines = [json.loads(line) for line in (desk.folder / "out/new/metadata.jsonl").read_text("utf-8").splitlines()]
    older = [json.loads(line) for line in (desk.folder / "out/old/metadata.jsonl").read_text("utf-8").splitlines()]
    taken = [line for line in lines if line.get("reused_from") == "../old"]
    assert {line["generation_id"] for line in taken} == {line["generation_id"] for line in older}
    assert all(line["cost"] == 0 for line in taken)
    assert machine_line(done)["cost"] == "0.042"
    assert "7 of 7 files are as the ledger says" in desk.call("verify", "out/new").stdout
    said = json.loads(desk.call("audit", "out/new", "--json").stdout)
    assert (said["clean"], said["known"], said["found"], said["charged"]) == (True, 3, 3, "0.042")
    desk.call("run", "new.yaml", "--reuse", "old.yaml")
    desk.call("run", "new.yaml")
    assert desk.made() == 7


def test_a_file_that_is_not_as_it_was_is_bought_and_not_reused(desk: Desk) -> None:
    desk.write("old.txt", "a\nb\n")
    desk.call("run", "old.txt", "--model", IMAGE)
    first, second = sorted((desk.folder / "out/old").glob("*.png"))
    first.write_bytes(b"x" * first.stat().st_size)
    second.unlink()
    desk.write("new.txt", "a\nb\n")
    done = desk.call("run", "new.txt", "--model", IMAGE, "--reuse", "out/old")
    assert ("is not as it was" in done.stderr, "is gone" in done.stderr) == (True, True)
    assert desk.made() == 4


def test_a_rehearsal_s_files_are_never_taken_for_real_ones(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    desk.call("run", "m.txt", "--model", IMAGE)
    ledger = desk.folder / "out/m/ledger.db"
    with sqlite3.connect(ledger) as conn:
        conn.execute("update batch set hub = 'https://hub.example'")
    conn.close()
    desk.write("n.txt", "a\n")
    assert (
        "was made on https://hub.example"
        in desk.call("run", "n.txt", "--model", IMAGE, "--reuse", "out/m", code=78).stderr
    )
    assert desk.posts() == 1
