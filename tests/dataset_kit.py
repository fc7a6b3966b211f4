"""What the tests of the dataset share: batches with real files, as a run leaves them, without a run."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING, Any

from ledgers import Book
from PIL import Image

from oxenbatch.ledger.book import Ledger
from oxenbatch.ledger.news import Kept, keep
from oxenbatch.media import inspect
from oxenbatch.media.blank import is_blank
from oxenbatch.sandbox.clips import clip

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from oxenbatch.jobs import Row


def png(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A picture of two colours, its own for each number."""
    image = Image.new("RGB", size, (number % 256, number // 256 % 256, 40))
    image.paste((255, 255, 255), (0, 0, size[0] // 2, size[1] // 2))
    return _saved(image)


def one_colour(colour: tuple[int, ...] = (9, 9, 9), mode: str = "RGB") -> bytes:
    return _saved(Image.new(mode, (64, 48), colour))


def mp4(number: int, seconds: float = 5.0, *, audio: bool = False) -> bytes:
    """A real video, its bytes its own for each number."""
    return clip(seconds, (1280, 720), audio=audio) + (16).to_bytes(4) + b"free" + number.to_bytes(8)


def _saved(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class Made:
    """A batch in a folder, whose results are these bytes; one that is None failed."""

    def __init__(self, folder: Path, rows: Sequence[Row], files: Sequence[bytes | None], **more: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.book = Book(folder / "ledger.db")
        self.book.stage(*rows)
        ids = []
        for content in files:
            (generation_id,) = self.book.accept()
            ids.append(generation_id)
            status = "failed" if content is None else "succeeded"
            error = "the prompt was rejected by the content policy" if content is None else None
            self.book.hear(
                generation_id, status, cost=None if content is None else Decimal("0.04"), error=error, **more
            )
            if content is not None:
                self.keep(generation_id, content)
        self.ids = ids
        self.book.close()

    def keep(self, generation_id: str, content: bytes) -> None:
        fetch = self.book.fetch(generation_id)
        path = self.folder / f"{fetch.name}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        media = inspect(path)
        name = f"{fetch.name}.{media.extension}"
        path.rename(self.folder / name)
        kept = Kept(name, hashlib.sha256(content).hexdigest(), len(content), f"{media.kind}/{media.extension}",
                    media.width, media.height, media.seconds, media.fps, media.audio,
                    is_blank(self.folder / name, media, len(content)))  # fmt: skip
        keep(self.book.ledger, [(fetch, kept)], at=self.book.tick())


_ID = "printf('%08x-0000-4000-8000-000000000000', i)"
_CHANGED = {
    "jobs": {"id": "i + 1000", "key": "'id:x' || i", "row_id": "'x' || i", "prompt": "'prompt ' || i",
             "position": "i + 1000"},
    "samples": {"id": "i + 1000", "job_id": "i + 1000", "generation_id": _ID, "name": "'x' || i",
                "name_key": "'x' || i"},
    "generations": {"generation_id": _ID, "sample_id": "i + 1000", "sha256": "printf('%064x', i)"},
}  # fmt: skip


def multiply(folder: Path, count: int) -> None:
    """So many results more, as a run would have left them, all with the first one's file: no moves, no downloads."""
    with Ledger.open(folder / "ledger.db") as ledger:
        conn = ledger.conn
        conn.execute("pragma foreign_keys = off")  # the two tables name each other, and are filled one after the other
        with ledger.immediate():
            numbers = f"with recursive n (i) as (values (1) union all select i + 1 from n limit {count})"
            for table, changed in _CHANGED.items():
                names = [row[1] for row in conn.execute(f"pragma table_info({table})")]
                chosen = ", ".join(changed.get(name, f"t.{name}") for name in names)
                conn.execute(f"insert into {table} {numbers} select {chosen} from n, (select * from {table} limit 1) t")
