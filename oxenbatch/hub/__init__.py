"""The only door to the network: the hub's calls, its event stream, and the files behind its addresses.

httpx lives here and nowhere else. Rules of residence: foreign exceptions stop here; the key goes to the hub's own
origin only; exactly one function posts to the queue, `enqueue`, and no retry library is anywhere near it. httpx
leaks pool slots when a request is cancelled while it connects, so nobody puts a timeout scope around these calls:
their own timeouts are the only ones, and `bodies.head_in_time`, which runs only when the connection stands.
"""

import sys

if "httpx" not in sys.modules:
    # httpx brings a command line of its own along, with rich and pygments: a third of the time until the first send.
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # "not there", to the import that asks for it
    import httpx  # noqa: F401 - now, while that is so

    del sys.modules["httpx._main"]

from oxenbatch.hub.client import ACCOUNT_PAGE, DEFAULT_HUB, Hub, check_key
from oxenbatch.hub.files import FileAnswer
from oxenbatch.hub.trouble import AddressExpired, FileTrouble, HubTrouble, NotFound, TooLargeToStore

__all__ = [
    "ACCOUNT_PAGE",
    "DEFAULT_HUB",
    "AddressExpired",
    "FileAnswer",
    "FileTrouble",
    "Hub",
    "HubTrouble",
    "NotFound",
    "TooLargeToStore",
    "check_key",
]
