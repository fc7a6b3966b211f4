"""What is installed is what was looked at: pinned, hashed, and nothing of it runs while it is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted(ROOT.glob("requirements*.lock"))
LOCK = "".join(path.read_text(encoding="utf-8") for path in LOCKS)
ENTRIES = re.split(r"\n(?=[a-z0-9])", LOCK.replace("\\\n", " ").strip())
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    """`pyyaml` of `PyYAML[x]>=6`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0]).lower()


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_every_dependency_is_one_version_with_its_hashes_and_no_address(entry: str) -> None:
    assert re.match(r"[a-z0-9][a-z0-9._-]*==[^ ;]+( |$)", entry)
    assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry)
    assert "://" not in entry
    assert " @ " not in entry
    rest = re.sub(r"--hash=sha256:[0-9a-f]{64}", "", entry)
    assert "--" not in rest


def test_everything_that_the_project_asks_for_is_in_the_lock() -> None:
    optional = PROJECT["project"]["optional-dependencies"].values()
    asked = [*PROJECT["project"]["dependencies"], *(one for group in optional for one in group)]
    asked += PROJECT["dependency-groups"]["dev"]

    assert {name_of(one) for one in asked} <= {name_of(entry) for entry in ENTRIES}


def test_the_lock_says_nothing_about_where_packages_come_from() -> None:
    assert not re.search(r"^(-i|--index-url|--extra-index-url|--find-links|--trusted-host|-e|-r)\b", LOCK, re.MULTILINE)


def test_no_code_of_a_dependency_runs_while_it_is_installed() -> None:
    """Wheels only: a source distribution would run its own build. The project itself is built by a pinned builder."""
    installs = [line for line in MAKEFILE.splitlines() if re.search(r"\bpip (install|sync)\b", line)]
    assert installs
    for line in installs:
        if "--editable ." in line:
            assert "--no-deps" in line
            assert "--no-build-isolation" in line
        else:
            assert "--require-hashes" in line, line
            assert "--only-binary :all:" in line or "--no-build" in line, line


def test_the_build_runs_nothing_of_the_projects_own() -> None:
    assert PROJECT["build-system"] == {"requires": ["hatchling"], "build-backend": "hatchling.build"}
    assert "hooks" not in str(PROJECT["tool"].get("hatch", {}))
    assert not (ROOT / "setup.py").exists()


SOUND = {"name": "click", "version": "8.5.0", "vulns": []}
HOLED = {"name": "x", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}
UNKNOWN = {"name": "y", "skip_reason": "not found on the registry"}


@pytest.mark.parametrize(("told", "code", "words"), [
    (None, 0, "not audited: pip-audit is not installed"),
    ("nonsense", 0, "not audited: the registry does not answer"),
    ([SOUND], 0, "audited 1 packages, 0 known"),
    ([SOUND, HOLED], 1, "x 1: PYSEC-1, fixed in 2"),
    ([SOUND, UNKNOWN], 0, "not audited, since they could not be looked up: y"),
])  # fmt: skip
def test_an_audit_fails_on_what_is_known_and_says_what_it_could_not_look_up(
    tmp_path: Path, told: object, code: int, words: str
) -> None:
    if told is not None:
        said = told if isinstance(told, str) else json.dumps({"dependencies": told})
        tool = tmp_path / "pip-audit"
        tool.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
        tool.chmod(0o755)

    done = subprocess.run([sys.executable, "-S", str(ROOT / ".ci/audit.py")], env={"PATH": f"{tmp_path}:/bin:/usr/bin"},
                          capture_output=True, text=True, check=False)  # fmt: skip

    assert (done.returncode, words in done.stdout) == (code, True), done
