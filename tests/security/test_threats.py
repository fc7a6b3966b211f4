"""The table of threats is true: each row leads to tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/threats.md").read_text(encoding="utf-8").partition("## Bounds")[0]
ROWS = re.findall(r"^\| (?!threat|---)(.+?) \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_each_threat_leads_to_tests_that_are_there(row: tuple[str, str, str]) -> None:
    links = re.findall(r"\[([^\]]+)\]\(\.\./(tests/security/\w+\.py)\)", row[2])

    assert links
    for sentence, file in links:
        assert f"def test_{sentence.replace(' ', '_')}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_topic_has_a_threat() -> None:
    topics = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {Path(__file__).name}

    assert topics == {file.rpartition("/")[2] for row in ROWS for file in re.findall(r"\((.*?)\)", row[2])}
