"""Addresses, read without trust: whose they are, whether they lead inside, and how they may be shown."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import SplitResult, urljoin, urlsplit

from oxenbatch.errors import OxenbatchError, printable

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        # What older Pythons call global: 6to4's relays, local NAT64, translated IPv4, documentation, segment routing,
        # and the site-local addresses of old.
        ("192.88.99.0/24", "64:ff9b:1::/48", "::ffff:0:0:0/96", "3fff::/20", "5f00::/16", "fec0::/10"),
    )
)


class AddressRefused(OxenbatchError):
    """An address that nothing is fetched from."""

    exit_code = 2  # where it is the hub's, as the user wrote it


def parse(url: str) -> SplitResult:
    """The address in its parts; `AddressRefused` where it is none with a host and a sound port."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise AddressRefused("not an address") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise AddressRefused(f"not an http address: {printable(_without_secrets(url), 100)}")
    return parts


def _without_secrets(url: str) -> str:
    """Any text that was meant as an address, without what may be a signature or a user's word."""
    return re.sub(r"//[^/]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


@lru_cache(maxsize=16)  # a file's address is asked for its own three times in a row
def origin_of(url: str) -> str:
    """`scheme://host:port`, always with its port: two addresses share the key only where these are equal."""
    parts = parse(url)
    host = parts.hostname or ""
    port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def without_default_port(origin: str) -> str:
    """The origin as people write it: `https://hub.oxen.ai` for port 443."""
    return origin.removesuffix(":443" if origin.startswith("https:") else ":80")


def shown(url: str) -> str:
    """The address without its query, which may be a signature, and without a user's name or password."""
    parts = parse(url)
    return printable(f"{parts.scheme}://{parts.hostname}{parts.path}", 200)


def after_redirect(url: str, location: str) -> str:
    """Where a redirect leads; `AddressRefused` where it leaves https."""
    try:
        following = urljoin(url, location)
    except ValueError as error:
        raise AddressRefused("a redirect to what is no address") from error
    if not location or (parse(url).scheme == "https" and parse(following).scheme != "https"):
        raise AddressRefused("a redirect to an address that is not https")
    return following


def is_loopback(url: str) -> bool:
    """Whether the address is this machine itself."""
    host = parse(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_public(address: str) -> bool:
    """Whether the IP address is one of the open internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        # An IPv4 address in an IPv6 one's clothes leads where the IPv4 one leads.
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64 or int(ip) < 2**32:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_PUBLIC)
