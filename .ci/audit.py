"""Known vulnerabilities of the locked packages: what was looked up, what could not be, and what was found.

Asks with pip-audit, where that is installed (`pip install pip-audit`). A package that could not be looked up is named
and is no failure: it was not audited, and nobody is told that it was. Exit 1 where a vulnerability is known.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parent.parent / "requirements.lock"
PATIENCE_S = 120.0  # seventy look-ups; a registry that takes longer is as good as none


def main() -> int:
    """The exit code, after the words."""
    tool = shutil.which("pip-audit") or shutil.which("pip-audit", path=str(Path(sys.executable).parent))
    if tool is None:
        print("not audited: pip-audit is not installed here")
        return 0
    asked = [tool, "--requirement", str(LOCK), "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        told = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        print("not audited: the registry does not answer such questions")
        return 0
    return report(told)


def report(told: list[dict[str, Any]]) -> int:
    """The exit code of what pip-audit told, after the words."""
    unknown = [one["name"] for one in told if "skip_reason" in one]
    found = [(one, vulnerability) for one in told for vulnerability in one.get("vulns", ())]
    for one, vulnerability in found:
        fixed = ", ".join(vulnerability.get("fix_versions", ())) or "no version"
        print(f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"audited {len(told) - len(unknown)} packages, {len(found)} known vulnerabilities")
    if unknown:
        print(f"not audited, since they could not be looked up: {', '.join(unknown)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
