"""oxenbatch: a manifest of prompts becomes files on disk, through the Oxen.ai hub's queue."""

from __future__ import annotations

__version__ = "0.1.0"
