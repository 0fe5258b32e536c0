"""Which servers may be asked, by their addresses."""

from __future__ import annotations

import ipaddress

import pytest

from icf_utils.fetch.addresses import Network, UserRule, network_of
from icf_utils.fetch.errors import FetchFailure


@pytest.mark.parametrize(
    ("text", "network"),
    [
        *(("8.8.8.8", "PUBLIC"), ("172.32.0.1", "PUBLIC"), ("2001:4860:4860::8888", "PUBLIC")),
        *(("10.0.0.1", "PRIVATE"), ("172.16.0.1", "PRIVATE"), ("192.168.9.9", "PRIVATE"), ("100.64.3.4", "PRIVATE")),
        *(("169.254.169.254", "PRIVATE"), ("fd00::1", "PRIVATE"), ("fe80::1", "PRIVATE")),
        *(("::ffff:10.0.0.1", "PRIVATE"), ("64:ff9b::c0a8:101", "PRIVATE"), ("::ffff:0:192.168.1.1", "PRIVATE")),
        *(("127.9.9.9", "LOOPBACK"), ("0.0.0.0", "LOOPBACK"), ("::1", "LOOPBACK"), ("::", "LOOPBACK")),
        ("::ffff:127.0.0.1", "LOOPBACK"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert network_of(ipaddress.ip_address(text)).name == network


@pytest.mark.parametrize(
    ("before", "address", "is_allowed"),
    [
        *((None, "127.0.0.1", True), (None, "10.0.0.1", True)),
        *((Network.PUBLIC, "8.8.8.8", True), (Network.PUBLIC, "10.0.0.1", False), (Network.PUBLIC, "::1", False)),
        *((Network.PRIVATE, "10.0.0.9", True), (Network.PRIVATE, "127.0.0.1", False)),
        *((Network.LOOPBACK, "127.0.0.1", True), (Network.LOOPBACK, "8.8.8.8", True)),
    ],
)
def test_no_redirect_into_a_more_private_network(before: Network | None, address: str, is_allowed: bool) -> None:
    def check() -> None:
        UserRule().check_address("x", ipaddress.ip_address(address), 80, before)

    if is_allowed:
        check()
    else:
        with pytest.raises(FetchFailure, match="it redirects from"):
            check()
