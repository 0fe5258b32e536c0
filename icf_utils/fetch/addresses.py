"""Which servers may be asked. Pure, no input or output happens here.

Two rules keep a client from being led where its user never meant to go (server-side request forgery):

- The user names an address, and a redirect never leads from there into a more private network: not from the internet
  to an intranet, and from neither to this machine (:class:`UserRule`).
- Where a stranger's text names the addresses, as a dataset does, only those are asked that the user has allowed; see
  :mod:`icf_utils.dataset.special_remote.security`.

Rules are applied to numeric addresses at the moment of connecting, so that a name server cannot change its answer in
between, and to every redirect.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import Protocol

from icf_utils.fetch.errors import FetchFailure

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Network(IntEnum):
    """Where an address is, from the most public to the most private."""

    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2


_LOOPBACK = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "0.0.0.0/8", "::1/128", "::/128")))
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"),
            *("fc00::/7", "fe80::/10", "fec0::/10"),
        ),
    )
)

#: Prefixes of 96 bits that an IPv4 address follows: mapped, translated (RFC 2765), NAT64 (RFC 6052).
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))


def network_of(address: IpAddress) -> Network:
    """The network of an address, by the ranges that git-annex goes by (``Utility.IPAddress``).

    >>> [network_of(ipaddress.ip_address(text)).name for text in ("127.0.0.1", "192.168.1.7", "::ffff:10.1.1.1")]
    ['LOOPBACK', 'PRIVATE', 'PRIVATE']
    """
    if isinstance(address, ipaddress.IPv6Address) and any(address in prefix for prefix in _EMBEDDING):
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in network for network in _LOOPBACK):
        return Network.LOOPBACK
    if any(address in network for network in _PRIVATE):
        return Network.PRIVATE
    return Network.PUBLIC


def numeric(host: str) -> IpAddress | None:
    """The address that a host is written as, ``None`` for a name; ``localhost`` is this machine (RFC 6761)."""
    if host == "localhost" or host.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


class AddressRule(Protocol):
    """Decides which servers a client may ask."""

    def check_url(self, url: str) -> None:
        """Raise :class:`~icf_utils.fetch.errors.FetchFailure` for an address that must not be asked."""

    def check_address(self, where: str, address: IpAddress, port: int, before: Network | None) -> None:
        """Raise :class:`~icf_utils.fetch.errors.FetchFailure` for a server that must not be connected to.

        ``before`` is the network of the server that redirects here, ``None`` for the first request.
        """


class UserRule:
    """The address is the user's own choice: anything goes but a redirect into a more private network."""

    def check_url(self, url: str) -> None:
        return

    def check_address(self, where: str, address: IpAddress, port: int, before: Network | None) -> None:
        network = network_of(address)
        if before is not None and network > before:
            place = "this machine" if network is Network.LOOPBACK else "a private network"
            raise FetchFailure(
                where,
                f"it redirects from {_WORDS[before]} to {address}, which is in {place}",
                "if that is intended, name the address that it redirects to",
                kind="forbidden",
            )


_WORDS = {Network.PUBLIC: "the internet", Network.PRIVATE: "a private network", Network.LOOPBACK: "this machine"}
