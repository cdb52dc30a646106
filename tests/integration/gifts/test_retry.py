"""`POST /gifts/{gift_id}/retry`: operators send a failed gift of any account again."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.gifts.models import Gift
from tests.factories import accounts, gifts
from tests.integration.api import Events, answered, contents, refused


@pytest.fixture
def gift(session: Session) -> Gift:
    """Somebody else's gift, queued under "order-1"."""
    gift = gifts.queued(session, request_id="order-1", message="secret words")
    session.commit()
    return gift


def settle(session: Session, gift: Gift, status: str) -> None:
    """As a worker would have left it after five executions."""
    failure = "exhausted" if status == "FAILED" else None
    session.execute(
        text(
            "UPDATE gifts SET status = :status, failure = :failure, executions = 5, receive = 5,"
            " carrier = 'm1', last_error = 'no' WHERE id = :id"
        ),
        {"id": gift.id, "status": status, "failure": failure},
    )
    session.commit()


@pytest.fixture
def failed(session: Session, gift: Gift) -> Gift:
    settle(session, gift, "FAILED")
    return gift


def retry(client: FlaskClient, gift_id: UUID, key: str = "again-1", **headers: str) -> Any:
    return client.post(f"/gifts/{gift_id}/retry", headers={"Idempotency-Key": key, **headers})


def row(session: Session, gift: Gift) -> Gift:
    session.expire_all()
    found = session.get_one(Gift, gift.id)
    session.rollback()
    return found


def test_a_failed_gift_is_queued_again_and_written_down(
    client: FlaskClient, session: Session, failed: Gift, events: Events
) -> None:
    response = retry(client, failed.id)

    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers
    assert response.get_json() == {
        "gift_id": str(failed.id), "status": "QUEUED", "request_id": "again-1",
    }  # fmt: skip
    again = row(session, failed)
    assert (again.status, again.send_no, again.executions, again.receive) == ("QUEUED", 2, 0, 0)
    assert (again.carrier, again.failure, again.last_error) == (None, None, None)
    staged = session.execute(text("SELECT task, queue, kwargs FROM outbox ORDER BY id")).all()
    assert staged[1:] == [
        ("gifts.send", "gifts",
         {"gift_id": str(failed.id), "send_no": 2, "request_id": "again-1"})
    ]  # fmt: skip
    audit = session.execute(text("SELECT action, actor, reason, subject_id FROM redrives")).all()
    operator = "account 00000000-0000-4000-8000-000000000001"
    assert audit == [("retry", operator, "key again-1", failed.id)]
    [event] = [each for each in events() if each["message"] == "gift queued again"]
    assert (event["gift_id"], event["request_id"]) == (str(failed.id), "again-1")


def test_nothing_of_the_gift_is_shown(client: FlaskClient, failed: Gift) -> None:
    for key in ("again-1", "again-1", "again-2"):
        answer = retry(client, failed.id, key).text
        assert str(failed.code) not in answer
        assert "secret words" not in answer
        assert "no" not in answer.split('"')


@pytest.mark.parametrize("status", ["QUEUED", "SENT", "FAILED"])
def test_the_same_key_gets_the_same_body_whatever_became_of_the_gift(
    client: FlaskClient, engine: Engine, session: Session, failed: Gift, status: str
) -> None:
    first = retry(client, failed.id)
    if status != "QUEUED":
        settle(session, failed, status)
    before = contents(engine)

    for _ in range(2):
        replay = retry(client, failed.id)
        assert (replay.status_code, replay.data) == (200, first.data)
        assert replay.headers["Idempotent-Replayed"] == "true"
    assert contents(engine) == before
    assert row(session, failed).status == status
    assert row(session, failed).send_no == 2


def test_a_gift_that_failed_again_takes_another_key(
    client: FlaskClient, session: Session, failed: Gift
) -> None:
    for number in range(1, 4):
        assert retry(client, failed.id, f"again-{number}").status_code == 202
        settle(session, failed, "FAILED")
    assert row(session, failed).send_no == 4
    assert [retry(client, failed.id, f"again-{n}").status_code for n in (1, 2, 3)] == [200] * 3


@pytest.mark.parametrize("status", ["CREATED", "QUEUED", "SENT"])
def test_a_gift_that_has_not_failed_is_409(
    client: FlaskClient, engine: Engine, session: Session, gift: Gift, status: str
) -> None:
    if status == "CREATED":
        gift = gifts.created(session)
        session.commit()
    elif status == "SENT":
        settle(session, gift, status)
    before = contents(engine)

    error = refused(retry(client, gift.id), 409, "CONFLICT")

    assert error["details"] == {"status": status}
    assert contents(engine) == before


def test_the_key_of_the_send_is_not_one_of_a_retry_nor_the_other_way_round(
    client: FlaskClient, engine: Engine, session: Session
) -> None:
    from app.accounts.service import local_operator

    gift = gifts.queued(session, owner=local_operator(session), request_id="order-1")
    session.commit()
    settle(session, gift, "FAILED")
    before = contents(engine)
    refused(retry(client, gift.id, "order-1"), 422, "IDEMPOTENCY_KEY_REUSED")
    assert contents(engine) == before

    assert retry(client, gift.id, "again-1").status_code == 202
    send = f"/gifts/{gift.id}/send"
    refused(client.post(send, headers={"Idempotency-Key": "again-1"}), 409, "CONFLICT")
    assert client.post(send, headers={"Idempotency-Key": "order-1"}).status_code == 200


def test_the_owner_sees_the_gift_go_on(app: Flask, client: FlaskClient, session: Session) -> None:
    _, key = accounts.key(session, email="hanako@example.com")
    session.commit()
    mine = {"X-API-Key": key}
    created = client.post("/gifts", json={"amount": 5}, headers=mine).get_json()
    path = f"/gifts/{created['gift_id']}"
    sent = client.post(f"{path}/send", headers={**mine, "Idempotency-Key": "order-1"})
    settle(session, session.get_one(Gift, UUID(created["gift_id"])), "FAILED")
    assert client.get(path, headers=mine).get_json()["status"] == "FAILED"

    assert retry(client, UUID(created["gift_id"])).status_code == 202

    found = client.get(path, headers=mine).get_json()
    assert (found["status"], found["last_error"]) == ("QUEUED", None)
    replay = client.post(f"{path}/send", headers={**mine, "Idempotency-Key": "order-1"})
    assert (replay.status_code, replay.data) == (200, sent.data)


# --- who ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_users_may_not_not_even_with_their_own_gifts(
    client: FlaskClient, engine: Engine, session: Session, failed: Gift, prefix: str
) -> None:
    email = session.execute(
        text("SELECT email FROM users WHERE id = :id"), {"id": failed.account_id}
    ).scalar_one()
    _, key = accounts.key(session, email=email)
    session.commit()
    before = contents(engine)
    headers = {"X-API-Key": key, "Idempotency-Key": "again-1"}

    for gift_id in (failed.id, uuid4()):
        answer = client.post(f"{prefix}/gifts/{gift_id}/retry", headers=headers)
        refused(answer, 403, "FORBIDDEN")
    assert contents(engine) == before


def test_any_operator_may(client: FlaskClient, session: Session, failed: Gift) -> None:
    _, key = accounts.key(session, role="operator")
    session.commit()

    assert retry(client, failed.id, **{"X-API-Key": key}).status_code == 202
    # And still reads no foreign rows.
    answer = client.get(f"/gifts/{failed.id}", headers={"X-API-Key": key})
    refused(answer, 403, "FORBIDDEN")


def test_a_gift_that_is_not_there_is_404(client: FlaskClient) -> None:
    refused(retry(client, uuid4()), 404, "NOT_FOUND")


@pytest.mark.parametrize("key", [None, "", " ", "k" * 256, "é"])
def test_a_key_is_required(
    client: FlaskClient, session: Session, failed: Gift, key: str | None
) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = client.post(f"/gifts/{failed.id}/retry", headers=headers)
    refused(answer, 400, "VALIDATION_ERROR")
    assert row(session, failed).status == "FAILED"


# --- races --------------------------------------------------------------------------------------

CALLERS = 12


def at_once(app: Flask, gift: Gift, keys: list[str]) -> list[Any]:
    line = Barrier(len(keys))

    def ask(key: str) -> Any:
        client = app.test_client()
        line.wait(timeout=30)
        return answered(lambda: retry(client, gift.id, key))

    with ThreadPoolExecutor(len(keys)) as callers:
        return list(callers.map(ask, keys))


@pytest.mark.parametrize("times", range(3))
def test_many_with_one_key_are_one_202_and_the_rest_200(
    app: Flask, session: Session, engine: Engine, failed: Gift, times: int
) -> None:
    before = contents(engine)
    answers = at_once(app, failed, ["again-1"] * CALLERS)

    assert Counter(each.status_code for each in answers) == {202: 1, 200: CALLERS - 1}
    assert len({each.data for each in answers}) == 1
    assert contents(engine)["outbox"] == before["outbox"] + 1
    assert row(session, failed).send_no == 2


@pytest.mark.parametrize("times", range(3))
def test_many_keys_are_one_202_and_the_rest_409(
    app: Flask, session: Session, engine: Engine, failed: Gift, times: int
) -> None:
    before = contents(engine)
    answers = at_once(app, failed, [f"again-{number}" for number in range(CALLERS)])

    assert Counter(each.status_code for each in answers) == {202: 1, 409: CALLERS - 1}
    found = contents(engine)
    assert (found["outbox"], found["redrives"]) == (before["outbox"] + 1, 1)
    assert found["send_requests"] == before["send_requests"] + 1
    assert row(session, failed).send_no == 2
