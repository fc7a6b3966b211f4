"""Tells people that a run has ended, or that something is held: mail, Slack and a hundred others, through apprise.

An address holds a password or a token: none is ever in a message, a log or the ledger.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from oxenbatch.errors import ConfigProblem, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)


class Notices:
    """The people who want to know, by their addresses."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """`ConfigProblem` where apprise is missing or an address cannot be used."""
        try:
            with warnings.catch_warnings(action="ignore"):  # its own use of old modules is nobody's concern here
                import apprise  # noqa: PLC0415 - an extra, and half a second
        except ImportError:
            raise ConfigProblem("--notify needs apprise: pip install 'oxenbatch[notify]'") from None
        own = logging.getLogger("apprise")  # it says addresses where something goes wrong
        own.propagate = False
        own.setLevel(logging.CRITICAL + 1)
        self._apprise: Any = apprise.Apprise()
        for number, address in enumerate(addresses, 1):
            with warnings.catch_warnings(action="ignore"):
                usable = self._apprise.add(address)
            if not usable:
                kind = printable(address.partition("://")[0], 12) if "://" in address else "no kind"
                raise ConfigProblem(
                    f"address {number} of --notify cannot be used ({kind}): it looks like mailto://… or slack://…, see"
                    " https://github.com/caronc/apprise"
                )

    def send(self, title: str, body: str) -> None:
        """They have been told; where that fails, the log says so, and nothing else happens."""
        try:
            told = bool(self._apprise.notify(title=title, body=body))
        except Exception:  # noqa: BLE001 - a hundred services' code, and none may end a run
            told = False
        if not told:
            log.warning("a notice could not be sent: check the addresses of --notify")
