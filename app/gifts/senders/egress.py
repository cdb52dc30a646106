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


class AddressRefusedError(Exception):
    """The name leads to an address that is not public."""


class _PublicOnly:
    """Mixed into urllib3's connections."""

    host: str
    allowed_hosts: frozenset[str] = frozenset()

    def _new_conn(self) -> socket.socket:
        connection: socket.socket = super()._new_conn()  # type: ignore[misc]
        address = ipaddress.ip_address(connection.getpeername()[0])
        mapped = getattr(address, "ipv4_mapped", None)
        if not (mapped or address).is_global and self.host not in self.allowed_hosts:
            connection.close()
            raise AddressRefusedError(f"{self.host} leads to an address that is not public")
        return connection


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
