"""Tab, in real shells: commands, options, batches, jobs and models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import CompletionItem, ShellComplete
from ledgers import Book, row

from oxenbatch import kept
from oxenbatch.cli import cli
from oxenbatch.cli.completion import SHELLS, VARIABLE, complete_job
from oxenbatch.sandbox.models import CATALOGUE

COMMAND = Path(sys.executable).with_name("oxenbatch")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as users have it: two batches, a night's folder, manifests, and a catalogue that was kept."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / ".home"))
    monkeypatch.setenv("PATH", f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    for folder, jobs in (("out/ocean", ["dawn", "dusk", "noon"]), ("out/nights/2027-01-01", ["hero"])):
        (tmp_path / folder).mkdir(parents=True)
        book = Book(tmp_path / folder / "ledger.db")
        book.stage(*(row(f"prompt {n}", id=job, number=n) for n, job in enumerate(jobs, 1)))
        book.close()
    (tmp_path / "ocean.yaml").write_text("- a\n")
    (tmp_path / "other.csv").write_text("prompt\na\n")
    (tmp_path / "picture.png").write_bytes(b"")
    payload = {"object": "list", "data": [model.shown() for model in CATALOGUE.values()]}
    kept.save(tmp_path / ".home" / "oxenbatch", "stand-in on this machine", payload)
    return tmp_path


def offered(*words: str) -> list[str]:
    """What click's machinery offers for the last of these words."""
    completion = ShellComplete(cli, {}, "oxenbatch", VARIABLE)
    return [item.value for item in completion.get_completions(list(words[:-1]), words[-1])]


def test_commands_and_options_are_offered(place: Path) -> None:
    assert offered("sta") == ["status"]
    assert offered("run", "--max") == ["--max-rows", "--max-cost", "--max-outage"]
    assert offered("run", "--on-unknown", "") == ["hold", "resubmit"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("status", ""), ["ocean.yaml", "other.csv", "out/"]),
        (("status", "out/"), ["out/nights/", "out/ocean"]),
        (("status", "out/oc"), ["out/ocean"]),
        (("status", "out/nights/"), ["out/nights/2027-01-01"]),
        (("run", "o"), ["ocean.yaml", "other.csv", "out/"]),
        (("ls", "nowhere/"), []),
    ],
)
def test_batches_and_manifests_are_offered(place: Path, words: tuple[str, ...], names: list[str]) -> None:
    assert offered(*words) == names


def test_jobs_of_the_batch_before_are_offered(place: Path) -> None:
    assert offered("show", "out/ocean", "") == ["dawn", "dusk", "noon"]
    assert offered("show", "out/ocean", "d") == ["dawn", "dusk"]
    assert offered("reject", "out/ocean", "dawn", "no") == ["noon"]
    assert offered("retry", "out/ocean", "--job", "no") == ["noon"]
    assert offered("show", "out/nowhere", "") == []


def test_models_are_offered_from_the_catalogue_that_was_kept(place: Path) -> None:
    assert offered("run", "--model", "kling") == sorted(name for name in CATALOGUE if name.startswith("kling"))
    shutil.rmtree(place / ".home")
    assert offered("run", "--model", "kling") == []


def test_a_damaged_ledger_offers_nothing_and_says_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "out/ocean/ledger.db").write_bytes(b"noise")
    assert offered("show", "out/ocean", "") == []
    assert capsys.readouterr() == ("", "")


def test_a_job_has_no_name_before_there_is_a_batch() -> None:
    context = click.Context(click.Command("show"))
    assert complete_job(context, click.Argument(["job"]), "x") == list[CompletionItem]()


# -- real shells ------------------------------------------------------------------------------------------------------

DRIVERS = {
    "bash": """
source <(oxenbatch completion bash)
complete -p oxenbatch >/dev/null || exit 1
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_oxenbatch_completion oxenbatch "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
autoload -Uz compinit; compinit -u -d "$HOME/.zcompdump"
compdef() { :; }
eval "$(oxenbatch completion zsh)"
compadd() { print -l -- ${(P)argv[-1]}; }             # click calls: compadd -U -V unsorted -a NAME
_describe() { print -l -- ${${(P)argv[3]}%%:*}; }     # and: _describe -V unsorted NAME -U
words=("$@"); CURRENT=$#
_oxenbatch_completion
""",
    "fish": """
oxenbatch completion fish | source
complete -C "$argv"
""",
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["oxenbatch", "sta"], {"status"}),
        (["oxenbatch", "status", "out/oc"], {"out/ocean"}),
        (["oxenbatch", "show", "out/ocean", "d"], {"dawn", "dusk"}),
        (["oxenbatch", "run", "--model", "black"], {name for name in CATALOGUE if name.startswith("black")}),
    ],
)
def test_a_real_shell_offers_them(place: Path, shell: str, words: list[str], names: set[str]) -> None:
    program = shutil.which(shell)
    if program is None:
        assert not os.environ.get("CI"), f"{shell} is missing: .ci/run installs it"
        pytest.skip(f"no {shell} on this machine")
    script = place / f"driver.{shell}"
    script.write_text(DRIVERS[shell])
    arguments = [" ".join(words)] if shell == "fish" else words
    options = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    told = subprocess.run([program, *options, str(script), *arguments], capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    assert {line.split("\t")[0].strip() for line in told.stdout.splitlines() if line.strip()} == names, told.stderr
