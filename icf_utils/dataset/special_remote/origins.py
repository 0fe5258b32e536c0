"""Which server of an archive's addresses is asked. Asks git for the clone's remotes; otherwise pure.

An archive is asked for at one origin only, even if the dataset names addresses at several: a second server could learn
from being asked what the first one, or this machine, has (:mod:`icf_utils.dataset.special_remote.security`). The origin
is that of an address which the clone itself has as a remote, else that of the archive's first address.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from icf_utils.credentials import origin_of
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.errors import InvalidSetting
from icf_utils.fetch.files import path_of

#: Schemes of addresses that bytes can be read from; the others are left to git-annex.
READABLE = ("https", "http", "file")

#: The origin of files on this machine.
DISK = "file:"

#: A web address inside a remote's, such as ``datalad-annex::?type=external&url=https://host/path``.
_WEB_ADDRESS = re.compile(r"https?://[^/?#&\s]+")

_FILE_ADDRESS = re.compile(r"file:///[^?#&\s]+")


def origin_name(url: str) -> str:
    """The origin of an address, empty for one that is malformed."""
    if urlsplit(url).scheme == "file":
        return DISK
    try:
        return str(origin_of(url))
    except InvalidSetting:
        return ""


def origins_of_remotes(clone: Clone) -> frozenset[str]:
    """The origins of the web addresses that the clone has as remotes, which the user has chosen."""
    values = (unquote(value) for _, value in clone.remotes_with("url"))
    return frozenset(origin_name(address) for value in values for address in _WEB_ADDRESS.findall(value)) - {""}


def stores_of_remotes(clone: Clone) -> tuple[Path, ...]:
    """The stores on this machine that the clone has as remotes: the folders of their studies' folders."""
    values = (unquote(value) for _, value in clone.remotes_with("url"))
    files = (path_of(address) for value in values for address in _FILE_ADDRESS.findall(value))
    return tuple(dict.fromkeys(file.parent.parent for file in files))


def at_one_origin(
    urls: Sequence[str], may_ask: Callable[[str], bool], preferred: Collection[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The addresses that are asked, and the origins that are not."""
    known = [url for url in urls if urlsplit(url).scheme in READABLE]
    readable = [url for url in known if may_ask(url)] or known
    origins = list(dict.fromkeys(filter(None, map(origin_name, readable))))
    if not origins:
        return (), ()
    chosen = next((origin for origin in origins if origin in preferred), origins[0])
    return tuple(url for url in readable if origin_name(url) == chosen), tuple(o for o in origins if o != chosen)
