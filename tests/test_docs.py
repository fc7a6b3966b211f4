"""The pages tell the truth: what they name exists, and what exists is named."""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import oxenbatch
from oxenbatch import __version__, errors
from oxenbatch.catalog import Catalog
from oxenbatch.errors import Problem
from oxenbatch.jobs import JobState
from oxenbatch.ledger.book import Ledger
from oxenbatch.manifest import Overrides, load_manifest
from oxenbatch.manifest.head import KEYS, OURS
from oxenbatch.plan import Stop
from oxenbatch.sandbox import Faults
from oxenbatch.sandbox.models import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
EXAMPLES = sorted(p for p in (ROOT / "manifests").iterdir() if p.is_file() and not p.name.startswith("."))

sys.path.insert(0, str(DOCS))
import generate  # noqa: E402  - a script beside the pages, not a module of the package


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def first_cells(part: str) -> list[str]:
    """What stands in the first column of the part's tables, without heads and lines."""
    return [m[1].strip().strip("`") for m in re.finditer(r"^\| *([^|]+?) *\|", part, re.MULTILINE)
            if not set(m[1]) <= set("-: ") and m[1].strip() not in ("column", "code", "state", "field")]  # fmt: skip


@pytest.fixture
def fresh_ledger(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    Ledger.open(tmp_path / "ledger.db", create=True).close()
    connection = sqlite3.connect(tmp_path / "ledger.db")
    yield connection
    connection.close()


def test_every_column_of_the_ledger_is_explained_and_nothing_else(fresh_ledger: sqlite3.Connection) -> None:
    names = "select name from sqlite_master where type in ('table', 'view') and name not like '%sqlite%'"
    tables = {
        table: {row[1] for row in fresh_ledger.execute(f"pragma table_info({table})")}
        for (table,) in fresh_ledger.execute(names).fetchall()
    }
    page = text(DOCS / "ledger.md")
    titles = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    assert {title: set(first_cells(section(page, title))) for title in titles} == tables


def test_every_question_to_the_ledger_can_be_asked(fresh_ledger: sqlite3.Connection) -> None:
    questions = re.findall(r"```sql\n(.*?)```", text(DOCS / "ledger.md"), re.DOTALL)
    assert questions
    for question in questions:
        fresh_ledger.execute(question)


def test_every_state_has_its_row_where_the_plug_is_pulled() -> None:
    assert set(first_cells(section(text(ROOT / "README.md"), "What if you pull the plug?"))) == set(map(str, JobState))


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "exit-codes.md"], ids=lambda path: path.name)
def test_every_exit_code_is_explained_and_no_other(page: Path) -> None:
    part = section(text(page), "Exit codes") if page.name == "README.md" else text(page)
    told = {int(code) for cell in first_cells(part) for code in cell.split(", ")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, errors.OxenbatchError)}
    assert told == set(errors.EXIT_PRECEDENCE) | raised | {stop.exit_code for stop in Stop}


def test_every_field_of_a_manifest_is_explained() -> None:
    page = text(DOCS / "manifest.md")
    assert set(first_cells(section(page, "The head"))) == set(KEYS)
    assert set(first_cells(section(page, "A row"))) == set(OURS) | {"anything else"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", text(file), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_every_generated_part_is_filled_in_and_every_block_is_shown() -> None:
    shown = [mark for page in PAGES for mark in generate.MARKS.finditer(text(page))]
    assert {mark[2] for mark in shown} == set(generate.BLOCKS)
    assert all(len(mark[0].splitlines()) > 3 for mark in shown)


@pytest.mark.parametrize("name", ["demo.yaml", "ocean-loops.yaml"])
def test_a_manifest_in_the_readme_is_the_file(name: str) -> None:
    shown = re.findall(r"```yaml\n(.*?)```", text(ROOT / "README.md"), re.DOTALL)
    assert yaml.safe_load(text(ROOT / "manifests" / name)) in [yaml.safe_load(example) for example in shown]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_manifest_is_right_and_is_named_in_a_page(path: Path) -> None:
    catalog = Catalog.from_answer({"object": "list", "data": [model.shown() for model in CATALOGUE.values()]})
    overrides = Overrides(model="nano-banana-2" if path.suffix == ".txt" else None)
    rows = list(load_manifest(path, overrides=overrides).rows(dt.date(2026, 11, 22), catalog))
    assert rows
    assert not [str(row) for row in rows if isinstance(row, Problem)]
    assert any(f"manifests/{path.name}" in text(page) for page in PAGES)


@pytest.mark.parametrize("path", sorted((DOCS / "faults").glob("*.json")), ids=lambda path: path.name)
def test_every_example_of_faults_is_understood(path: Path) -> None:
    assert Faults.from_file(path).rules


def test_the_changelog_knows_this_version() -> None:
    assert f"\n## {__version__}" in text(ROOT / "CHANGELOG.md")


def test_the_examples_in_python_print_what_the_page_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests", ignore=shutil.ignore_patterns("out"))
    examples = re.findall(r"```python\n(.*?)```\s*```text\n(.*?)```", text(DOCS / "python.md"), re.DOTALL)
    assert examples
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    for code, printed in examples:
        told = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ | home,
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout == printed


def test_the_python_page_names_all_that_is_public() -> None:
    page = text(DOCS / "python.md")
    assert not [name for name in oxenbatch.__all__ if f"`{name}`" not in page]
