"""The head, templates and expansion: what a manifest says about its rows, and what each row becomes."""

from __future__ import annotations

import datetime as dt
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from oxenbatch.catalog import Catalog
from oxenbatch.errors import ManifestError, Problem, UsageProblem
from oxenbatch.jobs import Row
from oxenbatch.manifest import Manifest, Overrides, Target, load_manifest

DAY = dt.date(2026, 11, 22)
PROPERTIES = {
    "prompt": {"type": "string"},
    "multi_prompt": {"type": "array"},
    "negative_prompt": {"type": "string"},
    "seed": {"type": "integer"},
    "duration": {"enum": [5, 10], "default": 5},
    "style": {"type": "string"},
}
CATALOG = Catalog.from_answer(
    {
        "data": [
            {"id": "kling-video", "capabilities": {"output": ["video"]}, "request_schema": {"properties": PROPERTIES}},
            {
                "id": "nano-banana",
                "capabilities": {"output": ["image"]},
                "request_schema": {"properties": {"prompt": {}}},
            },
            {"id": "worded", "request_schema": {"properties": {"prompt": {}, "duration": {"type": "string"}}}},
            {"id": "upscaler", "request_schema": {"properties": {"input_image": {"type": "string"}}}},
            {"id": "open", "request_schema": {"properties": {"prompt": {}}, "additionalProperties": True}},
            {"id": "writer", "capabilities": {"output": ["text"]}},
        ]
    }
)


def load(tmp_path: Path, text: str, **flags: Any) -> Manifest:
    path = tmp_path / "set.yaml"
    path.write_text(text, "utf-8")
    return load_manifest(path, overrides=Overrides(**flags))


def read(tmp_path: Path, text: str, catalog: Catalog | None = None, **flags: Any) -> list[Row | Problem]:
    return list(load(tmp_path, text, **({} if "model:" in text else {"model": "m"}) | flags).rows(DAY, catalog))


def rows(tmp_path: Path, text: str, catalog: Catalog | None = None, **flags: Any) -> list[Row]:
    found = read(tmp_path, text, catalog, **flags)
    assert not [one for one in found if isinstance(one, Problem)], found
    return [one for one in found if isinstance(one, Row)]


def complaint(tmp_path: Path, text: str, catalog: Catalog | None = None, **flags: Any) -> str:
    try:
        return "\n".join(str(one) for one in read(tmp_path, text, catalog, **flags) if isinstance(one, Problem))
    except ManifestError as error:
        return str(error)


# The head


def test_the_contract_s_example_is_read_as_it_says(tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt,seed\nfrom a file,9\n")
    text = """
name: ocean-loops
output: out/{name}/{date}
concurrency: 8
max_cost: 25.00
model: kling-video
models: {kling-video: {concurrency: 4}}
target: {namespace: my-org, repo: my-set, directory: nightly}
defaults: {duration: 5}
variables: {place: [reef, shore]}
matrix: {seed: [1, 2, 3]}
prompt: "The {place} at dawn"
rows: prompts.csv
prompts:
  - A sunset timelapse over the ocean
  - {id: hero, prompt: "A red cube", model: nano-banana, samples: 4, metadata: {split: train}}
"""
    manifest = load(tmp_path, text)
    assert (manifest.name, manifest.concurrency, manifest.max_cost) == ("ocean-loops", 8, Decimal("25.00"))
    assert manifest.model_concurrency == {"kling-video": 4}
    assert manifest.target == Target("my-org", "my-set", "nightly")
    assert manifest.dated
    assert not manifest.uses_date
    assert manifest.output_folder(DAY) == tmp_path / "out/ocean-loops/2026-11-22"
    assert manifest.row_files == [tmp_path / "prompts.csv"]
    found = [one for one in manifest.rows(DAY) if isinstance(one, Row)]
    assert len(found) == 1 + 3 + 3
    assert found[0].parameters == {"duration": 5, "prompt": "from a file", "seed": 9}
    assert [row.id for row in found[4:]] == ["hero-1", "hero-2", "hero-3"]
    assert found[4] == Row(
        "nano-banana", {"duration": 5, "seed": 1, "prompt": "A red cube"}, "hero-1", 4, {"split": "train"}, 5,
        f"{tmp_path}/set.yaml:16",
    )  # fmt: skip


def test_the_name_and_the_folder_have_defaults(tmp_path: Path) -> None:
    manifest = load(tmp_path, "- a\n")
    assert (manifest.name, manifest.dated, manifest.output_folder(DAY)) == ("set", False, tmp_path / "out/set")
    assert load(tmp_path, "output: /abs/{year}/{month}-{day}\nprompts: [a]\n").output_folder(DAY) == Path(
        "/abs/2026/11-22"
    )


def test_folders_of_every_date_are_found(tmp_path: Path) -> None:
    manifest = load(tmp_path, "name: a[b]\noutput: out/{name}/{date}\nprompts: [a]\n")
    for day in ("2026-11-21", "2026-11-22", "elsewhere"):
        (tmp_path / "out" / "a[b]" / day).mkdir(parents=True)
    assert [folder.name for folder in manifest.folders()] == ["2026-11-21", "2026-11-22"]
    assert load(tmp_path, "- a\n").folders() == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("naame: x", "naame: is not a field of a manifest; did you mean name?"),
        ("name: a/b", "name: 'a/b', expected text"),
        ("name: ..", "without slashes"),
        ("output: 'out/{place}'", "{place} is not known here; known are {date}, {day}, {month}, {name}, {year}"),
        ("output: 'out/{name.x}'", "not a plain name in braces"),
        ("output: 'out/{'", "a brace that is not part"),
        ("concurrency: 0", "concurrency: 0, expected a whole number from 1 to 1000"),
        ("concurrency: 8.5", "expected a whole number"),
        ("concurrency: many", "expected a whole number"),
        ("concurrency: true", "expected a whole number"),
        ("max_cost: 0", "expected dollars above 0"),
        ("max_cost: -1", "expected dollars above 0"),
        ("max_cost: 1e9", "expected dollars above 0"),
        ("max_cost: .inf", "expected dollars above 0"),
        ("max_cost: $5", "expected dollars above 0"),
        ("models: [a]", "expected a mapping of models"),
        ("models: {a: {concurrence: 4}}", "did you mean concurrency?"),
        ("models: {a: {concurrency: 0}}", "models.a.concurrency: 0"),
        ("target: x", "expected a mapping of namespace"),
        ("target: {repos: x}", "did you mean repo?"),
        ("target: {repo: a/b}", "without a slash"),
        ("target: {directory: ../x}", "inside the repository"),
        ("defaults: [a]", "expected a mapping of parameters"),
        ("defaults: {metadata: x}", "defaults.metadata: 'x', expected a mapping"),
        ("defaults: {id: x}", "cannot be the same for every row"),
        ("defaults: {num_generations: 4}", "with 'samples'"),
        ("defaults: {target_repo: 4}", "with 'target: {repo: …}'"),
        ("variables: x", "expected a mapping of names to lists"),
        ("variables: {a: []}", "expected 1 to"),
        ("variables: {a.b: [x]}", "cannot be named in a template"),
        ("variables: {a: [x, x]}", 'holds "x" twice'),
        ("matrix: {seed: [1, 1.0]}", "holds 1 twice"),
        ("matrix: {samples: [1, 2]}", "cannot be an axis"),
        ("matrix: {num_generations: [1]}", "with 'samples'"),
        ("{variables: {a: [x]}, matrix: {A: [1]}, prompts: [x]}", "both a variable and an axis"),
        ("rows: 5\nprompt: x", "/5 does not exist"),
        ("rows: {a: b}", "expected a list, or the name of a file"),
        ("{prompts: x}", "prompts: 'x', expected a list"),
        ("rows: none.csv", "does not exist"),
        ("defaults: {model: a}\nmodel: b", "say it once"),
        ("defaults: {prompt: a}\nprompt: b", "say it once"),
        ("prompt: '{a.b}'", "not a plain name in braces"),
    ],
)  # fmt: skip
def test_a_wrong_head_is_refused_with_the_thing_the_place_and_the_remedy(tmp_path: Path, line: str, words: str) -> None:
    text = line if line.startswith(("{", "rows")) else f"{line}\nprompts: [a]\n"
    found = complaint(tmp_path, text)
    assert words in found
    assert "set.yaml:" in found


def test_all_of_a_head_s_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, "naame: x\nconcurrency: 0\nmax_cost: x\nmatrix: 5\nprompts: [a]\n")
    assert len(caught.value.problems) == 4


def test_a_file_of_rows_has_no_head_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("model: x\nprompts: [a]\n")
    assert "holds model, but a file of rows is a list" in complaint(tmp_path, "rows: more.yaml\n")
    (tmp_path / "more.yaml").write_text("prompts: [a]\n")
    assert rows(tmp_path, "rows: more.yaml\n")[0].where == f"{tmp_path}/more.yaml:1"
    (tmp_path / "more.json").write_text('["b"]')
    assert rows(tmp_path, "rows: more.json\n")[0].prompt == "b"
    (tmp_path / "more.dat").write_text("a")
    assert "give it the extension that says it" in complaint(tmp_path, "rows: more.dat\n")
    (tmp_path / "more.csv").write_bytes(b"prompt\n\xff\n")
    assert "more.csv:2: is not UTF-8" in complaint(tmp_path, "rows: more.csv\n")


# Flags


def test_a_flag_is_over_the_defaults_and_a_row_is_over_the_flag(tmp_path: Path) -> None:
    text = "model: a\ndefaults: {x: 1, y: 1, z: 1}\nprompts:\n- p\n- {prompt: q, model: c, x: 3}\n"
    first, second = rows(tmp_path, text, model="b", parameters={"x": 2, "y": None})
    assert (first.model, first.parameters) == ("b", {"z": 1, "x": 2, "prompt": "p"})
    assert (second.model, second.parameters) == ("c", {"z": 1, "x": 3, "prompt": "q"})


def test_a_flag_pins_an_axis_of_its_name(tmp_path: Path) -> None:
    text = "matrix: {seed: [1, 2], model: [a, b]}\nprompts: [{id: x, prompt: 'n {seed}'}]\n"
    (row,) = rows(tmp_path, text, model="c", parameters={"seed": 9})
    assert (row.id, row.model, row.parameters) == ("x", "c", {"seed": 9, "prompt": "n 9"})


def test_a_limit_takes_the_first_rows_after_expansion(tmp_path: Path) -> None:
    text = "matrix: {seed: [1, 2, 3]}\nprompts: [a, b, {x: no prompt}]\n"
    assert [row.number for row in rows(tmp_path, text, limit=4)] == [1, 2, 3, 4]
    assert read(tmp_path, text, limit=0) == []


def test_more_rows_than_allowed_are_refused_before_they_are_made(tmp_path: Path) -> None:
    axes = ", ".join(f"a{n}: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" for n in range(12))
    text = f"matrix: {{{axes}}}\nprompts: [a]\n"
    assert "more than 1,000,000 rows (this entry alone becomes 1,000,000,000,000)" in complaint(tmp_path, text)
    assert "more than 50 rows" in complaint(tmp_path, text, max_rows=50)
    assert len(rows(tmp_path, text, max_rows=50, limit=50)) == 50
    assert "row 3: there are more than 2 rows" in complaint(tmp_path, "- a\n- b\n- c\n", max_rows=2)


def test_flags_that_are_no_parameters_are_usage_problems(tmp_path: Path) -> None:
    for name in ("num_generations", "target_repo", "id", "model"):
        with pytest.raises(UsageProblem, match=name):
            load(tmp_path, "- a\n", parameters={name: 1})


def test_a_number_of_the_command_line_becomes_the_text_that_the_model_wants(tmp_path: Path) -> None:
    (row,) = rows(tmp_path, "model: worded\nprompts: [a]\n", CATALOG, parameters={"duration": 5})
    assert row.parameters["duration"] == "5"


# Templates


@pytest.mark.parametrize("text", ["a {b} c", "{{x}}", "{date}", "{", "}", "{0.__class__}"])
def test_a_manifest_without_templates_is_literal(tmp_path: Path, text: str) -> None:
    (row,) = rows(tmp_path, f"prompts:\n- {{id: '{text}', prompt: '{text}', metadata: {{k: '{text}'}}}}\n")
    assert (row.id, row.prompt, row.metadata) == (text, text, {"k": text})


def test_templates_fill_prompts_parameters_ids_and_metadata(tmp_path: Path) -> None:
    text = """
variables: {place: [reef]}
prompts:
- id: "{place}-{n}"
  prompt: "{{literal}} {Place} on {date}, {year}/{month}/{day} of {name}, {n} {loop}"
  n: 5
  loop: true
  parts: [{say: "{place}"}]
  metadata: {where: "{place}", deep: ["{place}", 1]}
"""
    (row,) = rows(tmp_path, text)
    assert row.id == "reef-5"
    assert row.prompt == "{literal} reef on 2026-11-22, 2026/11/22 of set, 5 true"
    assert row.parameters["parts"] == [{"say": "reef"}]
    assert row.metadata == {"where": "reef", "deep": ["reef", 1]}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{plaec}", "{plaec} is not a known name; did you mean {place}?"),
        ("{place.x}", "not a plain name in braces"),
        ("{place[0]}", "not a plain name in braces"),
        ("{place!r}", "not a plain name in braces"),
        ("{place:>10}", "not a plain name in braces"),
        ("{}", "not a plain name in braces"),
        ("{place", "a brace that is not part of a {name}"),
        ("place}", "a brace itself is written twice"),
    ],
)
def test_a_template_that_is_more_than_names_is_refused(tmp_path: Path, template: str, words: str) -> None:
    found = complaint(tmp_path, f"variables: {{place: [reef]}}\nprompts: ['{template}']\n")
    assert words in found
    assert "set.yaml:2:11: row 1, prompt" in found


def test_a_value_is_never_looked_at_again(tmp_path: Path) -> None:
    text = "variables: {a: ['{b}'], b: [x]}\nmatrix: {style: ['{a} {{']}\nprompts: ['{a} {style}']\n"
    (row,) = rows(tmp_path, text)
    assert row.parameters == {"style": "{a} {{", "prompt": "{b} {a} {{"}


def test_the_head_s_prompt_is_for_rows_that_have_none(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("animal,style,prompt\ncat,oil,\ndog,ink,my own\n")
    text = "model: kling-video\nprompt: 'A {animal} in {style}'\nrows: p.csv\n"
    first, second = rows(tmp_path, text, CATALOG, extra_columns="ignore")
    assert first.parameters == {"prompt": "A cat in oil", "style": "oil"}
    assert second.prompt == "my own"


def test_a_column_that_a_template_names_is_not_a_stranger(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("animal\ncat\n\n")
    text = "model: kling-video\nprompt: 'A {animal}'\nrows: p.csv\n"
    assert rows(tmp_path, text, CATALOG)[0].parameters == {"prompt": "A cat"}
    assert rows(tmp_path, text, CATALOG, extra_columns="metadata")[0].metadata == {"animal": "cat"}
    (tmp_path / "p.csv").write_text("animal,style\n,oil\n")
    assert "names {animal}, which this row leaves empty" in complaint(tmp_path, text, CATALOG)


def test_only_a_manifest_whose_rows_name_the_date_uses_it(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt\nOn {date}\n")
    for text, uses in [
        ("output: out/{date}\nvariables: {}\nprompts: [a]\n", False),
        ("prompts: ['{date}']\n", False),
        ("variables: {}\nprompts: ['{date}']\n", True),
        ("prompt: 'On {year}'\n", True),
        ("variables: {}\ndefaults: {style: '{day}'}\nprompts: [a]\n", True),
        ("variables: {}\nprompts: ['{{date}}']\n", False),
        ("variables: {}\nrows: p.csv\n", True),
    ]:
        assert load(tmp_path, text).uses_date is uses, text


# Expansion


def test_the_head_s_prompt_makes_the_rows_where_there_is_no_list(tmp_path: Path) -> None:
    text = "variables: {place: [reef, shore]}\nmatrix: {seed: [1, 2]}\nprompt: The {place}\n"
    found = rows(tmp_path, text)
    assert [(row.prompt, row.parameters["seed"], row.number) for row in found] == [
        ("The reef", 1, 1), ("The reef", 2, 2), ("The shore", 1, 3), ("The shore", 2, 4),
    ]  # fmt: skip
    assert found[0].where == f"{tmp_path}/set.yaml:3"


def test_only_variables_that_the_row_names_multiply_it(tmp_path: Path) -> None:
    text = "variables: {a: [1, 2], b: [x, y]}\nprompt: 'of {b}'\nprompts: [plain, 'with {a}', {style: s}]\n"
    assert [row.prompt for row in rows(tmp_path, text)] == ["plain", "with 1", "with 2", "of x", "of y"]


def test_a_row_s_own_field_wins_over_an_axis_and_is_not_multiplied_by_it(tmp_path: Path) -> None:
    text = "matrix: {seed: [1, 2], style: [a, b]}\nprompts: [{id: x, prompt: p, Seed: 7}]\n"
    found = rows(tmp_path, text, CATALOG, model="kling-video")
    assert [(row.id, row.parameters["seed"], row.parameters["style"]) for row in found] == [
        ("x-a", 7, "a"),
        ("x-b", 7, "b"),
    ]


def test_an_id_is_extended_by_what_multiplies_the_row(tmp_path: Path) -> None:
    text = "variables: {place: [reef, deep sea]}\nmatrix: {seed: [1, 2]}\nprompts: [{id: hero, prompt: 'A {place}'}]\n"
    assert [row.id for row in rows(tmp_path, text)] == [
        "hero-reef-1",
        "hero-reef-2",
        "hero-deep_sea-1",
        "hero-deep_sea-2",
    ]
    own = "variables: {place: [reef, shore]}\nprompts: [{id: 'at-{place}', prompt: 'A {place}'}]\n"
    assert [row.id for row in rows(tmp_path, own)] == ["at-reef", "at-shore"]
    long = f"variables: {{text: [{'a' * 100}1, {'a' * 100}2]}}\nprompts: [{{id: x, prompt: '{{text}}'}}]\n"
    first, second = (row.id or "" for row in rows(tmp_path, long))
    assert first != second
    assert len(first) < 50


def test_an_axis_of_models_gives_each_row_its_model(tmp_path: Path) -> None:
    text = "matrix: {model: [kling-video, nano-banana]}\nprompts: [a]\n"
    path = tmp_path / "set.yaml"
    path.write_text(text)
    found = list(load_manifest(path).rows(DAY, CATALOG))
    assert [one.model for one in found if isinstance(one, Row)] == ["kling-video", "nano-banana"]


def test_ids_are_unique_after_expansion_and_the_first_is_named(tmp_path: Path) -> None:
    found = complaint(tmp_path, "- {id: a, prompt: x}\n- b\n- {id: a, prompt: y}\n- {id: A, prompt: z}\n")
    assert found.count("\n") == 0
    assert "set.yaml:3:8: row 3, id: 'a' is already the id of row 1" in found


@pytest.mark.parametrize(
    ("value", "words"),
    [("''", "is empty"), ("'  '", "is empty"), ('"a\\tb"', "control characters"), ("x" * 201, "200")],
)
def test_an_id_is_short_plain_text(tmp_path: Path, value: str, words: str) -> None:
    assert words in complaint(tmp_path, f"- {{id: {value}, prompt: a}}\n")


# Rows


def test_a_row_has_a_prompt_or_a_multi_prompt_and_not_both(tmp_path: Path) -> None:
    parts = "multi_prompt: [{prompt: a, duration: 5}]"
    assert "has both prompt and multi_prompt" in complaint(tmp_path, f"- {{prompt: x, {parts}}}\n")
    assert "prompt" not in rows(tmp_path, f"defaults: {{prompt: d}}\nprompts: [{{{parts}}}]\n")[0].parameters
    assert rows(tmp_path, f"defaults: {{{parts}}}\nprompts: [x]\n")[0].parameters == {"prompt": "x"}
    assert rows(tmp_path, "model: upscaler\nprompts: [{input_image: u}]\n", CATALOG)[0].parameters == {
        "input_image": "u"
    }
    assert "has no prompt" in complaint(tmp_path, "model: kling-video\nprompts: [{seed: 1}]\n", CATALOG)
    assert "expected at most 100,000" in complaint(tmp_path, f"- {'x' * 100_001}\n")


def test_unknown_fields_are_problems_with_a_suggestion_or_metadata_or_nothing(tmp_path: Path) -> None:
    text = "model: kling-video\nprompts: [{prompt: a, durration: 5}]\n"
    assert "row 1, durration: is not a parameter of kling-video; did you mean duration?" in complaint(
        tmp_path, text, CATALOG
    )
    assert rows(tmp_path, text, CATALOG, extra_columns="metadata")[0].metadata == {"durration": 5}
    assert rows(tmp_path, text, CATALOG, extra_columns="ignore")[0].parameters == {"prompt": "a"}
    assert rows(tmp_path, text.replace("kling-video", "open"), CATALOG)[0].parameters["durration"] == 5


def test_a_default_that_the_model_does_not_know_is_told_once(tmp_path: Path) -> None:
    text = "model: kling-video\ndefaults: {sed: 1}\nprompts: [a, b, c]\n"
    found = complaint(tmp_path, text, CATALOG)
    assert "defaults.sed: is not a parameter of kling-video; did you mean seed?" in found
    assert found.count("\n") == 0
    assert "-p sed: is not a parameter" in complaint(
        tmp_path, "model: kling-video\nprompts: [a]\n", CATALOG, parameters={"sed": 1}
    )
    assert "matrix.sed: is not a parameter" in complaint(
        tmp_path, "model: kling-video\nmatrix: {sed: [1]}\nprompts: [a]\n", CATALOG
    )


def test_a_field_written_by_hand_is_sent_as_it_is_unless_it_is_a_slip_of_the_finger(tmp_path: Path) -> None:
    text = "model: kling-video\ndefaults: {zoom: 2}\nmatrix: {mood: [calm]}\nprompts: [{prompt: a, lens: wide}]\n"
    assert rows(tmp_path, text, CATALOG)[0].parameters == {"prompt": "a", "zoom": 2, "mood": "calm", "lens": "wide"}


def test_a_row_of_another_model_goes_without_the_defaults_and_axes_that_its_model_does_not_take(tmp_path: Path) -> None:
    head = "model: open\ndefaults: {zoom: 2}\nmatrix: {mood: [calm, wild]}\n"
    text = head + "prompts: [a, {prompt: b, model: kling-video}]\n"
    first, second, third = rows(tmp_path, text, CATALOG)
    assert (first.parameters, second.parameters["mood"]) == ({"prompt": "a", "zoom": 2, "mood": "calm"}, "wild")
    assert (third.model, third.parameters) == ("kling-video", {"prompt": "b"})


def test_an_automatic_seed_stays_where_the_model_takes_one_and_goes_where_it_does_not(tmp_path: Path) -> None:
    text = "defaults: {seed: auto}\nprompts: [{prompt: a, model: kling-video}, {prompt: b, model: nano-banana}]\n"
    assert [row.parameters.get("seed") for row in rows(tmp_path, text, CATALOG)] == ["auto", None]
    own = "model: nano-banana\nprompts: [{prompt: a, seed: auto}]\n"
    assert rows(tmp_path, own, CATALOG)[0].parameters == {"prompt": "a"}
    assert rows(tmp_path, own)[0].parameters == {"prompt": "a", "seed": "auto"}


def test_a_model_that_cannot_be_used_is_told_for_its_first_rows(tmp_path: Path) -> None:
    words = "model 'klng-video' is not in the hub's catalogue; did you mean kling-video?"
    found = complaint(tmp_path, "model: klng-video\nprompts: [a, b, c, d, e]\n", CATALOG)
    assert (found.count(words), found.count("set.yaml:1:8: row 1, model: ")) == (1, 1)
    row = "- {prompt: a, model: klng-video}\n"
    assert complaint(tmp_path, row * 5, CATALOG).count(words) == 3
    assert "makes neither images nor video" in complaint(tmp_path, "model: writer\nprompts: [a]\n", CATALOG)
    path = tmp_path / "none.txt"
    path.write_text("a\n")
    assert "has no model" in str(next(load_manifest(path).rows(DAY)))


def test_every_problem_of_a_row_is_told_and_the_schema_has_its_say(tmp_path: Path) -> None:
    found = complaint(
        tmp_path, "model: kling-video\nprompts: [{prompt: '', samples: 0, metadata: 5, durration: 1}]\n", CATALOG
    )
    assert found.count("row 1") == 4
    assert "set.yaml:2:33: row 1, duration: 7, expected one of 5, 10" in complaint(
        tmp_path, "model: kling-video\nprompts: [{prompt: a, duration: 7}]\n", CATALOG
    )


def test_a_name_is_metadata_or_a_parameter_and_not_both(tmp_path: Path) -> None:
    text = "- {prompt: a, split: 1, metadata: {split: train}}\n"
    assert "split: is metadata, and also the name of a parameter" in complaint(tmp_path, text)
    assert "a column that every dataset has" in complaint(tmp_path, "- {prompt: a, metadata: {created_at: x}}\n")


def test_a_field_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"prompt": "a", "": 1}\n{"prompt": "b", "x\\ny": 1}\n')
    assert complaint(tmp_path, "rows: r.jsonl\n").count("is no name for a field") == 2


def test_two_spellings_of_one_field_are_a_problem(tmp_path: Path) -> None:
    assert "is there twice" in complaint(tmp_path, "- {prompt: a, Prompt: b}\n")
    assert "is there twice" in complaint(tmp_path, "- {prompt: a, seed: 1, Seed: 2}\n", CATALOG, model="kling-video")


def test_after_a_thousand_problems_nobody_reads_on(tmp_path: Path) -> None:
    found = read(tmp_path, "- {x: 1}\n" * 5000)
    assert len(found) == 1001
    assert "was not looked at" in str(found[-1])


# The fingerprint


def test_the_fingerprint_changes_with_all_that_decides_the_rows_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt\na\n")
    text = "variables: {}\nrows: p.csv\n"
    first = load(tmp_path, text).fingerprint(DAY, CATALOG)
    assert first.startswith("m1:")
    os.utime(tmp_path / "p.csv", (1, 1))
    assert load(tmp_path, text).fingerprint(dt.date(2027, 1, 1), CATALOG) == first
    assert load(tmp_path, text + "\n").fingerprint(DAY, CATALOG) != first
    assert load(tmp_path, text, model="x").fingerprint(DAY, CATALOG) != first
    assert load(tmp_path, text, parameters={"x": 1}).fingerprint(DAY, CATALOG) != first
    assert load(tmp_path, text, limit=1).fingerprint(DAY, CATALOG) != first
    assert load(tmp_path, text).fingerprint(DAY) != first
    (tmp_path / "p.csv").write_text("prompt\n{date}\n")
    dated = load(tmp_path, text)
    assert dated.fingerprint(DAY, CATALOG) not in (first, dated.fingerprint(dt.date(2027, 1, 1), CATALOG))
