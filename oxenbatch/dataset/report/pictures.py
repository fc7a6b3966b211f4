"""Pictures inside the page: thumbnails, or the files themselves."""

from __future__ import annotations

import base64
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Final

from oxenbatch.errors import MachineError, UsageProblem, printable

if TYPE_CHECKING:
    from pathlib import Path

    from oxenbatch.dataset.report.cards import Cards

SIDE: Final = 360  # pixels: a card is up to 300 wide, and screens have more than one pixel for each
QUALITY: Final = 72  # of WebP: some 10 KB a thumbnail, and nothing to be seen
PIXELS_MAX: Final = 100_000_000  # decoded 400 MB; what is larger is linked


def embed_thumbnails(cards: Cards, *, must: bool) -> None:
    """Each image that can be read has its thumbnail in its card."""
    try:
        import PIL.Image  # noqa: F401, PLC0415 - is it there?
    except ImportError:
        if must:
            raise UsageProblem("thumbnails need Pillow: pip install 'oxenbatch[report]'") from None
        return
    places = [n for n, card in enumerate(cards.shown) if card["kind"] == "image" and card["file"]]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # Pillow lets go of Python's lock while it works
        for place, made in zip(places, pool.map(_thumbnail, [cards.paths[n] for n in places]), strict=True):
            if made:
                cards.shown[place]["thumb"] = base64.b64encode(made).decode()


def _thumbnail(path: Path | None) -> bytes | None:
    """A small WebP; None where the file cannot be shown."""
    from PIL import Image  # noqa: PLC0415

    if path is None:
        return None
    try:
        with Image.open(path) as image:
            if image.width * image.height > PIXELS_MAX:
                return None
            image.draft("RGB", (SIDE, SIDE))
            small = image.convert("RGBA" if "A" in image.getbands() or "transparency" in image.info else "RGB")
        small.thumbnail((SIDE, SIDE), reducing_gap=2.0)
        out = BytesIO()
        small.save(out, "WEBP", quality=QUALITY, method=2)  # 2 of 6: half the time, a few bytes more
        return out.getvalue()
    except Exception:  # noqa: BLE001 - a stranger's bytes: whatever it raises, this one is linked
        return None


def embed_files(cards: Cards) -> None:
    """Every file is in the page; `MachineError` where one cannot be read."""
    for place, path in enumerate(cards.paths):
        if path is None:
            continue
        try:
            cards.blobs[place] = base64.b64encode(path.read_bytes()).decode()
        except OSError as error:
            words = f"cannot read {printable(path)}: {error.strerror}; `oxenbatch verify --repair` fetches it again"
            raise MachineError(words) from error
        cards.shown[place]["file"] = None
        cards.shown[place]["blob"] = True
