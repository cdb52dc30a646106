"""What the routes of notifications answer: one's own, newest first, read once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app import create_app
from app.accounts import service as accounts_service
from app.config import Settings
from app.notifications import service
from tests.factories import accounts, notifications
from tests.integration.api import refused


@pytest.fixture
def app(settings: Settings, engine: Engine) -> Flask:
    return create_app(replace(settings, environment="production"))


def client_of(app: Flask, session: Session, role: Any = "user") -> tuple[FlaskClient, UUID]:
    """A new account's client, and the account's id."""
    key = accounts.key(session, role=role)[1]
    account_id = accounts_service.authenticate(session, key).account_id
    session.commit()
    client = app.test_client()
    client.environ_base["HTTP_X_API_KEY"] = key
    return client, account_id


@pytest.fixture
def me(app: Flask, session: Session) -> tuple[FlaskClient, UUID]:
    return client_of(app, session)


@pytest.fixture
def client(me: tuple[FlaskClient, UUID]) -> FlaskClient:
    return me[0]


@pytest.fixture
def mine(me: tuple[FlaskClient, UUID], session: Session) -> list[UUID]:
    """Three notifications of mine, oldest first, a transaction each: their times differ."""
    made = []
    for title in ("first", "second", "third"):
        made.append(notifications.stored(session, me[1], title=title))
        session.commit()
    return made


def titles(client: FlaskClient, query: str = "") -> list[str]:
    response = client.get(f"/notifications{query}")
    assert response.status_code == 200, response.text
    return [item["title"] for item in response.get_json()["items"]]


def read(client: FlaskClient, notification_id: UUID) -> Any:
    return client.post(f"/notifications/{notification_id}/read")


# --- list ---------------------------------------------------------------------------------------


def test_a_list_is_ones_own_newest_first(
    app: Flask, session: Session, client: FlaskClient, mine: list[UUID]
) -> None:
    other, _ = client_of(app, session)
    notifications.stored(session, "nobody")
    session.commit()

    assert titles(client) == ["third", "second", "first"]
    assert titles(other) == []


def test_an_operator_sees_no_other_accounts(app: Flask, session: Session, mine: list[UUID]) -> None:
    operator, _ = client_of(app, session, "operator")

    assert titles(operator) == []


def test_a_notification_shows_what_a_reader_needs(client: FlaskClient, mine: list[UUID]) -> None:
    found = client.get("/notifications?limit=1").get_json()["items"][0]

    assert found.pop("created_at").endswith("Z")
    assert found == {
        "notification_id": str(mine[2]),
        "title": "third",
        "body": "…",
        "read_at": None,
    }


def test_unread_are_those_that_were_not_read(client: FlaskClient, mine: list[UUID]) -> None:
    read(client, mine[1])

    assert titles(client, "?unread=true") == ["third", "first"]
    assert titles(client, "?unread=false") == ["third", "second", "first"]
    assert titles(client) == ["third", "second", "first"]


@pytest.mark.parametrize("query", ["limit=2", "limit=2&unread=true"])
def test_pages_hold_each_once_while_new_ones_come(
    me: tuple[FlaskClient, UUID], session: Session, mine: list[UUID], query: str
) -> None:
    client, account_id = me
    first = client.get(f"/notifications?{query}").get_json()
    notifications.stored(session, account_id, title="new")
    session.commit()
    second = client.get(f"/notifications?{query}&cursor={first['next_cursor']}").get_json()

    assert [item["title"] for item in first["items"]] == ["third", "second"]
    assert [item["title"] for item in second["items"]] == ["first"]
    assert second["next_cursor"] is None


def test_a_page_that_ends_with_the_list_is_the_last(client: FlaskClient, mine: list[UUID]) -> None:
    assert client.get("/notifications?limit=3").get_json()["next_cursor"] is None


def test_notifications_of_one_moment_are_paged_too(
    me: tuple[FlaskClient, UUID], session: Session
) -> None:
    """Made in one transaction, they have one time: the id decides."""
    client, account_id = me
    for number in range(5):
        notifications.stored(session, account_id, title=str(number))
    session.commit()
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/notifications?limit=2{cursor}").get_json()
        seen += [item["title"] for item in page["items"]]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"

    assert sorted(seen) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("unread", "unread="),
        ("unread", "unread=1"),
        ("unread", "unread=True"),
        ("unread", "unread=yes"),
        ("unread", "unread=%00"),
        ("limit", "limit=0"),
        ("limit", "limit=201"),
        ("limit", "limit=ten"),
        ("cursor", "cursor="),
        ("cursor", "cursor=x"),
        ("account_id", "account_id=f57d210e-2c8f-46ee-bc9a-169de52ba7c1"),
    ],
)
def test_a_query_that_means_nothing(client: FlaskClient, field: str, query: str) -> None:
    error = refused(client.get(f"/notifications?{query}"), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {field}


def test_without_a_key_there_is_nothing(app: Flask) -> None:
    refused(app.test_client().get("/notifications"), 401, "UNAUTHENTICATED")
    refused(read(app.test_client(), uuid4()), 401, "UNAUTHENTICATED")


# --- read ---------------------------------------------------------------------------------------


def test_reading_says_when(client: FlaskClient, mine: list[UUID]) -> None:
    response = read(client, mine[0])

    assert response.status_code == 200
    found = response.get_json()
    assert (found["notification_id"], found["title"]) == (str(mine[0]), "first")
    assert found["read_at"] > found["created_at"]
    items = client.get("/notifications").get_json()["items"]
    assert [item["read_at"] for item in items] == [None, None, found["read_at"]]


def test_reading_again_keeps_the_time(client: FlaskClient, mine: list[UUID]) -> None:
    first, second = (read(client, mine[0]) for _ in range(2))

    assert second.status_code == 200
    assert first.get_json() == second.get_json()


@pytest.mark.parametrize("role", ["user", "operator"])
def test_another_accounts_notification_is_403_and_stays_unread(
    app: Flask, session: Session, client: FlaskClient, mine: list[UUID], role: str
) -> None:
    other, _ = client_of(app, session, role)

    response = read(other, mine[0])

    refused(response, 403, "FORBIDDEN")
    assert "first" not in response.text
    assert titles(client, "?unread=true") == ["third", "second", "first"]


@pytest.mark.parametrize("role", ["user", "operator"])
def test_one_for_nobody_is_nobodys_to_read(app: Flask, session: Session, role: str) -> None:
    client, _ = client_of(app, session, role)
    found = notifications.stored(session, "user-789")
    session.commit()

    refused(read(client, found), 404, "NOT_FOUND")
    read_at = session.execute(text("SELECT read_at FROM notifications")).scalar_one()
    assert read_at is None


def test_one_that_does_not_exist(client: FlaskClient) -> None:
    error = refused(read(client, uuid4()), 404, "NOT_FOUND")

    assert error["message"] == "notification not found"


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("DELETE", 405)])
def test_reading_is_a_post(client: FlaskClient, mine: list[UUID], method: str, status: int) -> None:
    response = client.open(f"/notifications/{mine[0]}/read", method=method)

    refused(response, status, "METHOD_NOT_ALLOWED")


# --- tell ---------------------------------------------------------------------------------------


def test_one_occasion_is_told_once(session: Session) -> None:
    told = [
        service.notify(session, recipient="user-789", title=title, body="", occasion="job:1")
        for title in ("first", "second")
    ]

    assert told == [True, False]
    assert session.execute(text("SELECT title FROM notifications")).scalars().all() == ["first"]


def test_an_account_is_told_what_it_has(session: Session) -> None:
    owner = accounts.principal(session)
    first, _ = (notifications.stored(session, owner.account_id) for _ in range(2))
    notifications.stored(session, "nobody")
    service.mark_read(session, owner, first)

    assert service.summary(session, owner.account_id) == {"rows": 2, "unread": 1}
