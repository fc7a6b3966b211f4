"""oxenbatch: a manifest of prompts becomes files on disk, through the Oxen.ai hub's queue.

The public API is what `__all__` names; everything is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from oxenbatch.batch import run
    from oxenbatch.errors import OxenbatchError
    from oxenbatch.hub import Hub
    from oxenbatch.jobs import JobState
    from oxenbatch.ledger import Ledger
    from oxenbatch.manifest import load_manifest
    from oxenbatch.plan import Limits
    from oxenbatch.sandbox import Sandbox

__version__ = "0.1.0"
__all__ = ["Hub", "JobState", "Ledger", "Limits", "OxenbatchError", "Sandbox", "load_manifest", "run"]

_HOMES: Final = {
    "Hub": "hub",
    "JobState": "jobs",
    "Ledger": "ledger",
    "Limits": "plan",
    "OxenbatchError": "errors",
    "Sandbox": "sandbox",
    "load_manifest": "manifest",
    "run": "batch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'oxenbatch' has no attribute {name!r}")
    return getattr(importlib.import_module(f"oxenbatch.{_HOMES[name]}"), name)
