"""What a user does in a day, as real processes against the real stand-in hub."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, machine_line
from sandbox_kit import IMAGE

from oxenbatch.media import inspect
from oxenbatch.sandbox import Sandbox

PARTI = Path(__file__).parents[3] / "shared" / "data" / "PartiPrompts.tsv"


def test_the_reference_example_becomes_a_video_that_is_whole(desk: Desk) -> None:
    desk.write("demo.yaml", "model: kling-video-v2-6-pro-text-to-video\nprompts:\n"
               "  - {prompt: A sunset timelapse over the ocean, duration: 5}\n")  # fmt: skip
    done = desk.call("run", "demo.yaml")

    (video,) = (desk.folder / "out/demo").glob("*.mp4")
    assert video.name.startswith("a-sunset-timelapse-over-the-ocean-")
    assert inspect(video).kind == "video"
    (line,) = [json.loads(text) for text in (desk.folder / "out/demo/metadata.jsonl").read_text().splitlines()]
    assert next(iter(line)) == "file_name"
    assert (line["file_name"], line["prompt"], line["duration"]) == (video.name, "A sunset timelapse over the ocean", 5)
    assert machine_line(done) | {"cost": ""} == {
        "exit": "0", "done": "1", "active": "0", "pending": "0", "held": "0", "failed": "0", "cost": "",
    }  # fmt: skip


def test_running_again_sends_nothing_and_one_row_more_sends_one(desk: Desk) -> None:
    manifest = desk.write("m.txt", "a\nb\nb\n")
    desk.call("run", "m.txt", "--model", IMAGE)
    assert desk.posts() == 3

    desk.call("run", "m.txt", "--model", IMAGE)
    assert desk.posts() == 3

    manifest.write_text("new\nb\na\nb\n", encoding="utf-8")
    assert desk.call("run", "m.txt", "--model", IMAGE, "-q").stderr == ""
    assert desk.posts() == 4
    assert desk.states("out/m") == {"downloaded": 4}


@pytest.mark.parametrize(
    ("name", "text", "code", "words"),
    [
        ("missing.yaml", None, 2, "missing.yaml does not exist"),
        ("empty.yaml", "", 65, "has no rows"),
        ("header.csv", "prompt,seed\n", 65, "has no rows"),
        ("broken.yaml", "prompts:\n  - [a\n  - b: {\n", 65, "broken.yaml:"),
        ("unknown.yaml", f"- {{prompt: x, model: {IMAGE}x}}\n", 65, f"did you mean {IMAGE}"),
        ("blank.yaml", f"- {{model: {IMAGE}}}\n", 65, "row 1: has no prompt"),
        ("typed.csv", f"prompt,model,seed\nx,{IMAGE},abc\n", 65, "'abc', expected a whole number"),
        ("text.yaml", "- {prompt: x, model: no-such-model-at-all}\n", 65, "is not in the hub's catalogue"),
        ("extra.csv", f"prompt,model,mood\nx,{IMAGE},sad\n", 65, "--extra-columns metadata"),
    ],
)
def test_a_bad_manifest_is_told_in_a_sentence_and_nothing_is_sent(
    desk: Desk, name: str, text: str | None, code: int, words: str
) -> None:
    if text is not None:
        desk.write(name, text)
    done = desk.call("run", name, code=code)

    assert words in done.stderr
    assert machine_line(done)["exit"] == str(code)
    assert desk.posts() == 0
    assert not (desk.folder / "out").exists()


def test_an_output_that_cannot_be_written_is_the_machines_fault(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    desk.write("file", "")
    assert "cannot write into" in desk.call("run", "m.txt", "--model", IMAGE, "-o", "file/out", code=74).stderr
    assert desk.posts() == 0


def test_without_a_key_both_ways_and_the_sandbox_are_named(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    said = desk.call("run", "m.txt", "--model", IMAGE, code=77, OXEN_API_KEY="").stderr
    assert "OXEN_API_KEY" in said
    assert "auth_config.toml" in said
    assert "--sandbox" in said


def test_a_refused_key_blames_no_row(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\n")
    desk.call("run", "m.txt", "--model", IMAGE, code=77, OXEN_API_KEY="not-the-key")
    assert desk.states("out/m") == {"pending": 2}
    desk.call("run", "m.txt", "--model", IMAGE)


def test_a_hub_that_is_not_there_is_given_up_after_the_outage(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    desk.call("run", "m.txt", "--model", IMAGE, "--hub", "http://127.0.0.1:9", "--max-outage", "1s", code=69)
    assert desk.posts() == 0


@pytest.mark.skipif(not PARTI.exists(), reason="the published prompts are not beside this checkout")
@pytest.mark.slow
def test_1632_published_prompts_arrive_character_for_character_through_a_kill(tmp_path: Path) -> None:
    (tmp_path / "PartiPrompts.tsv").write_bytes(PARTI.read_bytes())
    journal = tmp_path / "hub.jsonl"
    with Sandbox(speed=200, journal=journal) as served:
        desk = Desk(tmp_path, served)
        words = ["run", "PartiPrompts.tsv", "--model", IMAGE, "-c", "64", "--settle", "2s", "-q"]
        assert "Category, Challenge, Note" in desk.call(*words, code=65).stderr
        words += ["--extra-columns", "metadata"]
        killed = desk.start(*words)
        while served.record()["posts"] < 300:
            time.sleep(0.05)
        killed.kill()
        killed.communicate()
        desk.call(*words)

        record = served.record()
        assert (record["generations"], record["key_leaks"]) == (1632, 0)
        assert record["peak_active"] <= 64
        assert desk.states("out/PartiPrompts") == {"downloaded": 1632}
    bodies = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    received = sorted(body["body"]["prompt"] for body in bodies if body["do"] == "enqueue")
    lines = PARTI.read_bytes().decode().split("\n")
    assert received == sorted(line.rstrip("\r").split("\t")[0] for line in lines[1:] if line.strip())
    assert len(list((tmp_path / "out/PartiPrompts").glob("*.png"))) == 1632


def test_ctrl_c_drains_and_the_next_run_goes_on(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nprompt: 'picture {{n}}'\nvariables: {{n: {list(range(60))}}}\n")
    running = desk.start("run", "m.yaml", "-c", "4")
    while desk.posts() < 8:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.strip().splitlines()[-1].startswith("oxenbatch: exit=130 ")

    desk.call("run", "m.yaml", "-c", "16")
    assert desk.made() == 60


def test_a_second_run_is_told_who_is_at_work(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nprompt: 'picture {{n}}'\nvariables: {{n: {list(range(60))}}}\n")
    running = desk.start("run", "m.yaml", "-c", "4")
    while desk.posts() < 4:
        time.sleep(0.02)
    assert f"process {running.pid} " in desk.call("run", "m.yaml", code=75).stderr
    running.terminate()
    running.communicate(timeout=60)
    assert running.returncode == 143


def test_a_night_that_was_cut_off_is_finished_before_the_next_begins(desk: Desk) -> None:
    desk.write("n.yaml", f"output: out/{{name}}/{{date}}\nmodel: {IMAGE}\nprompts: [a, b, c]\n")
    desk.call("run", "n.yaml", "--date", "2026-01-01", "--limit-sends", "1", code=5)
    done = desk.call("run", "n.yaml")

    assert "first, out/n/2026-01-01 is finished" in done.stderr
    assert len(list((desk.folder / "out/n").iterdir())) == 2
    assert desk.states("out/n") == {"downloaded": 6}
    assert desk.posts() == 6


def test_a_row_whose_request_changed_is_reported_before_anything_is_sent(desk: Desk) -> None:
    text = f"model: {IMAGE}\nprompts:\n  - {{id: hero, prompt: A red cube}}\n"
    manifest = desk.write("m.yaml", text)
    desk.call("run", "m.yaml")
    manifest.write_text(text.replace("red", "blue"), encoding="utf-8")

    assert "--changed rerun" in desk.call("run", "m.yaml", code=65).stderr
    desk.call("run", "m.yaml", "--changed", "keep")
    manifest.write_text(manifest.read_text(encoding="utf-8") + "  - another\n", encoding="utf-8")
    desk.call("run", "m.yaml")  # that is settled, and not asked again
    assert desk.posts() == 2
    old = (desk.folder / "out/m/hero.png").read_bytes()
    desk.call("run", "m.yaml", "--changed", "rerun")
    assert desk.posts() == 3
    assert (desk.folder / "out/m/hero.png").read_bytes() != old
    assert [path.read_bytes() for path in (desk.folder / "out/m/set-aside").iterdir()] == [old]


def test_a_failed_row_is_shown_retried_and_harms_no_other(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nprompts: [{{id: good, prompt: a}}, {{id: bad, prompt: 'b [fail]'}}]\n")
    assert "content policy" in desk.call("run", "m.yaml", code=3).stderr
    story = json.loads(desk.call("show", "out/m", "bad", "--json").stdout)
    assert story["samples"][0]["state"] == "failed"
    assert [event["became"] for event in story["events"]][-1] == "failed"
    (row,) = desk.call("ls", "out/m", "--state", "failed", "--json").stdout.splitlines()
    assert json.loads(row)["job"] == "bad"

    assert "1 sample put back" in desk.call("retry", "out/m", "--error", "policy").stdout
    assert desk.states("out/m") == {"downloaded": 1, "pending": 1}
    assert "1 not sent" in desk.call("cancel", "out/m", "--job", "bad").stdout
    desk.call("run", "m.yaml", code=3)
    assert desk.states("out/m") == {"downloaded": 1, "cancelled": 1}


def test_cancel_stops_what_is_active_and_what_is_not_sent(tmp_path: Path) -> None:
    with Sandbox(speed=2) as slow:  # slow enough for the videos to be under way when they are cancelled
        _cancelled(Desk(tmp_path, slow))


def _cancelled(desk: Desk) -> None:
    desk.write("m.yaml", "model: kling-video-v2-6-pro-text-to-video\nconcurrency: 2\nprompts: [a, b, c, d]\n")
    desk.call("run", "m.yaml", "--no-wait", code=75)
    assert desk.states("out/m") == {"queued": 2, "pending": 2}

    assert "2 not sent, 2 cancelled at the hub" in desk.call("cancel", "out/m").stdout
    desk.call("run", "m.yaml", code=3)
    assert desk.states("out/m") == {"cancelled": 4}


def test_damage_is_found_and_mended_for_nothing(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\nc\n")
    desk.call("run", "m.txt", "--model", IMAGE)
    gone, cut, _ = sorted((desk.folder / "out/m").glob("*.png"))
    whole = cut.read_bytes()
    gone.unlink()
    cut.write_bytes(whole[:-1] + b"x")

    told = desk.call("verify", "out/m", code=74).stdout
    assert f"missing   {gone.name}" in told
    assert f"damaged   {cut.name}" in told
    desk.call("verify", "out/m", "--repair")
    assert cut.read_bytes() == whole
    assert desk.posts() == 3


def test_a_rejected_result_is_set_aside_and_made_anew(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nprompts: [{{id: hero, prompt: what is rejected, seed: auto}}]\n")
    desk.call("run", "m.yaml")
    old = (desk.folder / "out/m/hero.png").read_bytes()

    assert "1 result set aside" in desk.call("reject", "out/m", "hero").stdout
    desk.call("run", "m.yaml")
    assert (desk.folder / "out/m/hero.png").read_bytes() != old
    assert desk.posts() == 2
    desk.call("audit", "out/m")


def test_an_audit_sees_what_the_ledger_does_not_know(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nprompts: [{{id: hero, prompt: only here}}]\n")
    desk.call("run", "m.yaml")
    assert "nothing paid twice, nothing lost" in desk.call("audit", "out/m").stdout

    with sqlite3.connect(desk.folder / "out/m/ledger.db") as ledger:
        ledger.execute("update generations set generation_id = '00000000-0000-4000-8000-000000000000'")
        ledger.execute("update samples set generation_id = '00000000-0000-4000-8000-000000000000'")
    told = json.loads(desk.call("audit", "out/m", "--json", code=4).stdout)
    assert told["missing"] == ["00000000-0000-4000-8000-000000000000"]
    assert [orphan["job"] for orphan in told["orphans"]] == ["hero"]


def test_a_lost_ledger_stops_the_run_and_is_rebuilt_without_paying(desk: Desk) -> None:
    desk.write("m.txt", "lost one\nlost two\n")
    desk.call("run", "m.txt", "--model", IMAGE)
    (desk.folder / "out/m/ledger.db").write_bytes(b"")

    assert "--rebuild" in desk.call("run", "m.txt", "--model", IMAGE, code=74).stderr
    (desk.folder / "out/m/ledger.db").unlink(missing_ok=True)
    desk.call("run", "m.txt", "--model", IMAGE, "--rebuild")
    assert desk.posts() == 2
    assert desk.states("out/m") == {"downloaded": 2}


def test_limits_stop_cleanly_and_hold_over_restarts(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\nc\n")
    desk.call("run", "m.txt", "--model", IMAGE, "--max-cost", "0.028", code=5)
    assert desk.states("out/m") == {"downloaded": 2, "pending": 1}
    desk.call("run", "m.txt", "--model", IMAGE, "--max-cost", "0.028", code=5)
    assert desk.posts() == 2
    desk.call("run", "m.txt", "--model", IMAGE, "--max-cost", "0.042")


def test_the_accounts_limit_for_a_day_holds_over_all_batches(desk: Desk) -> None:
    config = desk.folder / "home/.config/oxenbatch/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("max_cost_per_day = 0.03\n", encoding="utf-8")
    desk.write("one.txt", "a\n")
    desk.write("two.txt", "b\nc\n")
    desk.call("run", "one.txt", "--model", IMAGE)
    assert "max_cost_per_day" in desk.call("run", "two.txt", "--model", IMAGE, code=5).stderr
    assert desk.posts() == 2


def test_the_summary_is_json_on_request_and_a_dry_run_sends_nothing(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\n")
    assert "2 generations, for about $0.028" in desk.call("run", "m.txt", "--model", IMAGE, "--dry-run").stdout
    assert desk.posts() == 0
    assert not (desk.folder / "out").exists()
    told: dict[str, Any] = json.loads(desk.call("run", "m.txt", "--model", IMAGE, "--json", "-q").stdout)
    assert (told["exit_code"], told["batches"][0]["done"], told["batches"][0]["sends"]) == (0, 2, 2)


def test_a_generation_that_the_hub_does_not_know_is_not_adopted(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('[{"do": "lose_answer", "times": 1}, {"do": "no_echo"}]', encoding="utf-8")
    with Sandbox(speed=100, faults=faults) as hub:
        desk = Desk(tmp_path, hub)
        desk.write("m.txt", "a\n")
        desk.call("run", "m.txt", "--model", IMAGE, "--settle", "1s", code=4)
        refused = desk.call("resolve", "out/m", "--adopt", str(uuid.uuid4()), "--hub", hub.url, code=2)

        assert "the hub knows no generation" in refused.stderr
        assert desk.states("out/m") == {"held": 1}


def test_a_generation_that_another_batch_has_is_not_adopted(tmp_path: Path) -> None:
    faults = tmp_path / "faults.json"
    faults.write_text('[{"do": "lose_answer", "times": 1}, {"do": "no_echo"}]', encoding="utf-8")
    with Sandbox(speed=100, faults=faults) as hub:
        desk = Desk(tmp_path, hub)
        desk.write("m.txt", "a\n")
        desk.write("other.txt", "b\n")
        desk.call("run", "m.txt", "--model", IMAGE, "--settle", "1s", code=4)
        desk.call("run", "other.txt", "--model", IMAGE)
        theirs = json.loads(desk.call("ls", "out/other", "--json").stdout)["generation_id"]
        refused = desk.call("resolve", "out/m", "--adopt", theirs, "--hub", hub.url, code=2)

        assert "is another batch's" in refused.stderr
        assert desk.states("out/m") == {"held": 1}


def test_of_several_manifests_nothing_is_sent_while_one_of_them_is_wrong(desk: Desk) -> None:
    desk.write("a.yaml", f"model: {IMAGE}\nprompts: [one, two]\n")
    desk.write("b.yaml", f"model: {IMAGE}\nprompts: [three, {{prompt: x, aspect_ratio: wrong}}]\n")
    desk.write("c.yaml", f"model: {IMAGE}\nprompts: [{{seed: 1}}]\n")
    done = desk.call("run", "a.yaml", "b.yaml", "c.yaml", code=65)

    assert "b.yaml:2:" in done.stderr
    assert "c.yaml:2:" in done.stderr
    assert desk.posts() == 0
    assert not (desk.folder / "out").exists()


def test_of_several_manifests_each_is_run_although_another_has_reached_its_limit(desk: Desk) -> None:
    desk.write("a.yaml", f"model: {IMAGE}\nmax_cost: 0.01\nprompts: [one]\n")
    desk.write("b.yaml", f"model: {IMAGE}\nprompts: [two]\n")
    done = desk.call("run", "a.yaml", "b.yaml", code=5)

    assert (machine_line(done)["done"], machine_line(done)["pending"]) == ("1", "1")
    assert desk.states("out/b") == {"downloaded": 1}


def test_two_manifests_that_go_to_one_folder_are_a_usage_error(desk: Desk) -> None:
    desk.write("a.yaml", f"model: {IMAGE}\nprompts: [one]\n")
    desk.write("a.txt", "two\n")
    done = desk.call("run", "a.yaml", "a.txt", "--model", IMAGE, code=2)

    assert "each manifest has its own output" in done.stderr
    assert desk.posts() == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["-c", "0"], 2), (["--no-such-flag"], 2), (["--max-cost", "much"], 2), (["--log-file", "no/such/log"], 78)],
)
def test_a_run_that_is_called_wrongly_ends_with_the_machines_line_too(
    desk: Desk, arguments: list[str], code: int
) -> None:
    desk.write("m.txt", "a\n")
    assert machine_line(desk.call("run", "m.txt", *arguments, code=code))["exit"] == str(code)


def test_what_was_recorded_offline_is_sent_by_the_command_that_is_told_next(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    said = desk.call("run", "m.txt", "--model", IMAGE, "-o", "there", "--offline", code=75).stderr
    (command,) = [line.partition("oxenbatch run ")[2] for line in said.splitlines() if "oxenbatch run " in line]

    assert "--offline" not in command
    desk.call("run", *command.split())
    assert desk.states("there") == {"downloaded": 1}


def test_a_ledger_that_lies_elsewhere_finds_its_files_and_the_folder_its_ledger(desk: Desk) -> None:
    desk.write("m.yaml", f"model: {IMAGE}\nprompts: [{{id: a, prompt: one}}, {{id: b, prompt: two}}]\n")
    (desk.folder / "safe").mkdir()
    hub = ("--hub", desk.hub.url)
    desk.call("run", "m.yaml", "--ledger", "safe/x.db")

    for name in ("safe/x.db", "out/m", "m.yaml"):
        assert desk.states(name) == {"downloaded": 2}
    desk.call("export", "safe/x.db", "-o", "set", "--format", "captions")
    assert {path.name for path in (desk.folder / "set").glob("?.*")} == {"a.png", "a.txt", "b.png", "b.txt"}

    desk.call("reject", "safe/x.db", "a")
    assert not (desk.folder / "out/m/a.png").exists()
    desk.call("run", "m.yaml", "--ledger", "safe/x.db")
    (desk.folder / "out/m/b.png").unlink()
    assert "1 file repaired" in desk.call("verify", "safe/x.db", "--repair", *hub).stdout
    assert (desk.folder / "out/m/b.png").is_file()
    assert desk.posts() == 3


def test_a_folder_whose_ledger_lies_elsewhere_gets_no_second_one(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    desk.call("run", "m.txt", "--model", IMAGE, "--ledger", "x.db", "--no-wait", code=75)

    assert "--ledger" in desk.call("run", "m.txt", "--model", IMAGE, code=74).stderr
    assert desk.posts() == 1


def test_a_password_in_the_hubs_address_is_not_written_down(desk: Desk) -> None:
    desk.write("m.txt", "a\n")
    hub = desk.hub.url.replace("http://", "http://user:passw0rd@")
    desk.call("run", "m.txt", "--model", IMAGE, "--hub", hub)

    assert not [f for f in desk.folder.rglob("*") if f.is_file() and b"passw0rd" in f.read_bytes()]


def test_the_machines_line_counts_what_there_is_also_where_nothing_could_be_tried(desk: Desk) -> None:
    manifest = desk.write("m.yaml", f"model: {IMAGE}\nprompts: [{{id: a, prompt: one}}, {{id: b, prompt: two}}]\n")
    desk.call("run", "m.yaml")
    manifest.write_text(manifest.read_text().replace("one", "other"), encoding="utf-8")

    for done in (desk.call("run", "m.yaml", code=65), desk.call("run", "m.yaml", code=77, OXEN_API_KEY="")):
        assert {name: machine_line(done)[name] for name in ("done", "pending", "cost")} == {
            "done": "2", "pending": "0", "cost": "0.028",
        }  # fmt: skip


def test_a_file_that_could_not_be_repaired_stays_missing_until_it_is(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\n")
    desk.call("run", "m.txt", "--model", IMAGE)
    lost = json.loads(desk.call("ls", "out/m", "--json").stdout.splitlines()[0])
    (desk.folder / "out/m" / lost["file"]).unlink()
    with closing(sqlite3.connect(desk.folder / "out/m/ledger.db")) as ledger:  # as an earlier repair gave it up
        of_it = (lost["generation_id"],)
        ledger.execute("update samples set state = 'unfetchable' where generation_id = ?", of_it)
        ledger.execute("update generations set state = 'unfetchable' where generation_id = ?", of_it)
        ledger.commit()

    said = desk.call("verify", "out/m", code=74).stdout
    assert lost["file"] in said
    assert "1 of 2 files" in said
    assert "1 file repaired" in desk.call("verify", "out/m", "--repair", "--hub", desk.hub.url).stdout
    assert (desk.folder / "out/m" / lost["file"]).is_file()
    assert desk.posts() == 2


def unread(desk: Desk, *arguments: str, gone: str) -> tuple[int, str]:
    """The exit code, and what the other stream said, where nobody reads this one."""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, gone: write}
    done = subprocess.run([sys.executable, "-m", "oxenbatch", *arguments], cwd=desk.folder, env=desk.env, text=True,
                          timeout=60, check=False, stdout=streams["stdout"], stderr=streams["stderr"])  # fmt: skip
    os.close(write)
    return done.returncode, done.stderr or done.stdout or ""


def test_a_reader_who_has_left_changes_no_runs_exit_code_and_makes_no_bug_of_a_table(desk: Desk) -> None:
    desk.write("m.txt", "a\nb\n")
    for gone in ("stderr", "stdout"):
        assert unread(desk, "run", "m.txt", "--model", IMAGE, "--json", gone=gone)[0] == 0
    assert unread(desk, "run", "m.txt", "--no-such-flag", gone="stderr") == (2, "")
    for command in (["ls", "out/m"], ["status", "out/m", "--json"], ["--help"], ["run", "--help"]):
        assert unread(desk, *command, gone="stdout") == (141, "")
    assert desk.posts() == 2
