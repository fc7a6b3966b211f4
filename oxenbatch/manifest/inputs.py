"""Files of this machine that rows send along: found, looked at and named by their bytes, while the manifest is read.

A row's parameter holds a reference made of the bytes alone, so that the same path with other bytes is a changed row,
and the same bytes under another name are the same row. A million rows with one image read it once.
"""

from __future__ import annotations

import hashlib
import re
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from oxenbatch.catalog.faults import shown
from oxenbatch.errors import printable
from oxenbatch.jobs import InputFile
from oxenbatch.media import VIDEOS, Damaged, inspect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LARGEST: Final = 512 * 2**20  # bytes: twice any clip that a model is known to take; past it, it is another file
REMEMBERED: Final = 10_000  # files at once: rows that share one mostly stand together, and memory stays flat
SETTLED_S: Final = 2.0  # a file changed so lately may change again within the same tick of its clock
DEEPEST: Final = 4  # levels of lists and mappings in a schema that are looked through for media

_ADDRESS: Final = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)
_PATH: Final = re.compile(
    r"[/\\]|\.(?:png|jpe?g|gif|webp|bmp|tiff?|avif|heic|mp4|m4v|mov|webm|wav|mp3|flac|ogg|opus|m4a|aac)\Z",
    re.IGNORECASE,
)  # fmt: skip
"""What can only be meant as a file of this machine."""
_ALWAYS: Final = re.compile(r"input_(image|video|audio|media|mask|frame)s?(_ur[il]s?)?|(image|video)_ur[il]s?")
_OFTEN: Final = re.compile(r"(?:.*_)?(image|video|audio|mask|frame)s?(_ur[il]s?)?")
_RENDERED: Final = re.compile(r"image|video|audio|media|file|upload|mask", re.IGNORECASE)
_FORMATS: Final = frozenset(["uri", "url", "uri-reference", "iri", "data-url", "binary", "byte"])
_KINDS: Final = {"image": "image", "mask": "image", "frame": "image", "video": "video", "audio": "audio"}


@dataclass(frozen=True, slots=True)
class Marks:
    """Where in a parameter files may stand."""

    kind: str | None = None
    """What the value itself, or each entry of a list, is: `image`, `video`, `audio`, or `media` where that is not
    said."""
    inside: dict[str, Marks] = field(default_factory=dict)
    """What its members are, where it is a mapping or a list of them."""


def marks(name: str, schema: dict[str, Any], depth: int = 0) -> Marks | None:
    """Where in this parameter files may stand, by its schema and its name; None where nowhere.

    Catalogues mark media in many ways: a `renderType`, a `format`, a `contentMediaType`, or the name alone.
    """
    if depth > DEEPEST:
        return None
    parts = _parts(schema)
    types = {t for part in parts for t in _types(part)}
    inside: dict[str, Marks] = {}
    for part in parts:
        listed = part.get("properties")
        for inner, its in listed.items() if isinstance(listed, dict) else ():
            found = marks(str(inner), its if isinstance(its, dict) else {}, depth + 1)
            if found is not None:
                inside[str(inner)] = found
    if (types and not types & {"string", "array"}) or any("enum" in part for part in parts):
        return Marks(None, inside) if inside else None
    kind = _kind(name, parts, has_text="string" in types or not types)
    return Marks(kind, inside) if kind or inside else None


def _parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schema, its variants, and the entries of its lists."""
    parts = [schema]
    for part in parts:
        if len(parts) > 50:  # a schema that goes on for ever is no schema of a parameter
            break
        several = [part.get("items"), *(v for word in ("anyOf", "oneOf", "allOf") for v in _list(part.get(word)))]
        parts += [one for one in several if isinstance(one, dict)]
    return parts


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _types(schema: dict[str, Any]) -> list[str]:
    said = schema.get("type")
    return [said] if isinstance(said, str) else [t for t in _list(said) if isinstance(t, str)]


def _kind(name: str, parts: list[dict[str, Any]], *, has_text: bool) -> str | None:
    rendered = [str(part.get("renderType") or "") for part in parts]
    kinds = [str(part.get("contentMediaType") or "") for part in parts]
    named = _ALWAYS.fullmatch(name.casefold())
    said = next((word for word in (*rendered, *kinds) if _RENDERED.search(word)), None)
    if named is None and said is None and has_text and not any(rendered):
        named = _OFTEN.fullmatch(name.casefold())
    if named is None and said is None and not any(part.get("format") in _FORMATS for part in parts):
        return None
    for text in (said or "", name.casefold()):
        found = {kind for word, kind in _KINDS.items() if word in text.casefold()}
        if found:
            return found.pop() if len(found) == 1 else "media"
    return "media"


class InputFault(ValueError):
    """The value names no file that could be sent along; the message says why, and what would be right."""


class InputFiles:
    """The files that one reading of a manifest finds under `root`."""

    def __init__(
        self, root: Path, known: Callable[[str], InputFile | None] = lambda _: None, *, is_placed: bool = True
    ) -> None:
        self.root = root
        self._known = known
        """What an earlier reading found at a path."""
        self._is_placed = is_placed
        """The manifest says where at the hub they are kept."""
        self._home: Path | None = None
        self._folders: dict[Path, Path] = {}
        self._found: dict[str, InputFile | InputFault] = {}

    def replaced(self, value: Any, where: Marks, found: list[InputFile]) -> Any:
        """The value with a reference for each file that it names; those are added to `found`. `InputFault`."""
        if isinstance(value, str):
            if where.kind is None or not value or _ADDRESS.match(value):
                return value
            if not self._is_placed and not _PATH.search(value):
                return value  # a word that the hub may know a file by
            if where.kind == "audio":
                return _no_sound(value)
            file = self._at(value)
            kind = "video" if file.extension in VIDEOS else "image"
            if where.kind in ("image", "video") and kind != where.kind:
                what = f"{_a(kind)} by its bytes ({file.extension})"
                raise InputFault(f"{shown(value)} is {what}, expected {_a(where.kind)}")
            found.append(file)
            return file.reference
        if isinstance(value, list):
            return [self.replaced(inner, where, found) for inner in value]
        if isinstance(value, dict):
            return {
                name: self.replaced(inner, where.inside[name], found) if name in where.inside else inner
                for name, inner in value.items()
            }
        return value

    def _at(self, name: str) -> InputFile:
        kept = self._found.get(name)
        if kept is None:
            try:
                kept = self._look(name)
            except InputFault as fault:
                kept = fault
            if len(self._found) >= REMEMBERED:
                self._found.pop(next(iter(self._found)))
            self._found[name] = kept
        if isinstance(kept, InputFault):
            raise InputFault(*kept.args)
        return kept

    def _look(self, name: str) -> InputFile:
        if not self._is_placed:
            raise InputFault(
                f"{shown(name)} is no address, so it would be a file of this machine; the manifest does not say where"
                " the hub is to keep such files: add 'inputs: {namespace: …, repo: …}' at its top"
            )
        path, size = self._path(name)
        if not size:
            raise InputFault(f"{shown(name)} is empty")
        if size > LARGEST:
            raise InputFault(f"{shown(name)} has {size:,} bytes, expected at most {LARGEST:,}")
        try:
            mark = mark_of(path)
            before = self._known(name)
            if before is not None and before.mark == mark:
                return before
            media = inspect(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if mark_of(path) != mark:
                raise InputFault(f"{shown(name)} was changed while it was being read; run it again")
        except Damaged as damage:
            raise InputFault(f"{shown(name)} cannot be sent: {damage}") from None
        except OSError as error:
            raise InputFault(f"{shown(name)} cannot be read: {error.strerror or error}") from None
        if time.time() - mark[1] / 1e9 < SETTLED_S:
            mark = (mark[0], 0, mark[2])  # looked at again by the next run
        return InputFile(digest, media.extension, mark[0], name, mark)

    def _path(self, name: str) -> tuple[Path, int]:
        """Where the file really is, inside the root, and its size."""
        if "\x00" in name or len(name) > 4096:
            raise InputFault(f"{shown(name)} is no address and no name of a file")
        try:
            home = self._root()
            path = self._resolved(home / name)
            found = path.stat()
        except FileNotFoundError:
            raise InputFault(
                f"{shown(name)} does not exist in {printable(self.root.resolve())}; write an address"
                " (https://…) or the name of a file there"
            ) from None
        except (OSError, RuntimeError, ValueError) as error:  # ValueError: characters that no file's name can hold
            reason = getattr(error, "strerror", None) or "its name, or a link, leads nowhere"
            raise InputFault(f"{shown(name)} cannot be read: {reason}") from None
        if home not in path.parents:
            raise InputFault(
                f"{shown(name)} lies, or leads through a link, outside of {printable(home)};"
                " say with 'inputs: {root: …}' at the top in which folder the files are"
            )
        if not stat.S_ISREG(found.st_mode):
            raise InputFault(f"{shown(name)} is {'a folder' if stat.S_ISDIR(found.st_mode) else 'no plain file'}")
        return path, found.st_size

    def _resolved(self, path: Path) -> Path:
        """Where the path really leads; folders are followed once, since a million files lie in few of them."""
        folder = self._folders.get(path.parent)
        if folder is None:
            if len(self._folders) >= REMEMBERED:
                self._folders.clear()
            folder = self._folders[path.parent] = path.parent.resolve(strict=True)
        found = folder / path.name
        return found.resolve(strict=True) if path.name in ("", "..") or found.is_symlink() else found

    def _root(self) -> Path:
        if self._home is None:
            self._home = self.root.resolve()
        return self._home


def _no_sound(value: str) -> str:
    """The value, where it is a word for the hub; `InputFault` where it is a file.

    The hub's documents name no parameter and no format of sound, so there is nothing to hold a file against.
    """
    if not _PATH.search(value):
        return value
    raise InputFault(
        f"{shown(value)} would be sound, which is not stored from this machine: store it yourself, and write its"
        " address (https://…)"
    )


def _a(kind: str) -> str:
    return "an image" if kind == "image" else "a video"


def mark_of(path: Path) -> tuple[int, int, int]:
    """What changes when the file does; OSError where there is none."""
    found = path.stat()
    return (found.st_size, found.st_mtime_ns, found.st_ino)


def is_changed(root: Path, path: str, mark: tuple[int, int, int]) -> bool:
    """Whether the file is gone, or is another one than it was when it had this mark."""
    try:
        return mark_of(root / path) != mark
    except OSError:
        return True
