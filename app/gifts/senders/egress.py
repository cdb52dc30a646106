"""Connections to public addresses only, judged on the address that was really reached.

Looking a name up first and connecting afterwards asks twice, and a hostile name server may answer
differently (DNS rebinding). Here the connected socket is asked, before a byte is sent.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

#: IPv6 addresses that stand for IPv4 ones: compatible, translated (RFC 2765), NAT64 (RFC 6052,
#: 8215), Teredo, 6to4; and the site-local ones of old.
TUNNELS = [
    ipaddress.IPv6Network(prefix)
    for prefix in (
        "::/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
        "fec0::/10",
    )
]


class AddressRefusedError(Exception):
    """The name leads to an address that is not public."""


class _PublicOnly:
    """Mixed into urllib3's connections."""

    host: str
    allowed_hosts: frozenset[str] = frozenset()

    def _new_conn(self) -> socket.socket:
        connection: socket.socket = super()._new_conn()  # type: ignore[misc]
        is_allowed = self.host.lower() in self.allowed_hosts
        if not is_allowed and not _is_public(connection.getpeername()[0]):
            connection.close()
            raise AddressRefusedError(f"{self.host} leads to an address that is not public")
        return connection


def _is_public(text: str) -> bool:
    """Whether an address is anyone's: not private, link-local, multicast, nor a tunnel to such."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return _is_public(str(address.ipv4_mapped))
        if any(address in network for network in TUNNELS):
            return False
    return address.is_global and not address.is_multicast


class PublicOnlyAdapter(HTTPAdapter):
    """For `requests.Session.mount()`."""

    def __init__(self, allowed_hosts: frozenset[str]) -> None:
        self.allowed_hosts = allowed_hosts
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        allowed = {"allowed_hosts": self.allowed_hosts}
        http = type("PublicHTTP", (_PublicOnly, HTTPConnection), allowed)
        https = type("PublicHTTPS", (_PublicOnly, HTTPSConnection), allowed)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = {
            "http": type("PublicHTTPPool", (HTTPConnectionPool,), {"ConnectionCls": http}),
            "https": type("PublicHTTPSPool", (HTTPSConnectionPool,), {"ConnectionCls": https}),
        }
