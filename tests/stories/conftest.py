"""What most stories begin with: a stand-in hub, and somebody's desk before it. A story of another hub has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from desk import Desk

from oxenbatch.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def hub() -> Iterator[Sandbox]:
    with Sandbox(speed=100) as served:
        yield served


@pytest.fixture
def desk(tmp_path: Path, hub: Sandbox) -> Desk:
    return Desk(tmp_path, hub)
