"""What docs/publish.md shows of an Oxen repository was printed by the program; `OXENBATCH_RENEW=1` writes it anew."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "publish.md"
MARKS = re.compile(r"(<!-- printed: publish -->\n).*?(<!-- /printed -->)", re.DOTALL)
COMMANDS = (
    "oxenbatch run manifests/product-shots.csv --sandbox --quiet",
    "oxenbatch publish manifests/product-shots.csv",
    "ls manifests/out/.product-shots.oxen",
    "cat manifests/out/.product-shots.oxen/README.md",
    "oxenbatch publish manifests/product-shots.csv    # again: nothing is new",
)


def test_the_page_shows_what_the_program_prints(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests", ignore=shutil.ignore_patterns("out"))
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8",
           "NO_COLOR": "1", "OXENBATCH_SPEED": "1000"}  # fmt: skip
    shown = []
    for typed in COMMANDS:
        command = typed.partition("#")[0].replace("oxenbatch ", f"{sys.executable} -m oxenbatch ", 1).split()
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        shown.append(f"$ {typed}\n{done.stdout}")
    text = "\n".join(shown).rstrip()
    # What differs from one time to the next: a commit's id, the day, and by some bytes the pictures.
    text = re.sub(r"\b[0-9a-f]{28,32}\b", "c0ffee" + "0" * 26, text)
    text = re.sub(r"\b20\d\d-\d\d-\d\d\b", "2026-11-22", text)
    sizes = iter(("4.8 kB", "14.4 kB"))
    text = re.sub(r"\b\d+\.\d kB", lambda _: next(sizes), text)
    page = PAGE.read_text("utf-8")
    renewed = MARKS.sub(lambda mark: f"{mark[1]}```console\n{text}\n```\n{mark[2]}", page)
    if os.environ.get("OXENBATCH_RENEW"):
        PAGE.write_text(renewed, "utf-8")

    assert PAGE.read_text("utf-8") == renewed
