"""Tests that need oxenai, in an environment of their own (`make test-oxen`); what they share lies in `tests`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
