"""What is installed on top for tests agrees with what everybody has: two locks, one version of each package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {m[1]: m[2] for line in lines if (m := re.match(r"([\w.-]+)==([^\s;\\]+)", line))}


def test_no_package_has_two_versions() -> None:
    everybodys, dasks = pinned("requirements.lock"), pinned("requirements-dask.lock")
    assert dasks.keys() >= {"distributed", "httpx"}
    assert "distributed" not in everybodys
    assert {name: dasks[name] for name in dasks.keys() & everybodys} == {
        name: everybodys[name] for name in dasks.keys() & everybodys
    }


def test_every_package_is_pinned_by_its_hash_and_no_address_is_named() -> None:
    for name in ("requirements.lock", "requirements-dask.lock"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "://" not in text
        blocks = re.split(r"\n(?=[\w-])", text)
        assert all("--hash=sha256:" in block for block in blocks)
