"""What a dataset may make icf-utils read. Asks git for its settings; otherwise pure.

A dataset is somebody else's text, and so are the addresses in it. The rules are git-annex's own, read from the same
settings with the same defaults (git-annex's manual page; ``Annex.Url`` in its source):

- ``annex.security.allowed-url-schemes``: the schemes that are asked, by default ``http``, ``https`` and ``ftp``;
- ``annex.security.allowed-ip-addresses``: servers on this machine and in private networks are asked only where this
  names their address (``127.0.0.1``, ``[::1]:8080``), or is ``all``.

Files on this machine (``file://``) are read only below the folders that ``remote.<name>.icf-local-store`` of this clone
names (``icf-utils configure-clone --local-store``), after symbolic links.

The special remote reads single bytes of what an address names, and a failure would make it ask the next address. So it
asks only one origin for an image: another one could learn, from being asked, whether the first had the bytes that the
dataset guesses.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from icf_utils.credentials import without_credentials
from icf_utils.dataset.special_remote.clone import Clone
from icf_utils.fetch.addresses import IpAddress, Network, UserRule, network_of
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.files import path_of
from icf_utils.fetch.tls import TlsFiles

SCHEMES_SETTING = "annex.security.allowed-url-schemes"
ADDRESSES_SETTING = "annex.security.allowed-ip-addresses"
_OLD_ADDRESSES_SETTING = "annex.security.allowed-http-addresses"

#: The setting of a remote that names folders with stores on this machine.
LOCAL_STORE_SETTING = "icf-local-store"

#: The setting of a remote that names the file with the trusted CA certificates.
CA_SETTING = "icf-ca"

_DEFAULT_SCHEMES = ("http", "https", "ftp")


@dataclass(frozen=True)
class AllowedAddress:
    """An address that may be asked although it is private; at ``port`` only, unless that is ``None``."""

    address: IpAddress
    port: int | None = None


@dataclass(frozen=True)
class DatasetRule:
    """Which addresses of a dataset may be asked; an :class:`~icf_utils.fetch.addresses.AddressRule`.

    ``are_all_allowed`` is for ``annex.security.allowed-ip-addresses=all``; ``local_stores`` are folders.
    """

    schemes: frozenset[str] = frozenset(_DEFAULT_SCHEMES)
    allowed: tuple[AllowedAddress, ...] = ()
    are_all_allowed: bool = False
    local_stores: tuple[Path, ...] = ()

    def check_url(self, url: str) -> None:
        """Raise :class:`~icf_utils.fetch.errors.FetchFailure` for a scheme that is not allowed."""
        scheme = urlsplit(url).scheme
        if scheme not in self.schemes:
            raise _forbidden(
                without_credentials(url),
                f"git-annex's settings do not allow {scheme}: addresses",
                f"see {SCHEMES_SETTING} in git-annex's manual page",
            )

    def check_address(self, where: str, address: IpAddress, port: int, before: Network | None) -> None:
        """Raise :class:`~icf_utils.fetch.errors.FetchFailure` for a private address that is not allowed."""
        if self.are_all_allowed or network_of(address) is Network.PUBLIC:
            return
        if any(item.address == address and item.port in (None, port) for item in self.allowed):
            return
        raise _forbidden(
            where,
            f"git-annex's settings do not allow asking {address}, which is not a public address",
            f"if you trust this server, allow it: git config {ADDRESSES_SETTING} '{address}'",
        )

    def check_file(self, url: str) -> None:
        """Raise :class:`~icf_utils.fetch.errors.FetchFailure` for a file outside of the local stores."""
        path = Path(os.path.realpath(path_of(url)))
        if not any(path.is_relative_to(os.path.realpath(store)) for store in self.local_stores):
            raise _forbidden(
                without_credentials(url),
                "the dataset names a file on this machine, which is not in a store that you have allowed",
                "if it is, allow it: icf-utils configure-clone --local-store FOLDER",
            )


@dataclass(frozen=True)
class CloneServerRule(DatasetRule):
    """The rule for the server that the user cloned from: requests are allowed as for a server that the user names."""

    def check_url(self, url: str) -> None:
        return

    def check_address(self, where: str, address: IpAddress, port: int, before: Network | None) -> None:
        UserRule().check_address(where, address, port, before)


def _forbidden(where: str, problem: str, remedy: str) -> FetchFailure:
    return FetchFailure(where, problem, remedy, kind="forbidden")


def read_rule(clone: Clone, ask_uuid: Callable[[], str]) -> DatasetRule:
    """The rule by the user's settings; ``ask_uuid`` gives the special remote's UUID, if it must be known."""
    addresses = (clone.setting(ADDRESSES_SETTING) or clone.setting(_OLD_ADDRESSES_SETTING) or "").split()
    named = clone.setting(SCHEMES_SETTING)
    schemes = _DEFAULT_SCHEMES if named is None else named.split()
    return DatasetRule(
        frozenset(scheme.lower().rstrip(":") for scheme in schemes),
        parse_allowed(addresses),
        addresses == ["all"],
        tuple(Path(folder) for folder in _own_values(clone, LOCAL_STORE_SETTING, ask_uuid) if os.path.isabs(folder)),
    )


def read_tls(clone: Clone, ask_uuid: Callable[[], str]) -> TlsFiles | None:
    """The file of trusted CA certificates that the user has named for the special remote, ``None`` for none."""
    files = _own_values(clone, CA_SETTING, ask_uuid)
    return TlsFiles(authority=Path(files[-1])) if files else None


def _own_values(clone: Clone, setting: str, ask_uuid: Callable[[], str]) -> list[str]:
    """The values of a setting of the remote with this UUID."""
    found = clone.remotes_with(setting)
    if not found:
        return []
    uuid = ask_uuid()
    names = {name for name, value in clone.remotes_with("annex-uuid") if value == uuid}
    return [value for name, value in found if name in names]


def parse_allowed(words: Sequence[str]) -> tuple[AllowedAddress, ...]:
    """Addresses as git-annex's setting has them: ``ADDRESS``, ``[ADDRESS]`` or ``[ADDRESS]:PORT``; others mean nothing.

    >>> parse_allowed(["127.0.0.1", "[::1]:8080", "all", "192.168.*.*"])
    (AllowedAddress(address=IPv4Address('127.0.0.1'), port=None), AllowedAddress(address=IPv6Address('::1'), port=8080))
    """
    found = []
    for word in words:
        text, _, rest = word[1:].partition("]") if word.startswith("[") else (word, "", "")
        port = rest.removeprefix(":")
        if rest and not (rest.startswith(":") and port.isascii() and port.isdecimal()):
            continue
        address = _address(text)
        if address is not None:
            found.append(AllowedAddress(address, int(port) if port else None))
    return tuple(found)


def _address(text: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
