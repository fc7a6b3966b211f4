"""The ids that rows have, and whether one was used before."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from oxenbatch.catalog.faults import shown
from oxenbatch.manifest import templates

LONGEST_ID: Final = 200  # characters: it is the readable part of a file's name, which has 255 bytes on most systems

CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What no id and no name may hold: control characters, line ends, half characters."""

_BUCKETS: Final = 2**14
_MARK: Final = 8  # bytes of a hash that are kept
_ENTRY: Final = _MARK + 4  # and the number of the row


class Ids:
    """Every id of a manifest, in about fifteen bytes each.

    A million ids as text would be a hundred megabytes. Kept is a 64-bit hash of each with its row's number: that two
    different ids of a million meet in one is as likely as three in a hundred million, and would only refuse a
    manifest that was right. The ledger's unique key is the last word.
    """

    def __init__(self) -> None:
        self._buckets: list[bytearray | None] = [None] * _BUCKETS

    def add(self, text: str, row: int) -> int:
        """The id is known; the row that had it before, or 0."""
        hashed = hash(text)  # of this process only, which is as long as it is needed
        mark = hashed.to_bytes(_MARK, "little", signed=True)
        bucket = self._buckets[hashed % _BUCKETS]
        if bucket is None:
            bucket = self._buckets[hashed % _BUCKETS] = bytearray()
        place = bucket.find(mark)
        while place >= 0:
            if place % _ENTRY == 0:
                return int.from_bytes(bucket[place + _MARK : place + _ENTRY], "little")
            place = bucket.find(mark, place + 1)
        bucket += mark + row.to_bytes(_ENTRY - _MARK, "little")
        return 0


def id_fault(text: str) -> str | None:
    """Why this cannot be an id, if it cannot."""
    if not text.strip():
        return "is empty, expected text"
    if len(text) > LONGEST_ID:
        return f"{shown(text)} has {len(text)} characters, expected at most {LONGEST_ID}"
    if CONTROL.search(text):
        return f"{shown(text)} has control characters, expected none"
    return None


def label(value: Any) -> str:
    """A value as a part of an id: itself where it is short and plain, else a readable part and a hash of all of it.

    It depends on the value alone, so that a longer axis changes no id that exists.
    """
    text = templates.text_of(value) or "none"
    if len(text) <= 40 and text.isprintable():
        return re.sub(r"\s+", "_", text)
    readable = re.sub(r"[^\w.-]+", "_", text)[:24]
    return f"{readable}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
