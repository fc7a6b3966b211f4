"""Misspelt words: what may have been meant is said, with what to type."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from oxenbatch.cli import COMMANDS, MEANT
from oxenbatch.errors import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path


def said(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "oxenbatch", *words], cwd=folder, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["statsu"], "there is no command 'statsu' (did you mean status?)"),
        (["list"], "type `oxenbatch ls`"),
        (["help"], "type `oxenbatch --help`"),
        (["ocean.yaml"], "to run it, type `oxenbatch run ocean.yaml`"),
        (["."], "to see where it stands, type `oxenbatch status .`"),
        (["xyzzy"], "there is no command 'xyzzy'\n"),
        (["st\x1b[31m"], "'st\\u001b[31m'"),
        (["run", "--max-cots", "3", "ocean.yaml"], "Did you mean"),
        (["run", "ocaen.yaml"], "ocaen.yaml does not exist (did you mean ocean.yaml?)"),
        (["status", "ocaen.yaml"], "ocaen.yaml does not exist (did you mean ocean.yaml?)"),
        (["status", "."], "`oxenbatch run MANIFEST` begins one"),
        (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
    ],
)
def test_what_was_meant_is_said(tmp_path: Path, words: list[str], hint: str) -> None:
    (tmp_path / "ocean.yaml").write_text("- a\n", encoding="utf-8")
    assert hint in said(tmp_path, *words)


def test_other_tools_words_are_no_commands_of_ours() -> None:
    assert not MEANT.keys() & COMMANDS.keys()
    assert {words.split()[0] for words in MEANT.values()} <= COMMANDS.keys() | {"--help", "--version"}


def test_nothing_near_gets_no_hint() -> None:
    assert did_you_mean("xyzzy", ["run", "status"]) == ""
    assert did_you_mean("rum", ["run", "status"]) == " (did you mean run?)"
