"""Files of this machine that rows send along: which fields take them, and what is found out before anything is sent."""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path
from typing import Any

import pytest
from world import picture

from oxenbatch.catalog import Catalog
from oxenbatch.errors import ManifestError, Problem
from oxenbatch.jobs import Row, request_hash
from oxenbatch.manifest import InputPlace, Overrides, load_manifest
from oxenbatch.manifest import inputs as looking
from oxenbatch.manifest.inputs import InputFault, InputFiles, Marks, is_changed, mark_of, marks
from oxenbatch.sandbox.models import CATALOGUE

CLIP = Path(looking.__file__).parents[1] / "sandbox" / "clip.mp4"
STAND_IN = Catalog.from_answer({"data": [model.shown() for model in CATALOGUE.values()]})
HEAD = "model: nano-banana-2\ninputs: {namespace: ox, repo: refs}\n"


def png(number: int = 0) -> bytes:
    """One of many small pictures."""
    return picture(b"number\0%d" % number)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder with some pictures in it, the youngest of them a minute old."""
    home = tmp_path / "home"
    (home / "refs").mkdir(parents=True)
    contents = {"ox.png": png(), "same.png": png(), "field.png": png(9), "clip.mp4": CLIP.read_bytes(),
                "page.png": b"<html>", "cut.png": png()[:-5], "empty.png": b""}  # fmt: skip
    for name, content in contents.items():
        path = home / "refs" / name
        path.write_bytes(content)
        os.utime(path, (path.stat().st_mtime - 60,) * 2)
    (tmp_path / "secret.png").write_bytes(png())
    (home / "refs" / "link.png").symlink_to(tmp_path / "secret.png")
    (home / "refs" / "round.png").symlink_to("round.png")
    os.mkfifo(home / "refs" / "pipe.png")
    return home


def read(folder: Path, text: str, catalog: Catalog | None = STAND_IN, name: str = "set.yaml") -> list[Row | Problem]:
    (folder / name).write_text(text, "utf-8")
    return list(load_manifest(folder / name).rows(dt.date(2026, 11, 22), catalog))


def rows(folder: Path, text: str, catalog: Catalog | None = STAND_IN) -> list[Row]:
    found = read(folder, text, catalog)
    assert not [one for one in found if isinstance(one, Problem)], found
    return [one for one in found if isinstance(one, Row)]


def complaint(folder: Path, value: str, head: str = HEAD) -> str:
    (problem,) = read(folder, f"{head}prompts:\n  - {{prompt: x, input_image: {value}}}\n")
    assert isinstance(problem, Problem)
    return str(problem)


# --- which fields ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "schema", "kind"),
    [
        ("input_image", {}, "image"),
        ("input_images", {"type": "array", "items": {"type": "string"}}, "image"),
        ("input_video", {"type": "string", "renderType": "textarea"}, "video"),
        ("image_url", {"type": ["string", "null"]}, "image"),
        ("reference", {"type": "string", "renderType": "image"}, "image"),
        ("reference", {"type": "string", "renderType": "image_upload"}, "image"),
        ("source", {"type": "string", "format": "uri"}, "media"),
        ("source", {"anyOf": [{"type": "string", "format": "uri"}, {"type": "null"}]}, "media"),
        ("source", {"type": "array", "items": {"type": "string", "contentMediaType": "video/mp4"}}, "video"),
        ("either", {"type": "string", "renderType": "image_or_video"}, "media"),
        ("end_frame", {"type": "string"}, "image"),
        ("style_image", {}, "image"),
        ("prompt", {"type": "string", "renderType": "textarea"}, None),
        ("mask", {"type": "string", "renderType": "textarea"}, None),
        ("generate_audio", {"type": "boolean"}, None),
        ("input_audio", {}, "audio"),
        ("voice", {"type": "string", "renderType": "audio"}, "audio"),
        ("voice", {"type": "string", "contentMediaType": "audio/wav"}, "audio"),
        ("either", {"type": "string", "renderType": "audio_or_video"}, "media"),
        ("num_images", {"type": "integer"}, None),
        ("image_size", {"type": "string"}, None),
        ("image", {"type": "string", "enum": ["square", "wide"]}, None),
        ("duration", {}, None),
    ],
)
def test_a_field_takes_files_where_its_schema_or_its_name_says_so(name: str, schema: Any, kind: str | None) -> None:
    found = marks(name, schema)

    assert (found.kind if found else None) == kind


def test_files_are_found_in_lists_of_mappings_and_a_schema_without_end_is_left() -> None:
    part = {"type": "object", "properties": {"image": {"type": "string", "format": "uri"}, "name": {"type": "string"}}}
    endless: dict[str, Any] = {"type": "object"}
    endless["properties"] = {"image": {"type": "string"}, "more": endless}

    assert marks("elements", {"type": "array", "items": part}) == Marks(None, {"image": Marks("image")})
    assert marks("more", endless) is not None


def test_every_model_of_the_stand_in_that_takes_files_is_known_to() -> None:
    found = {
        (model.id, name): mark.kind
        for model in CATALOGUE.values()
        for name, schema in (model.request_schema or {}).get("properties", {}).items()
        if (mark := marks(name, schema)) is not None
    }
    assert found == {
        ("google-veo-3-1-fast", "input_image"): "image",
        ("black-forest-labs-flux-2-klein-4b", "input_images"): "image",
        ("nano-banana-2", "input_image"): "image",
    }


@pytest.mark.parametrize("name", ["refs/voice.mp3", "voice.wav", "refs/ox.png"])
def test_sound_of_this_machine_is_refused_with_what_helps_and_an_address_is_sent(folder: Path, name: str) -> None:
    files, found = InputFiles(folder), []
    for sent in ("https://example.com/voice.mp3", "data:audio/wav;base64,UklGRg==", "narrator"):
        assert files.replaced(sent, Marks("audio"), found) == sent
    with pytest.raises(InputFault, match=re.escape(f"'{name}' would be sound, which is not stored from this machine")):
        files.replaced(name, Marks("audio"), found)
    assert found == []


# --- what a row becomes ---------------------------------------------------------------------------------------------


def test_a_row_s_identity_follows_the_bytes_and_not_the_name(folder: Path) -> None:
    text = (
        HEAD
        + "prompts:\n"
        + "".join(f"  - {{prompt: x, input_image: refs/{name}.png}}\n" for name in ("ox", "same", "field"))
    )
    ox, same, field = rows(folder, text)

    assert ox.parameters == same.parameters != field.parameters
    assert (ox.written, same.written) == ({"input_image": "refs/ox.png"}, {"input_image": "refs/same.png"})
    assert ox.inputs[0].name == same.inputs[0].name == f"{ox.inputs[0].sha256}.png"

    before = request_hash(ox.model, ox.parameters)
    (folder / "refs/ox.png").write_bytes(png(3))
    changed = rows(folder, text)[0]
    assert request_hash(changed.model, changed.parameters) != before


def test_a_list_may_mix_files_and_addresses(folder: Path) -> None:
    value = '[refs/ox.png, "https://example.com/x.png", "data:image/png;base64,AAAA"]'
    (row,) = rows(folder, f"{HEAD}prompts:\n  - {{prompt: x, input_image: {value}}}\n")

    assert row.parameters["input_image"] == [
        row.inputs[0].reference, "https://example.com/x.png", "data:image/png;base64,AAAA",
    ]  # fmt: skip
    assert len(row.inputs) == 1


def test_addresses_alone_need_no_place_and_are_left_as_they_are(folder: Path) -> None:
    (row,) = rows(folder, 'model: nano-banana-2\nprompts:\n  - {prompt: x, input_image: "https://example.com/x.png"}\n')

    assert (row.parameters["input_image"], row.inputs, row.written) == ("https://example.com/x.png", (), {})


def test_templates_defaults_axes_and_tables_may_name_files(folder: Path) -> None:
    text = HEAD + "defaults: {input_image: refs/ox.png}\nvariables: {what: [ox, field]}\nprompts:\n"
    found = rows(folder, text + '  - {prompt: "a {what}", input_image: "refs/{what}.png"}\n  - plain\n')
    assert [row.written["input_image"] for row in found] == ["refs/ox.png", "refs/field.png", "refs/ox.png"]

    found = rows(folder, HEAD + "matrix: {input_image: [refs/ox.png, refs/field.png]}\nprompts: [x]\n")
    assert [row.inputs[0].path for row in found] == ["refs/ox.png", "refs/field.png"]

    (folder / "rows.csv").write_text('prompt,input_image\nx,refs/field.png\ny,"[""refs/ox.png"",""refs/field.png""]"\n')
    found = rows(folder, HEAD + "rows: rows.csv\n")
    assert [len(row.inputs) for row in found] == [1, 2]


def test_a_schema_that_asks_for_an_address_is_content_with_a_file(folder: Path) -> None:
    asks = {"type": "string", "format": "uri", "pattern": "^https?://"}
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"prompt": {}, "source": asks}}
    catalog = Catalog.from_answer({"data": [{"id": "m", "request_schema": schema}]})
    (row,) = rows(folder, "model: m\ninputs: {namespace: a, repo: b}\nprompts: [{prompt: x, source: refs/ox.png}]\n",
                  catalog)  # fmt: skip

    assert len(row.inputs) == 1


def test_the_place_is_the_inputs_own_or_the_target_s(tmp_path: Path) -> None:
    def place(head: str) -> InputPlace | None:
        (tmp_path / "m.yaml").write_text(f"model: m\n{head}\nprompts: [x]\n")
        return load_manifest(tmp_path / "m.yaml").inputs

    assert place("inputs: {namespace: a, repo: b, branch: dev, directory: x/y}") == InputPlace("a", "b", "dev", "x/y")
    assert place("target: {namespace: a, repo: b, directory: out}") == InputPlace("a", "b", "main", "inputs")
    assert place("target: {namespace: a, repo: b}\ninputs: {repo: refs}") == InputPlace("a", "refs")
    assert place("") is None
    assert InputPlace("a b", "c", "main", "x/é").path("n.png") == "/repos/a%20b/c/file/main/x/%C3%A9/n.png"


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("inputs: {namespace: a}", "m.yaml:2:9: inputs: does not say in which repository"),
        ("inputs: refs", "expected a mapping of namespace, repo, branch, directory, root"),
        ("inputs: {namespace: a, repo: b/c}", "expected a name without a slash"),
        ("inputs: {namespace: .., repo: b}", "expected a name without a slash"),
        ("inputs: {namespace: a, repo: b, directory: ../x}", "expected a folder inside the repository"),
        ("inputs: {namespace: a, repo: b, folder: x}", "inputs.folder: is not known"),
    ],
)
def test_a_place_that_cannot_be_meant_is_told(tmp_path: Path, head: str, words: str) -> None:
    (tmp_path / "m.yaml").write_text(f"model: m\n{head}\nprompts: [x]\n")
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path / "m.yaml")
    assert words in str(caught.value)


# --- what is wrong with a file --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("refs/none.png", "does not exist in"),
        ("refs/page.png", "cannot be sent: it is a web page"),
        ("refs/cut.png", "cannot be sent: it is cut short"),
        ("refs/empty.png", "is empty"),
        ("refs/clip.mp4", "is a video by its bytes (mp4), expected an image"),
        ("refs", "is a folder"),
        ("refs/pipe.png", "is no plain file"),
        ("refs/ox.png/x.png", "cannot be read: Not a directory"),
        ("refs/round.png", "cannot be read: "),
        ("refs/link.png", "lies, or leads through a link, outside of"),
        ("../secret.png", "lies, or leads through a link, outside of"),
        ("/etc/passwd", "lies, or leads through a link, outside of"),
        ('"' + "x" * 5000 + '"', "is no address and no name of a file"),
        ('"' + "x" * 300 + '"', "cannot be read: File name too long"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(folder: Path, value: str, words: str) -> None:
    told = complaint(folder, value)

    assert told.startswith(f"{folder}/set.yaml:4:30: row 1, input_image: ")
    assert words in told


@pytest.mark.parametrize("name", ["a\x00b", "\ud800.png", " ", "\x1b[31m"])
def test_no_name_whatsoever_is_more_than_a_fault(folder: Path, name: str) -> None:
    with pytest.raises(InputFault) as caught:
        InputFiles(folder).replaced(name, Marks("image"), [])
    assert str(caught.value).isprintable()


def test_a_file_that_is_too_large_is_not_even_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "LARGEST", 50)

    assert complaint(folder, "refs/ox.png").endswith(f"'refs/ox.png' has {len(png())} bytes, expected at most 50")


def test_a_file_without_a_place_at_the_hub_is_told_with_what_to_write(folder: Path) -> None:
    told = complaint(folder, "refs/ox.png", "model: nano-banana-2\n# no place\n")

    assert "add 'inputs: {namespace: …, repo: …}' at its top" in told


def test_without_a_place_a_bare_word_may_be_one_that_the_hub_knows(folder: Path) -> None:
    text = "prompts:\n  - {prompt: x, input_image: file-123}\n"
    (row,) = rows(folder, "model: nano-banana-2\n" + text)

    assert row.parameters["input_image"] == "file-123"
    (problem,) = read(folder, HEAD + text)
    assert "'file-123' does not exist in" in str(problem)


def test_files_may_lie_in_a_folder_elsewhere_if_the_head_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets/a.png").write_bytes(png(5))
    head = "model: nano-banana-2\ninputs: {namespace: ox, repo: refs, root: ../assets}\n"
    found = rows(folder, head + f"prompts:\n  - {{prompt: x, input_image: a.png}}\n"
                 f"  - {{prompt: x, input_image: {tmp_path}/assets/a.png}}\n")  # fmt: skip

    assert found[0].inputs[0].sha256 == found[1].inputs[0].sha256


# --- read once ------------------------------------------------------------------------------------------------------


def test_a_million_rows_with_one_image_read_it_once(folder: Path) -> None:
    files, found = InputFiles(folder), []
    first = files.replaced("refs/ox.png", Marks("image"), found)
    (folder / "refs/ox.png").unlink()

    assert files.replaced("refs/ox.png", Marks("image"), found) == first


def test_a_file_that_is_as_it_was_is_not_read_by_the_next_run_either(folder: Path) -> None:
    found: list[Any] = []
    InputFiles(folder).replaced("refs/ox.png", Marks("image"), found)
    (known,) = found
    size, mtime_ns, _ = known.mark
    assert not is_changed(folder, known.path, known.mark)
    with (folder / "refs/ox.png").open("r+b") as file:
        file.write(bytes(size))  # other bytes under the same mark: only who reads them can tell
    os.utime(folder / "refs/ox.png", ns=(mtime_ns, mtime_ns))

    assert InputFiles(folder, lambda _: known).replaced("refs/ox.png", Marks("image"), []) == known.reference
    with pytest.raises(InputFault, match="cannot be sent"):
        InputFiles(folder).replaced("refs/ox.png", Marks("image"), [])


def test_a_file_that_is_another_now_or_gone_is_changed(folder: Path) -> None:
    mark = mark_of(folder / "refs/ox.png")
    (folder / "refs/ox.png").write_bytes(png(7))
    assert is_changed(folder, "refs/ox.png", mark)
    (folder / "refs/ox.png").unlink()
    assert is_changed(folder, "refs/ox.png", mark)


def test_a_file_that_changed_a_moment_ago_is_looked_at_again_by_the_next_run(folder: Path) -> None:
    (folder / "refs/new.png").write_bytes(png(8))
    found: list[Any] = []
    InputFiles(folder).replaced("refs/new.png", Marks("image"), found)

    assert is_changed(folder, "refs/new.png", found[0].mark)


def test_files_are_named_on_the_command_line_too(folder: Path) -> None:
    (folder / "set.yaml").write_text(HEAD + "prompts: [x]\n")
    overrides = Overrides(parameters={"input_image": "refs/ox.png"})
    (row,) = load_manifest(folder / "set.yaml", overrides=overrides).rows(dt.date(2026, 11, 22), STAND_IN)

    assert isinstance(row, Row)
    assert row.inputs[0].path == "refs/ox.png"
