"""What can go wrong at the door, in our words: no foreign exception gets past it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from oxenbatch.errors import OxenbatchError, printable

if TYPE_CHECKING:
    from oxenbatch.words import Cause

WORDS_MAX: Final = 500  # characters of what the hub says of its trouble: enough to act on


class HubTrouble(OxenbatchError):
    """A reading call did not get a usable answer; reading costs nothing, so it is simply asked again later."""

    exit_code = 69

    def __init__(self, words: str, *, cause: Cause | None = None, wait_s: float | None = None) -> None:
        super().__init__(printable(words, WORDS_MAX))
        self.cause = cause
        self.wait_s = wait_s


class NotFound(HubTrouble):
    """The hub does not know what was asked for."""


class TooLargeToStore(HubTrouble):
    """The hub does not take a file of this size."""


class TooMuch(HubTrouble):
    """The answer is larger than any that is read; asked for in parts, it may be had."""


class AddressExpired(OxenbatchError):
    """The address no longer leads to the file; a fresh one may."""


class FileTrouble(OxenbatchError):
    """The file's bytes could not be had this time."""


def why(error: Exception) -> str:
    """The kind of the error and its words, without the address (which may be signed)."""
    words = str(error)
    kind = type(error).__name__
    return printable(f"{kind}: {words}" if words and "://" not in words else kind, 200)
