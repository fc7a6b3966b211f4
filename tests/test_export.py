"""The dataset in the forms that other programs read, and read back by those programs."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from dataset_kit import Made, mp4, one_colour, png
from ledgers import row
from PIL import Image

from oxenbatch.cli import cli
from oxenbatch.dataset.metadata import write_metadata
from oxenbatch.errors import MachineError, UsageProblem
from oxenbatch.ledger.book import Ledger

if TYPE_CHECKING:
    from pathlib import Path


def rows(count: int, **more: Any) -> list[Any]:
    return [
        row(f"picture {n}", id=f"p{n}", number=n, metadata={"split": "test" if n % 4 == 0 else "train"}, **more)
        for n in range(1, count + 1)
    ]


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    return Made(tmp_path / "batch", rows(8), [png(n) for n in range(8)]).folder


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)], catch_exceptions=False)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def view(folder: Path) -> None:
    """`metadata.jsonl` is written, as at the end of a run."""
    with Ledger.open(folder / "ledger.db") as ledger:
        write_metadata(ledger, folder)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def in_a_process(code: str, tmp_path: Path) -> Any:
    """What the code prints as JSON; the libraries' caches, warnings and threads stay out of the tests' own process."""
    environ = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=environ, text=True, capture_output=True,
                          timeout=120, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


LOAD = """
import datasets, json, sys
datasets.disable_progress_bars()
found = datasets.load_dataset({arguments})
print(json.dumps({{split: [{row} for r in rows] for split, rows in found.items()}}))
"""


def loaded(arguments: str, row: str, tmp_path: Path) -> Any:
    return in_a_process(LOAD.format(arguments=arguments, row=row), tmp_path)


# -- what Hugging Face reads --------------------------------------------------------------------------------------


def test_the_output_folder_itself_loads_as_an_image_folder(tmp_path: Path) -> None:
    """A train in a prompt is no training split, and one row's `auto` among numbers does not stop the reader."""
    wanted = [
        row("A train crossing a bridge", parameters={"seed": 5}),
        row("a test of strength, a dev, a val 3", number=2, parameters={"seed": "7"}),
        row("a cube", number=3, metadata={"tags": ["a", 1]}),
    ]
    made = Made(tmp_path / "batch", wanted, [png(n) for n in range(3)])
    view(made.folder)
    told = loaded(
        f"'imagefolder', data_dir={str(made.folder)!r}", "[r['image'].size, r['prompt'], r['seed']]", tmp_path
    )

    assert told == {"train": [
        [[64, 48], "A train crossing a bridge", "5"],
        [[64, 48], "a test of strength, a dev, a val 3", "7"],
        [[64, 48], "a cube", None],
    ]}  # fmt: skip


def test_the_output_folder_itself_loads_as_a_video_folder(tmp_path: Path) -> None:
    made = Made(tmp_path / "batch", [row("a wave", id="w"), row("a dune", id="d", number=2)], [mp4(1), mp4(2, 8.0)])
    view(made.folder)
    video = "[r['video']['path'].rpartition('/')[2], r['prompt'], r['seconds'], r['audio']]"
    told = in_a_process(LOAD.format(arguments=f"'videofolder', data_dir={str(made.folder)!r}", row=video).replace(
        "for r in rows", "for r in rows.cast_column('video', datasets.Video(decode=False))"), tmp_path)  # fmt: skip

    assert told == {"train": [["w.mp4", "a wave", 5.0, False], ["d.mp4", "a dune", 8.0, False]]}


def test_a_folder_of_splits_loads_with_its_splits(batch: Path, tmp_path: Path) -> None:
    export(batch, "-o", tmp_path / "set", "--format", "folder", "--split-by", "split")
    wanted = {"train": [f"picture {n}" for n in (1, 2, 3, 5, 6, 7)], "test": ["picture 4", "picture 8"]}

    assert loaded(f"'imagefolder', data_dir={str(tmp_path / 'set')!r}", "r['prompt']", tmp_path) == wanted
    assert loaded(repr(str(tmp_path / "set")), "r['prompt']", tmp_path) == wanted


def test_splits_of_any_name_load_from_tables_too(batch: Path, tmp_path: Path) -> None:
    export(batch, "-o", tmp_path / "set", "--format", "parquet", "--split-by", "prompt", "-n", "2")

    told = loaded(repr(str(tmp_path / "set")), "r['file_name']", tmp_path)
    assert told == {"picture_1": ["p1.png"], "picture_2": ["p2.png"]}


# -- WebDataset ---------------------------------------------------------------------------------------------------


def test_shards_are_read_back_by_webdataset(batch: Path, tmp_path: Path) -> None:
    export(batch, "-o", tmp_path / "set", "--format", "webdataset", "--shard-size", "1k")
    shards = sorted(str(path) for path in (tmp_path / "set").glob("*.tar"))
    assert len(shards) > 2
    code = (
        "import json, webdataset as wds;"
        f"d = wds.WebDataset({shards!r}, shardshuffle=False).decode('pil');"
        "print(json.dumps([[s['__key__'], s['png'].size, s['txt'], s['json']['split']] for s in d]))"
    )
    assert in_a_process(code, tmp_path) == [
        [f"{n:09d}", [64, 48], f"picture {n + 1}", "test" if n in (3, 7) else "train"] for n in range(8)
    ]


def test_shards_are_read_back_by_datasets(batch: Path, tmp_path: Path) -> None:
    export(batch, "-o", tmp_path / "set", "--format", "webdataset", "--split-by", "split")

    told = loaded(f"'webdataset', data_dir={str(tmp_path / 'set')!r}", "[r['txt'], r['png'].size]", tmp_path)
    assert {split: len(found) for split, found in told.items()} == {"train": 6, "test": 2}
    assert told["test"][0] == ["picture 4", [64, 48]]


def test_a_shard_has_neither_times_nor_owners(batch: Path, tmp_path: Path) -> None:
    export(batch, "-o", tmp_path / "set.tar")
    with tarfile.open(tmp_path / "set.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.pax_headers == {}) for m in tar} == {
            (0, 0, 0, "", "", 0o644, True)
        }
        assert len(tar.getnames()) == 24


# -- tables -------------------------------------------------------------------------------------------------------


def test_parquet_has_types_and_one_schema_for_every_split(tmp_path: Path) -> None:
    wanted = [row("a", parameters={"steps": 4, "scale": 1}), row("b", number=2, parameters={"scale": 2.5, "seed": 1}),
              row("c", number=3, parameters={"seed": "auto"}, metadata={"tags": ["x"], "ok": True})]  # fmt: skip
    made = Made(tmp_path / "batch", wanted, [png(n) for n in range(3)])
    export(made.folder, "-o", tmp_path / "all.parquet")
    table = pq.read_table(tmp_path / "all.parquet")

    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds | {"seed": "int64", "steps": "int64", "scale": "double", "tags": "string", "ok": "bool",
                    "cost": "double", "audio": "string"} == kinds  # fmt: skip
    assert table.column("scale").to_pylist() == [1.0, 2.5, None]
    assert table.column("tags").to_pylist() == [None, None, '["x"]']
    assert table.column_names[:3] == ["file_name", "prompt", "model"]

    export(made.folder, "-o", tmp_path / "set", "--format", "parquet", "--split-by", "prompt")
    assert {str(pq.read_schema(path)) for path in (tmp_path / "set").glob("*.parquet")} == {str(table.schema)}


def test_a_cell_that_a_spreadsheet_would_compute_is_text(tmp_path: Path) -> None:
    formulas = ["=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", 'plain, "quoted"\nand broken']
    made = Made(
        tmp_path / "batch", [row(text, number=n) for n, text in enumerate(formulas, 1)], [png(n) for n in range(6)]
    )
    export(made.folder, "-o", tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        told = [line["prompt"] for line in csv.DictReader(file)]

    assert told == [*(f"'{text}" for text in formulas[:5]), formulas[5]]


def test_jsonl_is_what_metadata_jsonl_says(batch: Path, tmp_path: Path) -> None:
    view(batch)
    export(batch, "-o", tmp_path / "a.jsonl")

    assert (tmp_path / "a.jsonl").read_bytes() == (batch / "metadata.jsonl").read_bytes()


def test_a_table_goes_to_standard_output(batch: Path) -> None:
    told = export(batch, "-o", "-", "--where", "split=test")
    assert [json.loads(text)["file_name"] for text in told.stdout.splitlines()] == ["p4.png", "p8.png"]
    assert export(batch, "-o", "-", "--format", "csv", "-n", "1").stdout.splitlines()[0].startswith("file_name,prompt")


# -- which rows ---------------------------------------------------------------------------------------------------


def test_rows_are_chosen_by_state_model_column_and_number(tmp_path: Path) -> None:
    made = Made(tmp_path / "batch", rows(4), [png(1), None, png(2), png(3)])

    def chosen(*flags: str) -> list[Any]:
        return [json.loads(text) for text in export(made.folder, "-o", "-", *flags).stdout.splitlines()]

    assert [line["file_name"] for line in chosen()] == ["p1.png", "p3.png", "p4.png"]
    assert [line["file_name"] for line in chosen("--where", "split!=train")] == ["p4.png"]
    assert [line["file_name"] for line in chosen("-n", "2")] == ["p1.png", "p3.png"]
    assert chosen("--model", "another") == []
    (failed,) = chosen("--state", "failed")
    assert (failed["file_name"], failed["prompt"], failed["state"]) == (None, "picture 2", "failed")
    assert "content policy" in failed["error"]
    assert [line["state"] for line in chosen("--state", "failed", "--state", "downloaded")].count("failed") == 1


def test_odd_results_can_be_left_out_and_of_equal_ones_the_first_stays(tmp_path: Path) -> None:
    wanted = [
        row(f"p{n}", id=f"p{n}", number=n, parameters={"aspect_ratio": "9:16"} if n == 4 else {}) for n in range(1, 6)
    ]
    made = Made(tmp_path / "batch", wanted, [png(1), one_colour(), png(1), png(2), png(3)])

    def names(*flags: str) -> list[str]:
        told = export(made.folder, "-o", "-", *flags).stdout.splitlines()
        return [json.loads(text)["file_name"].removesuffix(".png") for text in told]

    assert names() == ["p1", "p2", "p3", "p4", "p5"]
    assert names("--without", "blank") == ["p1", "p3", "p4", "p5"]
    assert names("--without", "identical") == ["p1", "p2", "p4", "p5"]
    assert names("--without", "mismatched") == ["p1", "p2", "p3", "p5"]
    assert names("--without", "mismatched", "--without", "blank", "--without", "identical") == ["p1", "p5"]


def test_images_and_videos_can_be_told_apart(tmp_path: Path) -> None:
    made = Made(tmp_path / "batch", [row("a", id="a"), row("b", id="b", number=2)], [png(1), mp4(1)])
    for media, name in (("image", "a.png"), ("video", "b.mp4")):
        (line,) = export(made.folder, "-o", "-", "--media", media).stdout.splitlines()
        assert json.loads(line)["file_name"] == name


def test_a_folder_of_nights_is_one_table(tmp_path: Path) -> None:
    for night in ("2026-11-21", "2026-11-22"):
        Made(tmp_path / "nightly" / night, rows(2), [png(1), png(2)])
    names = [json.loads(text)["file_name"] for text in export(tmp_path / "nightly", "-o", "-").stdout.splitlines()]
    assert names == ["2026-11-21/p1.png", "2026-11-21/p2.png", "2026-11-22/p1.png", "2026-11-22/p2.png"]

    told = export(tmp_path / "nightly/2026-11-21", tmp_path / "nightly/2026-11-22", "-o", tmp_path / "a.csv")
    assert told.exit_code == 0
    assert "2026-11-22/p2.png,picture 2" in (tmp_path / "a.csv").read_text()
    export(tmp_path / "nightly", "-o", tmp_path / "set", "--format", "folder")
    assert (tmp_path / "set/train/2026-11-22/p2.png").read_bytes() == png(2)


# -- captions -----------------------------------------------------------------------------------------------------


def test_each_picture_has_its_caption_beside_it_in_one_line(tmp_path: Path) -> None:
    made = Made(tmp_path / "batch", [row("a red\n cube", id="c.v1", metadata={"short": "cube"})], [png(1)])
    export(made.folder, "-o", tmp_path / "set", "--format", "captions")
    assert tree(tmp_path / "set") == {
        "c.v1.png": png(1), "c.v1.txt": b"a red cube", ".oxenbatch-export": b"c.v1.png\nc.v1.txt\n",
    }  # fmt: skip

    export(made.folder, "-o", tmp_path / "set", "--format", "captions", "--caption", "short", "--link")
    assert (tmp_path / "set/c.v1.txt").read_text() == "cube"
    assert (tmp_path / "set/c.v1.png").samefile(made.folder / "c.v1.png")


def test_captions_may_lie_in_the_output_folder_itself(batch: Path) -> None:
    before = tree(batch)
    assert export(batch, "-o", batch, "--format", "captions").exit_code == 0
    after = tree(batch)

    assert {name: after[name] for name in before if name.endswith(".png")} == {
        name: content for name, content in before.items() if name.endswith(".png")
    }
    assert sorted(after.keys() - before.keys() - {"ledger.db-wal", "ledger.db-shm"}) == [
        ".oxenbatch-export", *(f"p{n}.txt" for n in range(1, 9)),
    ]  # fmt: skip


# -- the same ledger, the same bytes; nobody's files are lost ------------------------------------------------------

FOLDERS = ("jsonl", "csv", "parquet", "webdataset", "captions", "folder")
EVERY = [
    *((name,) for name in ("a.jsonl", "a.csv", "a.parquet", "a.tar")),
    *((f"set-{name}", "--format", name, "--split-by", "split") for name in FOLDERS),
]


@pytest.mark.parametrize("how", EVERY, ids=lambda how: how[0])
def test_the_same_ledger_gives_the_same_bytes(batch: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    trees = []
    for place in ("one", "two", "two"):  # the third writes over the second
        to = tmp_path / place / how[0]
        assert export(batch, "-o", to, *how[1:]).exit_code == 0
        trees.append(tree(tmp_path / place))

    assert trees[0] == trees[1] == trees[2]
    assert trees[0]


@pytest.mark.parametrize("how", EVERY, ids=lambda how: how[0])
def test_a_file_that_no_export_has_made_is_left_alone(batch: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    export(batch, "-o", tmp_path / "probe" / how[0], *how[1:])
    for name in [name for name in tree(tmp_path / "probe") if not name.endswith(".oxenbatch-export")]:
        place = tmp_path / "foreign" / name.replace("/", "_")
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("mine, all mine\n")
        with pytest.raises(MachineError, match="in the way"):
            export(batch, "-o", place / how[0], *how[1:])
        assert (place / name).read_text() == "mine, all mine\n"


def test_what_an_earlier_export_had_more_is_gone_and_a_strangers_file_stays(batch: Path, tmp_path: Path) -> None:
    to = tmp_path / "set"
    export(batch, "-o", to, "--format", "captions")
    (to / "notes.md").write_text("mine")
    export(batch, "-o", to, "--format", "captions", "-n", "1")

    assert set(tree(to)) == {"p1.png", "p1.txt", "notes.md", ".oxenbatch-export"}


@pytest.mark.parametrize("how", [how for how in EVERY if how[0].endswith(("tar", "set", "captions", "folder"))],
                         ids=lambda how: how[0])  # fmt: skip
@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_result_that_is_not_as_it_was_goes_into_no_dataset(
    batch: Path, tmp_path: Path, how: tuple[str, ...], damage: str
) -> None:
    victim = batch / "p4.png"
    content = victim.read_bytes()
    victim.unlink()
    if damage != "gone":
        victim.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(MachineError, match="verify --repair"):
        export(batch, "-o", tmp_path / how[0], *how[1:])
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "link.png"])
def test_a_strangers_ledger_takes_no_file_from_elsewhere(batch: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    (batch / "link.png").symlink_to(tmp_path / "secret.png")
    with Ledger.open(batch / "ledger.db") as ledger:
        ledger.conn.execute("update generations set file = ? where file = 'p2.png'", (name,))

    for format_ in ("folder", "captions", "webdataset"):
        with pytest.raises(MachineError, match="folder"):
            export(batch, "-o", tmp_path / f"set-{format_}", "--format", format_)
    told = CliRunner().invoke(cli, ["report", str(batch), "-o", str(tmp_path / "r.html"), "--embed", "files"])
    assert told.exit_code == 0
    assert (tmp_path / "r.html").read_text().count('id="blob-') == 7


def test_the_batchs_own_files_are_never_written_over(batch: Path) -> None:
    for name in ("metadata.jsonl", "ledger.db"):
        with pytest.raises(UsageProblem, match="the batch's own"):
            export(batch, "-o", batch / name, "--format", "jsonl")
    with pytest.raises(MachineError, match="in the way"):
        export(batch, "-o", batch / "p1.png", "--format", "csv")
    Image.open(batch / "p1.png").load()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-o", "x"), "add --format"),
        (("-o", "-", "--format", "webdataset"), "no stream"),
        (("-o", "-", "--format", "parquet"), "no stream"),
        (("-o", "-", "--format", "jsonl", "--split-by", "split"), "name a folder"),
        (("-o", "x.tar", "--split-by", "split"), "files of their own"),
        (("-o", "x", "--format", "csv", "--split-by", "colour"), "no row has the column colour; there are file_name"),
        (("-o", "x", "--format", "captions", "--caption", "colour"), "has no colour"),
    ],
)
def test_what_cannot_be_meant_is_said(batch: Path, tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageProblem, match=words):
        export(batch, "-o", str(tmp_path / flags[1]) if flags[1] != "-" else "-", *flags[2:])


def test_an_empty_selection_is_an_empty_table(batch: Path, tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.parquet", "a.tar"):
        assert export(batch, "-o", tmp_path / name, "--model", "none").exit_code == 0
        assert (tmp_path / name).exists()
    assert (tmp_path / "a.csv").read_text() == "file_name,prompt,model\n"
    assert pq.read_table(tmp_path / "a.parquet").num_rows == 0
