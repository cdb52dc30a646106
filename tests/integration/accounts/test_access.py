"""Deny by default; another account's row is 403; the local operator exists only locally."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app import create_app
from app.accounts import service
from app.config import Settings
from tests.factories import accounts, gifts
from tests.integration.api import contents, refused

#: Who may be asked by anyone. A new route that is not here needs a key, or this test a reason.
PUBLIC = {
    "GET /healthz",
    "GET /health",
    "GET /readyz",
    "GET /openapi.json",
    "GET /docs",
    "GET /docs/assets/<path:name>",
    "GET /swagger",
    "GET /swagger/",
}
PLACEHOLDERS = {"name": "swagger-ui.css"}
AN_ID = "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"


@pytest.fixture
def app(settings: Settings, engine: Engine) -> Flask:
    return create_app(replace(settings, environment="production"))


def routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """(name, method, path) of each, with something in place of its variables."""
    urls = app.url_map.bind("localhost")
    for rule in app.url_map.iter_rules():
        path = urls.build(
            rule.endpoint, {name: PLACEHOLDERS.get(name, AN_ID) for name in rule.arguments}
        )
        # Two rules of one endpoint: build() finds only the first.
        path = path if rule.arguments else rule.rule
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            yield f"{method} {rule.rule}", method, path


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_every_route_that_is_not_public_needs_a_key(app: Flask, prefix: str) -> None:
    client = app.test_client()
    asked = {
        name: client.open(prefix + path, method=method).status_code
        for name, method, path in routes(app)
    }

    assert {name for name, status in asked.items() if status != 401} == PUBLIC
    assert len(asked) > len(PUBLIC) + 5
    assert all(asked[name] < 400 for name in PUBLIC)


def test_a_refused_request_is_not_read(app: Flask, engine: Engine) -> None:
    """Who may not ask is told nothing about what was asked."""
    client = app.test_client()

    refused(client.post("/gifts", data=b"{"), 401, "UNAUTHENTICATED")
    refused(client.post("/gifts", json={"amount": 5}), 401, "UNAUTHENTICATED")
    assert set(contents(engine).values()) == {0}


def test_head_and_options_need_a_key_too(app: Flask) -> None:
    for method in ("HEAD", "OPTIONS"):
        assert app.test_client().open("/gifts", method=method).status_code == 401


# --- the local operator -------------------------------------------------------------------------


def test_locally_a_request_without_credentials_is_the_operators(
    settings: Settings, engine: Engine, session: Session
) -> None:
    client = create_app(replace(settings, environment="local")).test_client()

    assert client.get("/metrics").status_code == 200
    gift = client.post("/gifts", json={"amount": 5}).get_json()
    owner = session.execute(
        text("SELECT account_id FROM gifts WHERE id = :id"), {"id": gift["gift_id"]}
    ).scalar_one()
    assert owner == service.LOCAL_OPERATOR_ID


def test_locally_a_wrong_key_is_still_wrong(settings: Settings, engine: Engine) -> None:
    client = create_app(replace(settings, environment="local")).test_client()

    for key in ("okuru_wrong", ""):
        refused(client.get("/gifts", headers={"X-API-Key": key}), 401, "UNAUTHENTICATED")


def test_in_production_nobody_is_the_local_operator(app: Flask, session: Session) -> None:
    assert app.test_client().get("/gifts").status_code == 401
    assert session.execute(text("SELECT count(*) FROM users")).scalar_one() == 0


# --- across accounts ----------------------------------------------------------------------------


@pytest.fixture
def stranger(app: Flask, session: Session) -> FlaskClient:
    """A user with a key, and an account without gifts."""
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = accounts.key(session)[1]
    session.commit()
    return client


@pytest.fixture
def foreign_operator(app: Flask, session: Session) -> FlaskClient:
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = accounts.key(session, role="operator")[1]
    session.commit()
    return client


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/attempts"), ("POST", "/send")])
@pytest.mark.parametrize("status", ["CREATED", "QUEUED"])
@pytest.mark.parametrize("who", ["stranger", "foreign_operator"])
def test_another_accounts_gift_is_403_and_stays_as_it_is(
    request: pytest.FixtureRequest,
    session: Session,
    engine: Engine,
    who: str,
    status: str,
    method: str,
    path: str,
) -> None:
    client: FlaskClient = request.getfixturevalue(who)
    make = gifts.created if status == "CREATED" else gifts.queued
    gift = make(session)
    session.commit()
    before = contents(engine)

    # key-1 is the owner's own: knowing it must not help.
    response = client.open(
        f"/gifts/{gift.id}{path}", method=method, headers={"Idempotency-Key": "key-1"}
    )

    error = refused(response, 403, "FORBIDDEN")
    assert error.keys() == {"code", "message"}
    assert str(gift.code) not in response.text
    assert contents(engine) == before
    session.refresh(gift)
    assert gift.status == status


def test_a_list_holds_ones_own_gifts_only(
    stranger: FlaskClient, session: Session, engine: Engine
) -> None:
    gifts.created(session)
    session.commit()
    own = stranger.post("/gifts", json={"amount": 5}).get_json()["gift_id"]

    for query in ("", "?status=CREATED", "?limit=1"):
        items = stranger.get(f"/gifts{query}").get_json()["items"]
        assert [item["gift_id"] for item in items] == [own]


def test_a_cursor_of_another_account_shows_nothing_of_it(
    stranger: FlaskClient, session: Session
) -> None:
    owner = accounts.principal(session)
    key = accounts.key(session)[1]
    for _ in range(3):
        gifts.created(session, owner=owner)
    session.commit()
    other = stranger.application.test_client()
    other.environ_base["HTTP_X_API_KEY"] = key
    for _ in range(2):
        other.post("/gifts", json={"amount": 5})
    cursor = other.get("/gifts?limit=1").get_json()["next_cursor"]

    assert stranger.get(f"/gifts?cursor={cursor}").get_json()["items"] == []
