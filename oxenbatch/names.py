"""The names of files: safe on every system, distinct, readable, and inside their folder.

Rules of residence: what a manifest or the hub says becomes a name only here. Text that is a good name already stays
as it is; other text gets a tag, eight hexadecimal characters of its own hash, so that what was distinct stays
distinct. Two good names may still be one file where case is ignored: `collision_key` says so, and whoever gives
names out keeps it unique.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from oxenbatch.jobs import request_hash, short_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEM_BYTES: Final = (
    120  # of UTF-8: with "-10000.webp.part" half of the 255 that file systems allow; HFS+ may need twice
)
ROOT_RESULTS: Final = 10_000  # more results than this are spread over sub-folders of as many
SLUG_CHARACTERS: Final = 60  # some ten words: enough to know a prompt by in a listing

_TAG_BYTES: Final = 9  # "-" and eight hexadecimal characters
_UNSAFE: Final = frozenset('/\\:*?"<>|')  # separators, and what Windows refuses
_NEVER: Final = frozenset("\\:")  # in no stored name: they separate folders and drives on Windows
_UNSAFE_CATEGORIES: Final = ("Cc", "Cs", "Co", "Cn", "Zl", "Zp")  # controls, surrogates, private, unassigned, line ends
_INVISIBLE: Final = (
    re.compile(  # besides category Cf (zero widths, bidi overrides): letters and marks that show nothing
        "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
    )
)
_ASCII_WORD: Final = re.compile("[a-z0-9]+")
_DOS: Final = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin\$|conout\$|clock\$) *(\.|$)", re.IGNORECASE)
_OURS: Final = ("metadata.jsonl", "ledger.db", "run.lock")  # and what begins like them: `ledger.db-wal`
_LIKE_TAGGED: Final = re.compile(r"(^|-)(?![0-9]{8}$)[0-9a-f]{8}$", re.IGNORECASE)  # digits alone are somebody's date
# Hugging Face's folders take a file whose name has one of these words, between hyphens or digits, for a part of that
# split, and then leave out all files that have none: `a-train-at-dawn` would be all of `train`. So it is `a-trains-…`.
_SPLIT: Final = re.compile(r"(?<![a-z])(train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?![a-z])")
_IN_SPLITS: Final = ("train", "val", "dev", "test")  # one of them is in each of these words: found ten times as fast


def slug(text: str, limit: int = SLUG_CHARACTERS) -> str:
    """Its words in lower case, joined by `-`, at most `limit` characters: whole words, or a part of the first.

    Empty where the text has no words near its beginning.
    """
    read = text[: 8 * limit]  # words further on would not fit anyway
    if read.isascii():
        return _joined(_ASCII_WORD.findall(_no_split(read.lower().replace("'", ""))), limit)
    lowered = re.sub("['’]", "", _nfc(_nfc(read).lower()))  # "a dog's life" is three words
    words = "".join(c if _is_of_a_word(c) else " " for c in "".join(map(_shown, lowered))).split()
    # A mark without its letter would settle on the hyphen before it.
    return _nfc(_joined([_no_split(word) for word in words if unicodedata.category(word[0])[0] != "M"], limit))


def _no_split(text: str) -> str:
    """The text, with those of its words in the plural that would name a split."""
    return _SPLIT.sub(r"\1s", text) if any(map(text.__contains__, _IN_SPLITS)) else text


def _joined(words: list[str], limit: int) -> str:
    result = "-".join(words)
    if len(result) <= limit:
        return result
    result = ""
    for word in words:
        if result and len(result) + 1 + len(word) > limit:
            break
        result = f"{result}-{word}" if result else word[:limit]
    return result


def safe_stem(text: str, limit: int = STEM_BYTES) -> str:
    """A file name without extension, at most `limit` bytes of UTF-8, safe on every system, and not one of ours.

    Text that is one already comes back as it is; all other text differs from every other by its tag.
    """
    read = text[: 8 * limit]  # so much of a text of any length is looked at for a name; the tag is of all of it
    stem = _nfc("".join(map(_shown, _nfc(read)))).lstrip("-.~ ").rstrip(". ")
    # Superscript digits count as digits for Windows, and wide letters for some programs: so NFKC.
    if _DOS.match(unicodedata.normalize("NFKC", stem)) or stem.casefold().startswith(_OURS):
        stem = f"_{stem}"
    whole = stem == text and len(stem.encode()) <= limit
    if stem and whole and not stem.casefold().endswith(".part") and not _LIKE_TAGGED.search(stem):
        return stem
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    # Eight characters that are not all digits: an untagged name never ends like this.
    tag = next((digest[i : i + 8] for i in range(56) if not digest[i : i + 8].isdigit()), digest[:8])
    stem = _cut(stem, limit - _TAG_BYTES)
    return f"{stem}-{tag}" if stem else tag


def stem_for(row_id: str | None, prompt: str, key: str) -> str:
    """The stem of a row's files: its id, else the prompt's words and its key, as `a-red-cube-3f9c2a1b`."""
    if row_id is not None:
        return safe_stem(row_id)
    words = _cut(slug(prompt), STEM_BYTES - _TAG_BYTES)
    return f"{words}-{short_key(key)}" if words else short_key(key)


def collision_key(name: str) -> str:
    """Equal for all names that some file system takes for one file; sometimes for more, which costs only a suffix.

    APFS, HFS+ and ext4's casefold compare decomposed and case-folded, NTFS by an upper-case table, and HFS+ and ext4
    skip characters that show nothing: so all of these are folded away. NFKC is not: no usual system takes `²` for `2`.
    """
    if name.isascii():
        return name.lower()
    seen = "".join(c for c in name if not _is_invisible(c))
    # By way of upper case, since only there `ı` meets `i`; decomposed, or folding would misplace a Greek iota.
    return _nfc(_nfd(seen).casefold().upper().casefold())


def marks(key: str, number: int) -> Iterator[str]:
    """What is put behind a name, until no other sample has it: nothing, a part of the sample's own hash, a number."""
    yield ""
    digest = request_hash(f"{key}/{number}", {})[3:]
    yield from (f"-{digest[n : n + 8]}" for n in range(8))
    yield from (f"-{n}" for n in itertools.count(2))


def sub_folder(place: int) -> str:
    """Where the result of that place (from 0) lies: each 10,000 after the first in a folder of their own, `0001/`.

    Names are distinct over all of them.
    """
    return f"{place // ROOT_RESULTS:04d}/" if place >= ROOT_RESULTS else ""


def parts_of(name: str) -> list[str]:
    """The folders and the file of a stored name (`x.png`, `0001/x.png`); `ValueError` where it climbs."""
    parts = name.split("/")
    plain = name.isascii() and name.isprintable()  # as nearly all are, and then there are no controls to look for
    if (
        not {"", ".", ".."}.isdisjoint(parts)
        or not _NEVER.isdisjoint(name)
        or not (plain or all(unicodedata.category(c) not in ("Cc", "Cs") for c in name))
    ):
        raise ValueError(f"{name[:200]!r} is not a name inside the folder")
    return parts


def inside(root: Path, name: str) -> Path:
    """The path of a stored name (`x.png`, `0001/x.png`) in the folder; `ValueError` if it is, or leads, elsewhere."""
    parts = parts_of(name)
    path = root.joinpath(*parts)
    try:
        if not any(root.joinpath(*parts[:depth]).is_symlink() for depth in range(1, len(parts) + 1)):
            return path  # nothing on its way leads elsewhere; to follow the whole path asks the disk ten times more
        leads_to = path.resolve()
        home = root.resolve()
    except (OSError, RuntimeError):  # links in a circle; which of the two depends on Python's version
        raise ValueError(f"{name[:200]!r} cannot be followed inside the folder") from None
    if home not in leads_to.parents:
        raise ValueError(f"{name[:200]!r} leads out of the folder, through a link")
    return path


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def _is_invisible(char: str) -> bool:
    return unicodedata.category(char) == "Cf" or _INVISIBLE.match(char) is not None


def _is_of_a_word(char: str) -> bool:
    """Letters, digits, and the marks on them, without which Hindi or Thai would fall apart."""
    return unicodedata.category(char)[0] in "LMN"


@lru_cache(maxsize=1 << 12)  # a batch's alphabet: names are made a million at a time
def _shown(char: str) -> str:
    """The character, `-` for one that may mean something to a file system, nothing for one that cannot be seen."""
    if _is_invisible(char):
        return ""
    # Windows' narrow functions turn look-alikes into what they look like: `／` into `/`, `…` into `...`.
    plain = unicodedata.normalize("NFKC", char)
    unsafe = _UNSAFE.intersection(plain) or (plain != char and not {".", " "}.isdisjoint(plain))
    return "-" if unsafe or unicodedata.category(char) in _UNSAFE_CATEGORIES else char


def _cut(text: str, limit: int) -> str:
    """As many whole characters as fit `limit` bytes, ending in none that a name may not end in."""
    return text.encode()[:limit].decode(errors="ignore").rstrip("-. ")
