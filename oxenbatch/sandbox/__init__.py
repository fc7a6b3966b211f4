"""The stand-in hub: Oxen.ai's queue on loopback, with real HTTP, real files, its own speed, and faults on request.

`Sandbox` runs one in its own process; `HubState` is one in this process, driven by any clock. Imports nothing else of
oxenbatch, so that it catches a mistake in `wire` instead of sharing it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .faults import Faults as Faults
    from .messages import Answer as Answer
    from .messages import Request as Request
    from .process import Sandbox as Sandbox
    from .process import SandboxUnavailable as SandboxUnavailable
    from .state import HubState as HubState

_HOMES: Final = {
    "Answer": "messages",
    "Faults": "faults",
    "HubState": "state",
    "Request": "messages",
    "Sandbox": "process",
    "SandboxUnavailable": "process",
}

__all__ = ["Answer", "Faults", "HubState", "Request", "Sandbox", "SandboxUnavailable"]


def __getattr__(name: str) -> Any:
    """The name's object, imported when it is first asked for: `run` without `--sandbox` pays nothing."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
