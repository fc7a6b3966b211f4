"""The first minute: `init` writes a manifest to start from, `schema` lets an editor complete it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from oxenbatch.cli.access import catalog_for, catalog_options
from oxenbatch.cli.options import option
from oxenbatch.errors import MachineError, UsageProblem, printable

STARTER_MODEL = "nano-banana-2"
STARTER = """\
# A manifest: which files are wanted. Each row becomes one request to a model, and one or more files.
#
#   oxenbatch check {file}            is everything right, and what will it cost? spends nothing
#   oxenbatch run {file} --sandbox    a rehearsal on this machine: no key, no cost, real files
#   oxenbatch run {file}              the real thing; run it again after any interruption, nothing is paid twice
#
# Completion in your editor: `oxenbatch schema > oxenbatch.schema.json`, then make this line the first one:
#   # yaml-language-server: $schema=oxenbatch.schema.json

output: out/{{name}}        # relative to this file; out/{{name}}/{{date}} makes a folder a day
concurrency: 8            # generations active at the hub, at most
max_cost: 5.00            # dollars that this batch may cost, at most

model: {model}      # `oxenbatch models` lists them, `oxenbatch model {model}` shows what it takes
defaults:                 # under every row; a row's own field wins
  aspect_ratio: "16:9"

# Templates: every combination of what a row names becomes a row of its own.
variables:
  place: [a coral reef, the shore]

prompts:
  - A sunset over the ocean                       # a plain line is a prompt
  - "{{place}} at dawn, seen from above"            # two rows: one for each place
  - id: hero                                      # an id names the file, and stays when the prompt changes
    prompt: A red cube on wet sand
    aspect_ratio: "1:1"
    samples: 2                                    # how many files
    metadata: {{split: test}}                       # kept in the dataset, never sent

# More rows from a table, in any format (CSV, TSV, JSON lines, …):
# rows: prompts.csv
"""


@click.command(short_help="Write a commented starter manifest.")
@click.argument("file", default="manifest.yaml", metavar="[FILE]")
@option("--model", default=STARTER_MODEL, show_default=True, help="The model that it is for.")
@option("--force", is_flag=True, help="Write over a file that is there.")
def init(file: str, *, model: str, force: bool) -> None:
    """Write a starter manifest with a word about each part, to FILE or to manifest.yaml; `-` is stdout.

    \b
    Examples:
      oxenbatch init
      oxenbatch init loops.yaml --model kling-video-v2-6-pro-text-to-video
    """
    if not model.strip() or not model.isprintable() or set(model) & set("\"'#{}[]:,&*!|>%@`"):
        raise UsageProblem(f"{printable(model, 80)!r} is no model's id; `oxenbatch models` lists them")
    name = "manifest.yaml" if file == "-" else file
    text = STARTER.format(file=printable(Path(name).name), model=model)
    if file == "-":
        click.echo(text, nl=False)
        return
    if Path(file).suffix.lower() not in (".yaml", ".yml"):
        raise UsageProblem(f"{printable(file)}: a starter manifest is YAML; give it the extension .yaml")
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        with os.fdopen(os.open(file, flags, 0o666), "w", encoding="utf-8", newline="\n") as opened:
            opened.write(text)
    except FileExistsError:
        raise UsageProblem(f"{printable(file)} is there already: name another file, or add --force") from None
    except OSError as error:
        raise MachineError(f"cannot write {printable(file)}: {error.strerror or error}") from error
    click.echo(f"wrote {printable(file)}; next: oxenbatch check {printable(file)}", err=True)


@click.command(short_help="The JSON Schema of a manifest, for editors.")
@click.option("--models", "with_models", is_flag=True, help="With the catalogue's models and their parameters in it.")
@catalog_options
def schema(*, with_models: bool, **where: Any) -> None:
    """Print the JSON Schema of a manifest: it completes names and underlines mistakes in editors that know YAML.

    \b
    In VS Code with the YAML extension, or any editor with yaml-language-server:
      oxenbatch schema --models > oxenbatch.schema.json
      # yaml-language-server: $schema=oxenbatch.schema.json      (first line of the manifest)

    \b
    Example:
      oxenbatch schema > oxenbatch.schema.json
    """
    from oxenbatch.manifest.schema import manifest_schema  # noqa: PLC0415 - not for --help

    catalog = None
    if with_models:
        _, catalog = catalog_for(lambda words: click.echo(printable(words), err=True), **where)
    click.echo(json.dumps(manifest_schema(catalog), ensure_ascii=False, indent=2))
