"""The pictures in the pages: a report of a batch that the stand-in hub makes now, as Chromium shows it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
OXENBATCH = Path(sys.executable).with_name("oxenbatch")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MANIFEST = """
name: ocean-loops
variables:
  place: [reef, shore, harbour, lagoon, lighthouse]
  light: [dawn, noon, dusk, night]
prompts:
  - {id: film, prompt: "A film of the {place} at {light}, the camera gliding low over the water", duration: 5,
     model: kling-video-v2-6-pro-text-to-video, metadata: {split: test}}
  - {id: still, prompt: "The {place} at {light}, seen from above, slow waves rolling in", model: nano-banana-2,
     aspect_ratio: "16:9", metadata: {split: train}}
  - {id: long, prompt: "[wrong size] A long wave", model: kling-video-v2-6-pro-text-to-video, duration: 10}
  - {id: fog, prompt: "[blank] Fog over the {place}", model: nano-banana-2, metadata: {split: train}}
  - {id: wreck, prompt: "[fail] A wreck on the {place}", model: nano-banana-2, metadata: {split: train}}
"""


def main() -> None:
    """`docs/images` shows the report as it is now."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        (folder / "ocean-loops.yaml").write_text(MANIFEST)
        environ = {"HOME": name, "OXENBATCH_SPEED": "100", "PATH": ""}
        for typed in ("run ocean-loops.yaml --sandbox", "report ocean-loops.yaml -o out/ocean-loops/report.html"):
            subprocess.run([OXENBATCH, *typed.split()], cwd=folder, env=environ, check=False)  # noqa: S603 - typed above
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1200, "height": 1150}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto((folder / "out/ocean-loops/report.html").as_uri())
            page.wait_for_timeout(1500)  # the videos' first frames
            page.screenshot(path=IMAGES / f"report-{scheme}.png")
        browser.close()


if __name__ == "__main__":
    main()
