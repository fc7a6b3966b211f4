"""A heartbeat: a service that watches over cron jobs hears that a run has begun and how it ended.

Not a call to the hub: a client of its own, without the key. The address works like a password, so it is in no message.
"""

from __future__ import annotations

import contextlib
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

import httpx

from oxenbatch import __version__
from oxenbatch.errors import ConfigProblem

Beat = Literal["start", "success", "fail"]
TRIES: Final = 2
TIMEOUT_S: Final = 10.0  # what such services ask their callers to allow
REDIRECTS: Final = 3


def address_of(url: str, beat: Beat) -> str:
    """Where this beat goes, as healthchecks.io and its kin expect it: `/start`, the address itself, `/fail`."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") + ("" if beat == "success" else f"/{beat}")
    return urlunsplit(parts._replace(path=path, fragment=""))


def check_address(url: str) -> str:
    """The address; `ConfigProblem` where it is none, without saying what it is."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url.strip())
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url.strip()
    raise ConfigProblem("the heartbeat's address cannot be used: it begins with https:// and a host's name")


def beat(url: str, what: Beat, *, transport: httpx.BaseTransport | None = None) -> str:
    """The service was told; or why it was not, in words without the address."""
    trouble = ""
    headers = {"User-Agent": f"oxenbatch/{__version__}"}
    with httpx.Client(headers=headers, timeout=TIMEOUT_S, follow_redirects=True, transport=transport) as client:
        client.max_redirects = REDIRECTS
        for _ in range(TRIES):
            try:
                answer = client.get(address_of(url, what))
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
                trouble = type(error).__name__  # its own words would name the address
                continue
            if answer.is_success:
                return ""
            trouble = f"HTTP {answer.status_code}"
    return trouble
