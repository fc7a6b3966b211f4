"""Whose key, which hub: the user's settings, from the environment and from the file that `oxen config` writes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from platformdirs import user_config_path

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
    return key_and_place(hub, environ)[0]


def key_and_place(hub: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """The key for this hub, and where it was found; raises as `find_key` does."""
    if key := environ.get(KEY_VARIABLE, "").strip():
        return key, KEY_VARIABLE
    path = config_folder(environ) / CONFIG_FILE
    host = _bare(hub) or ""
    if found := _key_in(path, host):
        return found, str(path)
    raise KeyRefused(
        f"no key for {printable(host)}: set {KEY_VARIABLE}, or run `oxen config --auth {printable(host)} KEY` (it"
        f" writes {printable(path)}); to try everything without a key, and without paying, add --sandbox"
    )


def has_own_key(hub: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user's settings hold a key for this very hub, and none is in the environment to be taken instead."""
    path = config_folder(environ) / CONFIG_FILE
    return not environ.get(KEY_VARIABLE, "").strip() and _key_in(path, _bare(hub) or "") is not None


CONFIG: Final = "config.toml"
SETTINGS: Final = frozenset({"concurrency", "max_cost_per_day", "notify", "heartbeat"})


def user_config(path: Path | None = None) -> dict[str, Any]:
    """What the user's `config.toml` says, nothing where there is none; `ConfigProblem` where it cannot be used."""
    path = path or user_config_path("oxenbatch") / CONFIG
    content, mode = _read(path)
    if strangers := sorted(content.keys() - SETTINGS):
        raise ConfigProblem(f"{printable(path)}: {printable(strangers[0])} is no setting; known are {sorted(SETTINGS)}")
    if content.keys() & {"notify", "heartbeat"} and mode & (stat.S_IRGRP | stat.S_IROTH):
        raise ConfigProblem(
            f"others on this machine can read the addresses in {printable(path)}: run `chmod 600` on it"
        )
    return content


@dataclass(frozen=True, slots=True)
class Addresses:
    """Whom a run tells how it ended. Each works like a password: none is ever shown."""

    notify: tuple[str, ...] = ()
    heartbeat: str = ""


def addresses(path: Path | None = None) -> Addresses:
    """The addresses in the user's `config.toml`."""
    content = user_config(path)
    notify, heartbeat = content.get("notify", []), content.get("heartbeat", "")
    notify = [notify] if isinstance(notify, str) else notify
    if (
        not isinstance(notify, list)
        or not all(isinstance(one, str) for one in notify)
        or not isinstance(heartbeat, str)
    ):
        raise ConfigProblem(f"{CONFIG}: `notify` is a list of addresses, and `heartbeat` is one address")
    return Addresses(tuple(notify), heartbeat)


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """What the file says, and its mode; nothing where there is none, `ConfigProblem` where it cannot be read."""
    try:
        with path.open("rb") as file:
            import tomllib  # noqa: PLC0415 - most users have no such file

            return tomllib.load(file, parse_float=Decimal), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return {}, 0
    except (OSError, ValueError) as error:
        raise ConfigProblem(f"{printable(path)} cannot be read: {error}") from error


def _key_in(path: Path, host: str) -> str | None:
    content, mode = _read(path)
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
