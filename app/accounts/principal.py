"""Deny by default: a route that is not on the public list needs a principal."""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Flask, g, request

from app import db
from app.accounts import service
from app.accounts.service import Principal
from app.config import LOOPBACK
from app.errors import Forbidden, Unauthenticated

#: Endpoints that anyone may ask.
PUBLIC = frozenset(
    {
        "health.healthz",
        "health.readyz",
        "api-docs.openapi_json",
        "api-docs.openapi_swagger_ui",
        "docs.asset",
        "docs.swagger",
    }
)
#: Endpoints for operators only. None shows what another account's row holds (docs/adr/0007).
OPERATORS = frozenset(
    {"health.exposition", "gifts.retry", "messages.list_messages", "users.create"}
)


NOT_FROM_HERE = ("Authorization", "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host")


def install(app: Flask, *, allow_local: bool) -> None:
    """Ask every request for its principal; `allow_local` lets one without credentials in."""

    @app.before_request
    def _authenticate() -> None:
        if request.endpoint is None or request.endpoint in PUBLIC:
            return  # an unknown path is a 404 for everyone
        key = request.headers.get("X-API-Key")
        with db.autocommit() as session:
            if key is not None:
                g.principal = service.authenticate(session, key)
            elif allow_local and _comes_from_here():
                g.principal = service.local_operator(session)
            else:
                raise Unauthenticated("send an API key as X-API-Key")
        if request.endpoint in OPERATORS and current().role != "operator":
            raise Forbidden("this needs an operator's key")


def _comes_from_here() -> bool:
    """Whether a request without credentials may be the developer's own.

    A name that a hostile page has rebound to 127.0.0.1 shows in the Host header, the page itself
    in Origin, a tunnel in what it forwards; and a bearer token shows a caller who means somebody.
    """
    origin = request.headers.get("Origin")
    return (
        urlsplit(f"//{request.host}").hostname in LOOPBACK
        and (origin is None or urlsplit(origin).hostname in LOOPBACK)
        and not any(name in request.headers for name in NOT_FROM_HERE)
    )


def current() -> Principal:
    principal: Principal = g.principal
    return principal
