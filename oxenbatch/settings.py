"""Whose key, which hub: the user's settings, from the environment and from the file that `oxen config` writes."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from oxenbatch.errors import ConfigProblem, KeyRefused, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_VARIABLE: Final = "OXEN_API_KEY"
CONFIG_FILE: Final = "auth_config.toml"


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the Oxen tools keep their settings: `OXEN_CONFIG_DIR`, else `~/.config/oxen`."""
    chosen = environ.get("OXEN_CONFIG_DIR")
    return Path(chosen).expanduser() if chosen else Path.home() / ".config" / "oxen"


def find_key(hub: str, environ: Mapping[str, str] = os.environ) -> str:
    """The key for this hub: the environment's, else the one that `auth_config.toml` has for its host.

    `KeyRefused` where there is none, `ConfigProblem` where the file cannot be used.
    """
    if key := environ.get(KEY_VARIABLE, "").strip():
        return key
    path = config_folder(environ) / CONFIG_FILE
    host = _bare(hub) or ""
    if found := _key_in(path, host):
        return found
    raise KeyRefused(
        f"no key for {printable(host)}: set {KEY_VARIABLE}, or run `oxen config --auth {printable(host)} KEY` (it"
        f" writes {printable(path)}); to try everything without a key, and without paying, add --sandbox"
    )


def has_own_key(hub: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user's settings hold a key for this very hub, and none is in the environment to be taken instead."""
    path = config_folder(environ) / CONFIG_FILE
    return not environ.get(KEY_VARIABLE, "").strip() and _key_in(path, _bare(hub) or "") is not None


def _key_in(path: Path, host: str) -> str | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = tomllib.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigProblem(f"{printable(path)} cannot be read: {error}") from error
    hosts = content.get("host_configs")
    found: str | None = None
    for entry in hosts if isinstance(hosts, list) else []:
        if isinstance(entry, dict) and _bare(entry.get("host")) == host and isinstance(entry.get("auth_token"), str):
            found = entry["auth_token"].strip() or found
    if found and mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ConfigProblem(f"others on this machine can read the key in {printable(path)}: run `chmod 600 {path}`")
    return found


def _bare(host: object) -> str | None:
    """`hub.oxen.ai` of a host as people write it: with or without its scheme, its usual port, a slash, capitals."""
    if not isinstance(host, str):
        return None
    try:
        parts = urlsplit(host.strip() if "://" in host else f"https://{host.strip()}")
        usual = parts.port is None or (parts.scheme, parts.port) in {("https", 443), ("http", 80)}
        return (parts.hostname or "") + ("" if usual else f":{parts.port}") or None
    except ValueError:
        return None
