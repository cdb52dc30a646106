"""The job of a new user: welcomed, profiled and counted, once."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.accounts.models import User
from app.jobs import execution
from app.jobs.errors import ReservedJobType
from app.jobs.models import Job
from app.jobs.processors import JobView
from app.observability import metrics
from app.users import processors
from tests.factories import accounts
from tests.integration.api import refused
from tests.integration.delivery.steps import Delivery
from tests.integration.users.conftest import ClientIn


@pytest.fixture
def client(client_in: ClientIn) -> FlaskClient:
    return client_in("flexible")


def created(client: FlaskClient, **fields: Any) -> UUID:
    """The id of a new user."""
    response = client.post("/users", json={"email": "hanako@example.com", "age": 30, **fields})
    assert response.status_code == 201, response.text
    return UUID(response.get_json()["user_id"])


def the_job(session: Session) -> Job:
    session.expire_all()
    session.rollback()
    return session.query(Job).one()


def perform(session: Session, sqs_id: str = "m1") -> Job:
    execution.perform(the_job(session).id, 1, Delivery(sqs_id))
    return the_job(session)


def notifications(session: Session) -> list[tuple[Any, ...]]:
    session.rollback()
    rows = session.execute(text("SELECT account_id, title, body FROM notifications"))
    return [tuple(row) for row in rows]


def signups() -> float:
    for line in metrics.exposition().decode().splitlines():
        if line.startswith("users_signed_up_total "):
            return float(line.split()[1])
    return 0


def test_a_new_user_is_welcomed_profiled_and_counted(client: FlaskClient, session: Session) -> None:
    user_id, before = created(client, name="花子", hobby="釣り", score=90), signups()

    job = perform(session)

    profile = {"interests": ["釣り"], "score": 90, "rank": "gold"}
    assert (job.status, job.result) == (
        "COMPLETED",
        {"welcomed": True, "profile": ["interests", "rank", "score"]},
    )
    assert client.get(f"/users/{user_id}").get_json()["profile"] == profile
    ((account_id, title, body),) = notifications(session)
    assert account_id == user_id
    assert "Welcome" in title
    assert body.startswith("花子 さん")
    assert signups() - before == 1


def test_the_user_reads_the_welcome(client: FlaskClient, session: Session) -> None:
    created(client)
    perform(session)
    key = accounts.key(session, email="HANAKO@example.com")[1]
    session.commit()

    (found,) = client.get("/notifications", headers={"X-API-Key": key}).get_json()["items"]

    assert "Welcome" in found["title"]
    assert client.get("/notifications").get_json()["items"] == [], "the operator's are others"


def test_without_a_name_the_address_is_welcomed(client: FlaskClient, session: Session) -> None:
    created(client, name="")
    perform(session)

    assert notifications(session)[0][2].startswith("hanako@example.com さん")


def test_a_name_of_any_length_is_welcomed(client: FlaskClient, session: Session) -> None:
    created(client, name="🎁" * 200)

    assert perform(session).status == "COMPLETED"


def test_a_user_of_whom_nothing_more_is_known_has_an_empty_profile(
    client: FlaskClient, session: Session
) -> None:
    user_id = created(client)
    assert client.get(f"/users/{user_id}").get_json()["profile"] is None

    perform(session)

    assert client.get(f"/users/{user_id}").get_json()["profile"] == {}


def test_as_much_as_a_body_may_hold_keeps_no_user_from_being_welcomed(
    client: FlaskClient, session: Session
) -> None:
    body = {
        "email": "hanako@example.com",
        "age": 30,
        "hobby": "釣" * 9_000,
        "location": "鎌" * 9_000,
        "名" * 2_000: 1,
    }
    response = client.post(
        "/users",
        data=json.dumps(body, ensure_ascii=False).encode(),
        content_type="application/json",
    )
    assert response.status_code == 201

    job = perform(session)

    assert (job.status, job.last_error) == ("COMPLETED", None)


# --- more than once -----------------------------------------------------------------------------


class Execution(execution.Execution):
    """One more execution of a job: what a crash between effect and record comes to."""

    def __init__(self, job: Job) -> None:
        view = JobView(job.id, job.job_type, job.account_id, job.priority, 2)
        super().__init__(view, 1, Delivery("m1", 2))


def test_executed_again_it_does_nothing_more(client: FlaskClient, session: Session) -> None:
    user_id, before = created(client, hobby="釣り"), signups()
    job = the_job(session)
    payload = {"user_id": user_id, "additional_data": {"hobby": "釣り"}}

    results = [processors.user_created(Execution(job), payload) for _ in range(3)]

    assert [each["welcomed"] for each in results] == [True, False, False]
    assert len(notifications(session)) == 1
    assert signups() - before == 1
    assert perform(session).status == "COMPLETED"
    assert len(notifications(session)) == 1


def test_delivered_again_it_does_nothing_more(client: FlaskClient, session: Session) -> None:
    created(client)
    before = signups()

    for number in range(3):
        assert perform(session, f"m{number}").status == "COMPLETED"

    assert len(notifications(session)) == 1
    assert signups() - before == 1


def test_a_profile_that_is_there_stays(client: FlaskClient, session: Session) -> None:
    user_id = created(client, hobby="釣り")
    session.execute(text('UPDATE users SET profile = \'{"rank": "gold"}\''))
    session.commit()
    before = signups()

    assert perform(session).status == "COMPLETED"

    assert session.get_one(User, user_id).profile == {"rank": "gold"}
    assert signups() == before


def test_a_user_who_is_gone_fails_it_for_good(client: FlaskClient, session: Session) -> None:
    user_id, before = created(client), signups()
    session.execute(text("DELETE FROM users WHERE id = :id"), {"id": user_id})
    session.commit()

    job = perform(session)

    assert (job.status, job.failure, job.executions) == ("FAILED", "permanent", 1)
    assert "does not exist" in (job.last_error or "")
    assert notifications(session) == []
    assert signups() == before


def test_a_welcome_without_its_profile_is_none(
    client: FlaskClient, session: Session, engine: Engine
) -> None:
    """They are one transaction: while the profile cannot be written, nobody is welcomed."""
    created(client)
    before = signups()
    job_id = the_job(session).id
    session.rollback()
    with engine.begin() as other:
        other.execute(text("SELECT * FROM users WHERE age = 30 FOR UPDATE"))
        verdict = execution.perform(job_id, 1, Delivery("m1"))
    assert verdict.settle == "retry"
    assert notifications(session) == []

    execution.perform(job_id, 1, Delivery("m1", 2))

    assert the_job(session).status == "COMPLETED"
    assert len(notifications(session)) == 1
    assert signups() - before == 1


def test_it_is_not_for_users_to_enqueue(production: FlaskClient, session: Session) -> None:
    key = accounts.key(session, email="taro@example.com")[1]
    session.commit()
    body = {"job_type": "user_created", "payload": {"user_id": str(UUID(int=1))}}

    response = production.post("/jobs", json=body, headers={"X-API-Key": key})

    refused(response, 403, ReservedJobType.code)
