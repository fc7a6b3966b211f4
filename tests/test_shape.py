"""The house's shape: who may do what, checked and not remembered. Who imports whom is `make lint`'s."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import oxenbatch
from oxenbatch.cli import COMMANDS, cli
from oxenbatch.cli import options as options_module
from oxenbatch.cli.summaries import SUMMARIES

if TYPE_CHECKING:
    from collections.abc import Iterator

HOUSE = Path(oxenbatch.__file__).parent
ROOT = HOUSE.parent
HEAVY = ("httpx", "sqlite_utils", "rich", "starlette", "yaml", "jsonschema_rs", "tenacity", "PIL", "uvicorn", "jinja2",
         "pyarrow")  # fmt: skip

LONG = 400
TOO_LONG = {"batch.py", "ledger/sends.py", "manifest/expand.py"}
"""Longer than `LONG` and known to be; this set only shrinks."""


def modules(*, sandbox: bool = False) -> Iterator[tuple[str, ast.Module]]:
    """Each module of ours, by its place in the house, with its tree."""
    for path in sorted(HOUSE.rglob("*.py")):
        place = path.relative_to(HOUSE).as_posix()
        if sandbox or not place.startswith("sandbox/"):
            yield place, ast.parse(path.read_text(encoding="utf-8"))


def functions_that(place: str, tree: ast.Module, holds: type[ast.AST], text: str) -> list[str]:
    """`place:function` of the innermost function around each call of that name, or each such constant."""
    found: list[str] = []

    def look(node: ast.AST, around: str) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            around = node.name
        if isinstance(node, holds) and _says(node) == text:
            found.append(f"{place}:{around}")
        for inner in ast.iter_child_nodes(node):
            look(inner, around)

    look(tree, "the module")
    return found


def _says(node: ast.AST) -> object:
    if isinstance(node, ast.Call):
        return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)
    return getattr(node, "value", None)


def test_the_help_has_each_commands_own_line_and_imports_none_of_them() -> None:
    context = click.Context(cli)
    lines = {name: cli.get_command(context, name).get_short_help_str(110) for name in COMMANDS}  # type: ignore[union-attr]
    assert lines == SUMMARIES, "renew oxenbatch/cli/summaries.py"

    shown = (
        "import sys; from oxenbatch.cli import cli; cli.main(['--help'], standalone_mode=False); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True)
    assert "asyncio" not in done.stdout.split()
    assert not {place.partition(":")[0] for place in COMMANDS.values()} & set(done.stdout.split())


def test_only_authorise_makes_an_intent() -> None:
    makers = {f for place, tree in modules() for f in functions_that(place, tree, ast.Call, "sealed")}
    assert makers == {"ledger/sends.py:_intend"}
    direct = {f for place, tree in modules() for f in functions_that(place, tree, ast.Call, "Intent")}
    assert direct == {"jobs.py:sealed"}
    callers = {f for place, tree in modules() for f in functions_that(place, tree, ast.Call, "_intend")}
    assert callers == {"ledger/sends.py:authorise"}


def test_only_enqueue_posts() -> None:
    said = {f for place, tree in modules() for f in functions_that(place, tree, ast.Constant, "POST")}
    assert said == {"hub/client.py:enqueue"}
    assert not {f for place, tree in modules() for f in functions_that(place, tree, ast.Call, "post")}


def test_only_the_runner_enqueues() -> None:
    callers = {f for place, tree in modules() for f in functions_that(place, tree, ast.Call, "enqueue")}
    assert callers == {"runner/sending.py:_post"}


def test_no_module_grows_past_holding() -> None:
    lengths = {p.relative_to(HOUSE).as_posix(): len(p.read_text().splitlines()) for p in HOUSE.rglob("*.py")}
    long = {place for place, lines in lengths.items() if lines > LONG}
    assert long <= TOO_LONG, "look for the second word in its name"
    assert long >= TOO_LONG & lengths.keys(), "it has been split: take it out of TOO_LONG"


def test_every_module_opens_with_a_sentence() -> None:
    silent = [place for place, tree in modules(sandbox=True) if tree.body and not ast.get_docstring(tree)]
    assert not silent


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_stands_in_the_docs(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.help
    assert "Example" in command.help
    assert f"oxenbatch {name}" in command.help
    assert command.short_help
    assert f"\n## oxenbatch {name}\n" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help and p.name != "progress"]
    assert not silent


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_the_environment_sets_is_named_after_its_flag(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar:
            flag = max((text for text in option.opts if text.startswith("--")), key=len)
            assert "OXENBATCH_" + flag[2:].upper().replace("-", "_") in option.envvar


def test_every_option_of_run_can_be_set_by_the_environment() -> None:
    command = cli.get_command(click.Context(cli), "run")
    assert command is not None
    assert not [p.name for p in command.params if isinstance(p, click.Option) and not p.envvar]


def test_option_names_the_variable_after_the_flag() -> None:
    @click.command()
    @options_module.option("-x", "--max-cost", also_envvar=["OTHER"])
    def command(max_cost: str) -> None: ...

    assert command.params[0].envvar == ["OXENBATCH_MAX_COST", "OTHER"]


def test_the_command_line_starts_without_what_is_heavy() -> None:
    code = f"import sys, oxenbatch.cli; print(*[name for name in {HEAVY} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""


def test_no_help_waits_for_what_is_heavy() -> None:
    code = (
        "import sys, click, oxenbatch.cli as c;"
        "[c.cli.get_command(click.Context(c.cli), name).get_help(click.Context(c.cli)) for name in c.COMMANDS];"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == ""
