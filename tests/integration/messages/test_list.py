"""`GET /messages`: what was accepted and what became of it, for operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app import create_app
from app.config import Settings
from app.jobs.models import STATUSES
from tests.factories import accounts
from tests.integration.api import refused
from tests.integration.messages.steps import (
    data_sync,
    job_of,
    notification,
    perform,
    receive,
    rows,
    task,
)


def listed(client: FlaskClient, query: str = "") -> list[dict[str, Any]]:
    response = client.get(f"/messages{query}")
    assert response.status_code == 200, response.text
    items: list[dict[str, Any]] = response.get_json()["items"]
    return items


def ids(client: FlaskClient, query: str = "") -> list[str]:
    return [item["external_id"] for item in listed(client, query)]


def test_a_message_shows_what_it_is_and_what_became_of_it(client: FlaskClient) -> None:
    job = job_of(task(priority="high"))
    receive(task(priority="high"))

    (found,) = listed(client)

    ((message_id,),) = rows("SELECT id FROM inbox_messages")
    assert found.pop("created_at").endswith("Z")
    assert found == {
        "message_id": str(message_id),
        "external_id": "msg-123",
        "type": "task",
        "version": 1,
        "status": "PENDING",
        "job_id": str(job.id),
        "duplicates": 1,
        "sent_at": "2023-01-01T12:00:00Z",
    }
    perform(job)
    assert listed(client)[0]["status"] == "COMPLETED"


def test_its_data_is_not_shown(client: FlaskClient) -> None:
    receive(notification(body="for hanako only"))

    assert "hanako" not in client.get("/messages").text


def test_its_job_is_an_operators_to_look_at(client: FlaskClient) -> None:
    receive(task())
    job_id = listed(client)[0]["job_id"]

    assert client.get(f"/jobs/{job_id}").get_json()["job_type"] == "task"


def test_what_was_refused_is_not_in_the_list(client: FlaskClient) -> None:
    receive({**task(), "type": "order"})

    assert listed(client) == []


@pytest.fixture
def one_of_each() -> None:
    """Three types and three states: task PENDING, task FAILED, the others COMPLETED."""
    receive(task("waiting"))
    perform(job_of(task("broken", action="explode")), "j1")
    perform(job_of(notification("told")), "j2")
    perform(job_of(data_sync("synced")), "j3")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["synced", "told", "broken", "waiting"]),
        ("?type=task", ["broken", "waiting"]),
        ("?type=notification", ["told"]),
        ("?type=data-sync", ["synced"]),
        ("?status=PENDING", ["waiting"]),
        ("?status=FAILED", ["broken"]),
        ("?status=COMPLETED", ["synced", "told"]),
        ("?status=COMPLETED&type=task", []),
        ("?status=FAILED&type=task", ["broken"]),
        ("?limit=2", ["synced", "told"]),
    ],
)
@pytest.mark.usefixtures("one_of_each")
def test_filters(client: FlaskClient, query: str, expected: list[str]) -> None:
    assert ids(client, query) == expected


@pytest.mark.parametrize("status", STATUSES)
def test_every_state_of_a_job_may_be_asked_for(client: FlaskClient, status: str) -> None:
    assert listed(client, f"?status={status}") == []


@pytest.mark.parametrize("query", ["", "&type=task", "&status=PENDING"])
def test_pages_hold_each_message_once_while_new_ones_come(client: FlaskClient, query: str) -> None:
    for number in range(5):
        receive(task(f"msg-{number}"))
    seen, cursor = [], ""
    while True:
        page = client.get(f"/messages?limit=2{query}{cursor}").get_json()
        seen += [item["external_id"] for item in page["items"]]
        receive(task(f"new after {len(seen)}"))
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"

    assert seen == ["msg-4", "msg-3", "msg-2", "msg-1", "msg-0"]


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("type", "type=order"),
        ("type", "type="),
        ("type", "type=TASK"),
        ("type", "type=user_created"),
        ("status", "status=pending"),
        ("status", "status=SENT"),
        ("status", "status=%00"),
        ("limit", "limit=0"),
        ("limit", "limit=201"),
        ("cursor", "cursor=x"),
        ("external_id", "external_id=msg-123"),
    ],
)
def test_a_query_that_means_nothing(client: FlaskClient, field: str, query: str) -> None:
    error = refused(client.get(f"/messages?{query}"), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {field}


@pytest.mark.parametrize(("role", "status"), [("user", 403), ("operator", 200), (None, 401)])
def test_only_operators_see_them(
    settings: Settings, engine: Engine, session: Session, role: Any, status: int
) -> None:
    client = create_app(replace(settings, environment="production")).test_client()
    headers = {"X-API-Key": accounts.key(session, role=role)[1]} if role else {}
    session.commit()
    receive(task())

    response = client.get("/messages", headers=headers)

    if status == 200:
        assert len(response.get_json()["items"]) == 1
    else:
        refused(response, status, "FORBIDDEN" if status == 403 else "UNAUTHENTICATED")
