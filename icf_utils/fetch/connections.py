"""Connections to web servers: pooled, through proxies, to addresses that a rule allows. Uses the network.

Host names are resolved here, and only numeric addresses that the :class:`~icf_utils.fetch.addresses.AddressRule` allows
are connected to, so that what was checked is what is connected to. The proxies are those of the environment
(``http_proxy``, ``https_proxy``, ``all_proxy``, ``no_proxy``); a proxy's own address is checked like a server's.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
import urllib3.util
import urllib3.util.connection

from icf_utils.credentials import WebOrigin
from icf_utils.errors import InvalidSetting, MissingRequirement
from icf_utils.fetch.addresses import AddressRule, Network, network_of, numeric
from icf_utils.fetch.errors import FetchFailure
from icf_utils.fetch.speed import LowestSpeed, response_class
from icf_utils.fetch.tls import TlsFiles, client_context
from icf_utils.installation import install_hint

#: Servers to which connections are kept, more than any command asks.
_MOST_SERVERS = 32


@dataclass(frozen=True)
class Route:
    """How a server is reached; requests share connections where this is equal.

    ``proxy`` is empty for none, ``before`` the network that a redirect came from (``None``: not redirected),
    ``with_certificate`` whether the client's own certificate is shown.
    """

    proxy: str
    before: Network | None
    with_certificate: bool


class Connections:
    """Pools of at most ``size`` connections to each server; safe for threads."""

    def __init__(self, size: int, tls: TlsFiles, rule: AddressRule, with_proxies: bool, lowest: LowestSpeed) -> None:
        self._size, self._tls, self._rule, self._with_proxies = size, tls, rule, with_proxies
        self._responses = response_class(lowest)
        self._lock = threading.Lock()
        self._managers: dict[tuple[Route, str], urllib3.PoolManager] = {}
        self._networks: dict[tuple[str, int], Network] = {}

    def close(self) -> None:
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            manager.clear()

    def route_to(self, origin: WebOrigin, before: Network | None, with_certificate: bool) -> Route:
        """The route to a server, by the environment's proxies.

        Raises :class:`~icf_utils.fetch.errors.FetchFailure` for a numeric address behind a proxy that the rule refuses;
        names are resolved by the proxy.
        """
        route = Route(_proxy_of(origin) if self._with_proxies else "", before, with_certificate)
        address = numeric(origin.host) if route.proxy else None
        if address is not None:
            self._rule.check_address(str(origin), address, origin.port, before)
        return route

    def network_of(self, origin: WebOrigin, route: Route) -> Network:
        """The network of a server that was connected to; public for a name that a proxy has resolved."""
        if route.proxy:
            address = numeric(origin.host)
            return Network.PUBLIC if address is None else network_of(address)
        with self._lock:
            return self._networks.get((origin.host, origin.port), Network.PUBLIC)

    def manager(self, route: Route, scheme: str) -> urllib3.PoolManager:
        """The pools of a route."""
        with self._lock:
            if (route, scheme) not in self._managers:
                self._managers[route, scheme] = self._new_manager(route, scheme)
            return self._managers[route, scheme]

    def _new_manager(self, route: Route, scheme: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": _MOST_SERVERS, "maxsize": self._size, "block": True}
        if scheme == "https":
            options["ssl_context"] = client_context(self._tls, route.with_certificate)
        if route.proxy.startswith("socks"):
            return _socks_manager(route.proxy, options, self._responses)
        manager = _http_proxy_manager(route.proxy, options) if route.proxy else urllib3.PoolManager(**options)
        before = None if route.proxy else route.before
        manager.pool_classes_by_scheme = _pools(lambda host, port: self._resolve(host, port, before), self._responses)
        return manager

    def _resolve(self, host: str, port: int, before: Network | None) -> list[str]:
        """The numeric addresses of a host that may be connected to, in the resolver's order.

        Raises what the rule raises where there are none, and ``socket.gaierror``.
        """
        family = urllib3.util.connection.allowed_gai_family()
        allowed: dict[str, Network] = {}
        refusal: FetchFailure | None = None
        for *_, place in socket.getaddrinfo(host.strip("[]"), port, family, socket.SOCK_STREAM):
            address = ipaddress.ip_address(str(place[0]).partition("%")[0])
            try:
                self._rule.check_address(f"{host}:{port}", address, port, before)
                allowed[str(place[0])] = network_of(address)
            except FetchFailure as failure:
                refusal = failure
        if not allowed:
            raise refusal or socket.gaierror(socket.EAI_NONAME, "no address")
        with self._lock:  # the most public one of several counts: redirects from it lead to nothing more private
            place = (host.strip("[]"), port)
            known = self._networks.get(place, Network.LOOPBACK)
            self._networks[place] = min(known, *allowed.values())
        return list(allowed)


def _proxy_of(origin: WebOrigin) -> str:
    """The proxy's address for an origin, empty for none."""
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(origin.scheme) or proxies.get("all") or ""
    if not proxy or _is_excepted(origin.host, proxies.get("no", "")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_excepted(host: str, no_proxy: str) -> bool:
    """Whether ``no_proxy`` names a host: ``*``, a name or its domain, an address, or a network (``10.0.0.0/8``)."""
    address = numeric(host)
    for entry in no_proxy.lower().replace(" ", "").split(","):
        name = entry.lstrip(".").removeprefix("*.")
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return True
        if "/" in entry and address is not None and _is_in(address, entry):
            return True
    return False


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: str) -> bool:
    try:
        return address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _http_proxy_manager(proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
    try:
        parsed = urllib3.util.parse_url(proxy)
        login = urllib3.util.make_headers(proxy_basic_auth=parsed.auth) if parsed.auth else {}
        return urllib3.ProxyManager(parsed._replace(auth=None).url, proxy_headers=login, **options)
    except (urllib3.exceptions.LocationValueError, urllib3.exceptions.ProxySchemeUnknown):
        raise InvalidSetting("http_proxy, https_proxy", "expected http://HOST:PORT") from None


def _socks_manager(proxy: str, options: dict[str, Any], responses: type[HTTPResponse]) -> urllib3.PoolManager:
    """It opens its connections itself, so that names and the proxy's own address are not checked."""
    try:
        from urllib3.contrib.socks import SOCKSProxyManager
    except ImportError:
        needed = f"the Python package PySocks (for the proxy {urlsplit(proxy).hostname})"
        raise MissingRequirement(needed, install_hint(package="PySocks")) from None
    manager = SOCKSProxyManager(proxy, **options)
    manager.pool_classes_by_scheme = {
        scheme: _with_responses(pool, responses) for scheme, pool in manager.pool_classes_by_scheme.items()
    }
    return manager


def _with_responses(pool: type[Any], responses: type[HTTPResponse]) -> type[Any]:
    """A class of pools whose connections give such responses."""
    connection = type(pool.ConnectionCls.__name__, (pool.ConnectionCls,), {"response_class": responses})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})


def _pools(
    resolve: Callable[[str, int], list[str]], responses: type[HTTPResponse]
) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Connection pools whose connections go to the addresses that ``resolve`` gives, and to no others.

    urllib3 opens them in ``_new_conn``, which is private, though it has been there since version 1; a test notices when
    it is gone.
    """

    class Plain(urllib3.connection.HTTPConnection):
        response_class = responses

        def _new_conn(self) -> socket.socket:
            return _connect(self, resolve)

    class Tls(urllib3.connection.HTTPSConnection):
        response_class = responses

        def _new_conn(self) -> socket.socket:
            return _connect(self, resolve)

    class PlainPool(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(urllib3.connectionpool.HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def _connect(connection: urllib3.connection.HTTPConnection, resolve: Callable[[str, int], list[str]]) -> socket.socket:
    """A connected socket, to the first address that answers. Raises as urllib3 does."""
    try:
        addresses = resolve(connection.host, connection.port)
    except socket.gaierror as error:
        raise urllib3.exceptions.NameResolutionError(connection.host, connection, error) from error
    problem = OSError()
    for address in addresses:
        try:
            return urllib3.util.connection.create_connection(
                (address, connection.port),
                connection.timeout,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:  # noqa: PERF203
            problem = error
    if isinstance(problem, TimeoutError):
        raise urllib3.exceptions.ConnectTimeoutError(connection, "no connection in time") from problem
    raise urllib3.exceptions.NewConnectionError(connection, os.strerror(problem.errno or 0)) from problem
