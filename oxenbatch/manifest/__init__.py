"""A manifest becomes a stream of rows, or of the problems that are in it.

Two steps: `load_manifest` reads the head and looks at every file once; `Manifest.rows` streams. Nothing here keeps a
list as long as the batch, and nothing here opens a socket: schemas come in as a `Catalog`.

Other windows of this room: `source` (bytes to checked text), `yaml_file` and `yaml12`, `strict_json` and `tables` (the
formats), `read` (all of them as entries), `spots` (where their fields stand), `head`, `templates`, `fields` (what a
field is to a model), `expand` and `draft` (entries become rows), `blame` (whose word is wrong), `ids`.
"""

from __future__ import annotations

import datetime as dt
import glob
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from oxenbatch.errors import ManifestError, Problem, UsageProblem, printable
from oxenbatch.jobs import Row, canonical
from oxenbatch.manifest import read, templates
from oxenbatch.manifest.draft import merged
from oxenbatch.manifest.expand import Expansion
from oxenbatch.manifest.head import RESERVED, Overrides, read_head, stem
from oxenbatch.manifest.inputs import InputFiles
from oxenbatch.manifest.source import Entry, Faulty, Include, Source, find_source, form_of, keep
from oxenbatch.manifest.strict_json import JsonFault, decode
from oxenbatch.wire import InputPlace, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal

    from oxenbatch.catalog import Catalog
    from oxenbatch.jobs import InputFile
    from oxenbatch.manifest.read import Member

__all__ = ["InputPlace", "Manifest", "Overrides", "Target", "load_manifest", "parse_parameter"]

MOST_PROBLEMS = 1_000  # past that the manifest is not the one that was meant; nobody reads on
_NO_OVERRIDES = Overrides()


class Manifest:
    """A manifest's head, read and checked; its rows stream."""

    def __init__(self, source: Source, path: Path | None, overrides: Overrides, name: str) -> None:
        """The head is read; `ManifestError` with all that is wrong with it."""
        self._source = source
        self._overrides = overrides
        self.path = path
        """The file; None for standard input."""
        found = read.outline(source)
        head = read_head(found.members, name, source.shown)
        problems = found.problems + (head.problems if not found.unsure else [])
        self._head = head
        self._files: dict[str, Source] = {}
        rows = found.members.get("rows")
        if rows is not None and isinstance(rows.value, str) and not problems:
            problems += self._include(rows.value, rows)
        if problems:
            raise ManifestError(problems)
        self._listed = found.bare or bool(found.lists) or bool(self._files)
        self._prompt = found.members.get("prompt")
        self.name: str = head.name
        self.output: str = head.output
        """The template of the folder's name."""
        self.dated: bool = bool(set(templates.names(head.output)) & templates.DATE_FIELDS)
        """The output folder is another one on another day."""
        self.uses_date: bool = head.templates and (
            found.names_the_date or any(file.scan.names_the_date for file in self._files.values()) or self._base_dated()
        )
        """A row's text may be another one on another day."""
        self.concurrency: int | None = head.concurrency
        self.max_cost: Decimal | None = head.max_cost
        """Dollars."""
        self.model_concurrency: dict[str, int] = head.model_concurrency
        self.target: Target | None = head.target
        self.inputs: InputPlace | None = head.inputs
        """Where at the hub the files are kept that its rows send along; None where it does not say."""
        self.inputs_root: Path = (path.parent if path is not None else Path()) / Path(head.inputs_root).expanduser()
        """The folder of this machine in which they lie."""
        if next(self._entries(), None) is None:
            raise ManifestError([Problem("has no rows; write a prompt a line, or a list", where=source.shown)])

    def __repr__(self) -> str:
        return f"<Manifest {self.name!r} of {printable(self._source.shown)}>"

    @property
    def row_files(self) -> list[Path]:
        """The files that `rows:` names."""
        return [file.path for file in self._files.values()]

    def output_folder(self, date: dt.date) -> Path:
        """The batch's folder: beside the manifest, in the working directory for standard input, or where it says."""
        name = templates.fill(self.output, templates.calendar(date, self.name))
        folder = Path(name).expanduser() if name.startswith("~/") else Path(name)
        return folder if self.path is None else self.path.parent / folder

    def folders(self) -> list[Path]:
        """Every output folder of this manifest that exists, of whatever date, in the order of their names."""
        wild: dict[str, str | None] = {name: glob.escape(value or "") for name, value in self._any_day().items()}
        wild |= {"year": "[0-9]" * 4, "month": "[0-9]" * 2, "day": "[0-9]" * 2}
        wild["date"] = f"{wild['year']}-{wild['month']}-{wild['day']}"
        name = "".join(
            glob.escape(literal) + ((wild[field.casefold()] or "") if field else "")
            for literal, field in templates.pieces(self.output)
        )
        name = str(Path(name).expanduser()) if name.startswith("~/") else name
        folder = Path(name) if self.path is None else Path(glob.escape(str(self.path.parent))) / name
        return sorted(Path(found) for found in glob.glob(str(folder)) if Path(found).is_dir())  # noqa: PTH207 - may be absolute

    def _any_day(self) -> dict[str, str | None]:
        return templates.calendar(dt.date.min, self.name)

    def fingerprint(self, date: dt.date, catalog: Catalog | None = None) -> str:
        """The tagged hash of all that decides the rows: equal fingerprints make equal rows.

        It holds the files' bytes as they were when the head was read, the flags, the models' schemas, and the date
        where a row's text may use it. `m1` names this way of reading, so that a later one reads anew.
        """
        flags = self._overrides
        parts = {
            "files": [file.scan.digest for file in (self._source, *self._files.values())],
            "forms": [file.form for file in (self._source, *self._files.values())],
            "name": self.name,
            "model": flags.model,
            "parameters": dict(flags.parameters),
            "limit": flags.limit,
            "extra_columns": flags.extra_columns,
            "max_rows": flags.max_rows,
            "models": catalog.digest() if catalog is not None else None,
            "date": date.isoformat() if self.uses_date else None,
        }
        return "m1:" + hashlib.sha256(canonical(parts).encode("utf-8", "surrogatepass")).hexdigest()

    def rows(
        self,
        date: dt.date,
        catalog: Catalog | None = None,
        known_file: Callable[[str], InputFile | None] = lambda _: None,
    ) -> Iterator[Row | Problem]:
        """Every row and every problem, in the manifest's order; after 1,000 problems the rest is not looked at.

        Without a catalogue no model and no parameter is checked, and a table's cells are JSON where they parse.
        `known_file`: what an earlier reading found at a path; the file is not read again where it is still the same.
        """
        files = InputFiles(self.inputs_root, known_file, is_placed=self.inputs is not None)
        expansion = Expansion(self._head, self._overrides, date, catalog, files)
        problems = 0
        for found in expansion.rows(self._entries()):
            yield found
            if isinstance(found, Problem):
                problems += 1
                if problems >= MOST_PROBLEMS:
                    words = f"has {MOST_PROBLEMS:,} problems or more; what comes after them was not looked at"
                    yield Problem(words, where=self._source.shown)
                    return
        for file in (self._source, *self._files.values()):
            if file.mark() != file.seen:
                yield Problem("was changed while it was being read; run it again", where=file.shown)

    def _entries(self) -> Iterator[Entry | Faulty | Problem]:
        """The rows as they are written, a `rows:` file's at its place; the head's prompt where there is no list."""
        if not self._listed:
            base = merged(self._head.defaults, self._overrides)
            if any(name in {**base, **self._head.matrix} for name in ("prompt", "multi_prompt")):
                member = self._prompt
                yield Entry({}, self._source.shown, member.line if member else 1, find=member.find if member else None)
            return
        for item in read.entries(self._source):
            if not isinstance(item, Include):
                yield item
                continue
            for inner in read.entries(self._files[item.path]):
                if not isinstance(inner, Include):
                    yield inner

    def _include(self, name: str, said: Member) -> list[Problem]:
        """The file that `rows:` names is looked at; what is wrong with it."""
        shown_dir = Path(self._source.shown).parent if self.path is not None else Path()
        line, column = said.spot()
        place = f"{self._source.shown}:{line}:{column}"
        try:
            path = (self.path.parent if self.path is not None else Path()) / name
            file = find_source(path, str(shown_dir / name), None)
        except UsageProblem as error:
            words = str(error).replace("say it with --format, one of", "give it the extension that says it, one of")
            return [Problem(words, where=place, field="rows")]
        except ManifestError as error:
            return error.problems
        self._files[name] = file
        outline = read.outline(file)
        if outline.members:
            keys = ", ".join(printable(key, 80) for key in outline.members)
            words = (
                f"holds {keys}, but a file of rows is a list, or a mapping with 'prompts' or 'rows' and a list alone"
            )
            return [*outline.problems, Problem(words, where=file.shown)]
        return outline.problems

    def _base_dated(self) -> bool:
        texts = [merged(self._head.defaults, self._overrides)]
        try:
            return bool(set(templates.names(texts)) & templates.DATE_FIELDS)
        except templates.TemplateFault:
            return True


def load_manifest(path: str | Path, *, overrides: Overrides = _NO_OVERRIDES, stdin: BinaryIO | None = None) -> Manifest:
    """The manifest's head is read and every file of it was looked at once; `-` is standard input.

    `UsageProblem` where the file is not there or its format cannot be told, `ManifestError` with every problem of the
    head, and where there are no rows.
    """
    for name in overrides.parameters:
        if name.casefold() in RESERVED:
            raise UsageProblem(f"-p {printable(name, 80)}: is not a parameter; {RESERVED[name.casefold()]}")
        if name.casefold() in ("id", "model"):
            remedy = "use --model" if name.casefold() == "model" else "ids are said in the rows"
            raise UsageProblem(f"-p {printable(name, 80)}: is not a parameter; {remedy}")
    if str(path) == "-":
        if stdin is None:
            raise UsageProblem("standard input is not to be read here")
        source = keep(stdin, "stdin", form_of("-", overrides.format))
        return Manifest(source, None, overrides, "stdin")
    where = Path(path)
    return Manifest(find_source(where, str(path), overrides.format, pipes=True), where, overrides, stem(where))


def parse_parameter(text: str) -> tuple[str, Any]:
    """The name and the value of one `-p NAME=VALUE`: JSON where it parses, else text; `UsageProblem` without a name.

    `prompt`, `negative_prompt` and `id` are always text.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not name or not equals:
        raise UsageProblem(f"-p {printable(text, 80)}: expected NAME=VALUE, such as -p duration=5")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise UsageProblem(f"-p {printable(text, 80)}: is not UTF-8")
    if name.casefold() in ("prompt", "negative_prompt", "id"):
        return name, value
    try:
        return name, decode(value)
    except JsonFault:
        return name, value
