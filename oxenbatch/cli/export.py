"""The commands that hand the results on: `export` to programs, `report` to people."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from oxenbatch.cli.access import ledgers_of
from oxenbatch.cli.options import plural
from oxenbatch.jobs import JobState

if TYPE_CHECKING:
    from oxenbatch.dataset.report import Embed

FORMATS: Final = ("jsonl", "csv", "parquet", "webdataset", "captions", "folder")
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Size(click.ParamType[int]):
    """`500M`, `1G`: bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        match = re.fullmatch(r"([1-9][0-9]{0,11})\s*([kmg]?)i?b?", str(value).strip().lower())
        if not match:
            self.fail(f"{value!r} is no size: write 500M or 1G", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class Condition(click.ParamType[tuple[str, bool, str]]):
    """`NAME=VALUE` or `NAME!=VALUE`."""

    name = "condition"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, bool, str]:
        """(name, whether it is or is not, value)."""
        if isinstance(value, tuple):
            return value
        name, equals, wanted = str(value).partition("=")
        if not equals or not name.rstrip("!"):
            self.fail(f"{value!r} is no condition: write split=train or split!=train", param, ctx)
        return name.removesuffix("!"), not name.endswith("!"), wanted


STATES: Final = click.Choice([str(state) for state in JobState])


@click.command(short_help="The dataset's table, shards, or a folder with captions.")
@click.argument("batches", nargs=-1, required=True, metavar="BATCH...")
@click.option("-o", "--output", required=True, metavar="PATH", help="The file or folder; - is standard output.")
@click.option("--format", "wanted_format", type=click.Choice(FORMATS), help="[by PATH: .jsonl .csv .parquet .tar]")
@click.option("--state", "states", multiple=True, type=STATES, help="Samples in this state, files or not. [downloaded]")
@click.option("--model", "models", multiple=True, help="Only samples of this model.")
@click.option("--media", type=click.Choice(["image", "video"]), help="Only images, or only videos.")
@click.option("--where", multiple=True, type=Condition(), metavar="NAME=VALUE",
              help="Only where the column is this (with != instead: is not).")  # fmt: skip
@click.option("--without", multiple=True, type=click.Choice(["blank", "identical", "mismatched"]),
              help="Leave such results out; of identical ones the first stays.")  # fmt: skip
@click.option("-n", "--limit", type=click.IntRange(1), help="At most so many rows.")
@click.option("--split-by", metavar="NAME", help="A file or folder for each value of this column.")
@click.option("--caption", default="prompt", show_default=True, metavar="NAME", help="The column that captions are of.")
@click.option("--link", is_flag=True, help="Hard links to the files instead of copies (captions, folder).")
@click.option("--shard-size", type=Size(), default="1G", show_default=True, help="About so much in each .tar file.")
def export(batches: tuple[str, ...], **options: Any) -> None:
    """Write the results of one batch or of several, as programs read them.

    BATCH is an output folder, a folder of dated ones, or a manifest. The table has the columns of metadata.jsonl; file
    names in it are relative to BATCH. What an earlier export has written is replaced; any other file is left alone.

    \b
    jsonl, csv, parquet   a table in one file; with --split-by a folder of them
    webdataset            tar files of NUMBER.png, NUMBER.txt, NUMBER.json
    captions              the files, and beside each its prompt in NAME.txt
    folder                the files and metadata.jsonl, a folder a split, as Hugging Face's loaders expect it

    \b
    Examples:
      oxenbatch export out/ocean-loops -o ocean.parquet
      oxenbatch export out/ocean-loops -o set --format folder --split-by split --without blank
      oxenbatch export out/nightly -o - --format jsonl --where model=nano-banana-2 | jq .prompt
    """
    from oxenbatch.dataset import export as exporting  # noqa: PLC0415 - not for --help
    from oxenbatch.dataset.selection import Wanted, sources_of  # noqa: PLC0415

    to = None if options["output"] == "-" else Path(options["output"])
    chosen = options["wanted_format"] or ("jsonl" if to is None else exporting.guessed_format(to))
    wanted = Wanted(
        tuple(JobState(state) for state in options["states"]) or (JobState.DOWNLOADED,),
        options["models"], options["media"], options["where"], options["without"], options["limit"],
    )  # fmt: skip
    terms = exporting.Terms(chosen, options["split_by"], options["caption"], options["link"], options["shard_size"])
    ledgers = list(dict.fromkeys(path for name in batches for path in ledgers_of(name)))
    done = exporting.export(sources_of(ledgers, batches), to, wanted, terms)
    parts = ", ".join(f"{split} {count}" for split, count in done.splits.items()) if options["split_by"] else ""
    click.echo(f"{plural(done.rows, 'row')} in {options['output']}{f' ({parts})' if parts else ''}", err=True)


@click.command(short_help="One HTML page: totals, failures, and a gallery of the results.")
@click.argument("batches", nargs=-1, required=True, metavar="BATCH...")
@click.option("-o", "--output", required=True, metavar="FILE", help="The page.")
@click.option("-n", "--limit", type=click.IntRange(1), default=10_000, show_default=True,
              help="So many results in the gallery; the figures count all.")  # fmt: skip
@click.option("--embed", type=click.Choice(["auto", "none", "thumbnails", "files"]), default="auto", show_default=True,
              help="What of the pictures is in the page itself; auto: thumbnails, of up to 1,000 results.")  # fmt: skip
def report(batches: tuple[str, ...], output: str, *, limit: int, embed: str) -> None:
    """Write one page that shows a batch, or several: totals, cost, the run over time, failures and every result.

    BATCH is an output folder, a folder of dated ones, or a manifest. The page opens without a server and asks no other
    host for anything. Its full-size pictures and videos are the batch's own files, linked relative to where the page
    lies, so keep them together; or take them into the page with --embed files, to send it to somebody.

    \b
    Examples:
      oxenbatch report out/ocean-loops -o out/ocean-loops/report.html
      oxenbatch report out/nightly -o month.html
      oxenbatch report out/ocean-loops -o mail-me.html --embed files --limit 50
    """
    from oxenbatch.dataset.report import write_report  # noqa: PLC0415 - not for --help
    from oxenbatch.dataset.selection import sources_of  # noqa: PLC0415

    ledgers = list(dict.fromkeys(path for name in batches for path in ledgers_of(name)))
    done = write_report(sources_of(ledgers, batches), Path(output), limit=limit, embed=cast("Embed", embed))
    shown = plural(done.results, "result") if done.results == done.total else f"{done.results} of {done.total} results"
    size = f" ({done.bytes / 1e6:.0f} MB)" if done.bytes >= 1e6 else ""
    click.echo(f"{shown} in {output}{size}", err=True)
