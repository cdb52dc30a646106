"""One effect and one answer a key: the whole matrix."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app import db
from app.accounts import service as accounts_service
from app.errors import Conflict, IdempotencyKeyReused
from app.idempotency import service
from tests.factories import accounts, gifts
from tests.integration.api import contents, refused

SCOPE = "POST /gifts"


def create(client: FlaskClient, key: str | None = "order-1", **gift: Any) -> TestResponse:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/gifts", json={"amount": 5, **gift}, headers=headers)


def shift(engine: Engine, by: timedelta) -> None:
    """As if that much time had passed for every key."""
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE idempotency_keys SET expires_at = expires_at - CAST(:by AS interval)"),
            {"by": by},
        )


# --- through the API ----------------------------------------------------------------------------


def test_the_first_request_is_done(client: FlaskClient, engine: Engine) -> None:
    response = create(client)

    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response.headers
    assert contents(engine) | {"gifts": 1, "idempotency_keys": 1} == contents(engine)


def test_the_same_request_gets_the_same_answer_and_says_so(
    client: FlaskClient, engine: Engine
) -> None:
    first = create(client, message="贈る", simulate={"fail_times": 1})

    for _ in range(3):
        again = create(client, message="贈る", simulate={"fail_times": 1})
        assert (again.status_code, again.data) == (201, first.data)
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotent-Replayed"] == "true"
    assert contents(engine)["gifts"] == 1


def test_the_answer_stays_what_it_was_when_the_gift_goes_on(client: FlaskClient) -> None:
    first = create(client)
    gift_id = first.get_json()["gift_id"]
    client.post(f"/gifts/{gift_id}/send", headers={"Idempotency-Key": "send-1"})

    assert create(client).data == first.data
    assert client.get(f"/gifts/{gift_id}").get_json()["status"] == "QUEUED"


@pytest.mark.parametrize(
    "spelled", [b'{"message":"hi","amount":5}', b'{\n "amount" : 5, "message": "\\u0068i" }']
)
def test_another_spelling_of_the_same_body_is_the_same_body(
    client: FlaskClient, spelled: bytes
) -> None:
    first = create(client, message="hi")

    again = client.post(
        "/gifts",
        data=spelled,
        content_type="application/json",
        headers={"Idempotency-Key": "order-1"},
    )

    assert (again.status_code, again.data) == (201, first.data)


@pytest.mark.parametrize(
    "other",
    [
        {"amount": 6},
        {"message": "hello"},
        {"message": None},
        {"recipient": "hanako@example.com"},
        {"simulate": {}},
    ],
)
def test_another_body_under_the_key_is_422_and_nothing_happens(
    client: FlaskClient, engine: Engine, other: dict[str, Any]
) -> None:
    create(client)
    before = contents(engine)

    refused(create(client, **other), 422, "IDEMPOTENCY_KEY_REUSED")

    assert contents(engine) == before
    assert create(client).headers["Idempotent-Replayed"] == "true", "the key still answers"


def test_without_a_key_each_request_is_another_gift(client: FlaskClient, engine: Engine) -> None:
    ids = {create(client, key=None).get_json()["gift_id"] for _ in range(2)}

    assert len(ids) == 2
    assert contents(engine)["idempotency_keys"] == 0


def test_keys_differ_in_every_character(client: FlaskClient, engine: Engine) -> None:
    keys = ["order-1", "Order-1", "order-1 x", "order_1", "o" * 255, "'; DROP TABLE gifts; --"]

    assert {create(client, key=key).status_code for key in keys} == {201}
    assert contents(engine)["gifts"] == len(keys)


def test_the_keys_of_two_accounts_do_not_meet(app: Flask, session: Session) -> None:
    answers = []
    for amount in (5, 6):
        _, key = accounts.key(session)
        session.commit()
        client = app.test_client()
        client.environ_base["HTTP_X_API_KEY"] = key
        answers.append(create(client, amount=amount))

    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].get_json()["code"] != answers[1].get_json()["code"]
    assert "Idempotent-Replayed" not in answers[1].headers


def test_a_key_lives_24_hours(client: FlaskClient, engine: Engine) -> None:
    first = create(client).get_json()

    shift(engine, timedelta(hours=23, minutes=59))
    assert create(client).get_json() == first

    shift(engine, timedelta(minutes=1))
    second = create(client, amount=6)
    assert second.status_code == 201, "an expired key takes another body"
    assert second.get_json()["gift_id"] != first["gift_id"]
    assert create(client, amount=6).data == second.data, "and lives for another 24 hours"
    shift(engine, timedelta(hours=23, minutes=59))
    assert create(client, amount=6).data == second.data


def test_while_the_first_is_running_the_second_is_409(
    client: FlaskClient, engine: Engine, session: Session
) -> None:
    """Two real connections: `session` is the first request, halfway."""
    accounts_service.local_operator(session)
    session.commit()
    first = service.once(
        session,
        account_id=accounts_service.LOCAL_OPERATOR_ID,
        scope=SCOPE,
        key="order-1",
        request={"amount": 5},
        answer=lambda: {"gift_id": str(UUID(int=1))},
    )
    assert not first.replayed

    refused(create(client), 409, "CONFLICT")
    refused(create(client, amount=6), 409, "CONFLICT")
    assert create(client, key="order-2").status_code == 201, "other keys do not wait"
    session.commit()

    assert create(client).get_json() == first.body


def test_when_the_first_fails_the_second_is_the_first(
    client: FlaskClient, engine: Engine, session: Session
) -> None:
    accounts_service.local_operator(session)
    session.commit()
    once(session, accounts_service.LOCAL_OPERATOR_ID, request={"amount": 5})
    refused(create(client), 409, "CONFLICT")

    session.rollback()

    response = create(client)
    assert response.status_code == 201
    assert "Idempotent-Replayed" not in response.headers


# --- the service --------------------------------------------------------------------------------


def once(
    session: Session,
    account_id: UUID,
    *,
    key: str = "order-1",
    scope: str = SCOPE,
    request: dict[str, Any] | None = None,
    answer: Callable[[], dict[str, Any]] = lambda: {"answer": 1},
) -> service.Answer:
    return service.once(
        session,
        account_id=account_id,
        scope=scope,
        key=key,
        request=request or {},
        answer=answer,
    )


def test_a_crash_between_the_effect_and_the_answer_leaves_neither(
    engine: Engine, session: Session
) -> None:
    owner = accounts.principal(session)
    session.commit()

    def half() -> dict[str, Any]:
        gifts.created(inner, owner=owner)
        raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError), db.transaction() as inner:
        once(inner, owner.account_id, answer=half)

    assert set(contents(engine).values()) == {0}
    with db.transaction() as inner:
        assert not once(inner, owner.account_id).replayed, "the key is free again"


def test_a_crash_after_the_answer_and_before_the_commit_leaves_neither(
    engine: Engine, session: Session
) -> None:
    owner = accounts.principal(session)
    session.commit()

    def half() -> None:
        with db.transaction() as inner:
            once(inner, owner.account_id, answer=lambda: {"id": str(gifts.created(inner).id)})
            raise RuntimeError("the process dies here")

    with pytest.raises(RuntimeError):
        half()

    assert set(contents(engine).values()) == {0}


def test_operations_do_not_share_their_keys(session: Session) -> None:
    account_id = accounts.principal(session).account_id

    first = once(session, account_id, scope="POST /gifts")
    other = once(session, account_id, scope="POST /jobs", request={"other": True})

    assert (first.replayed, other.replayed) == (False, False)


def test_the_order_of_the_fields_of_an_answer_is_kept(session: Session) -> None:
    account_id = accounts.principal(session).account_id
    answer = {"z": 1, "a": 2, "m": {"y": 1, "b": 2}}
    once(session, account_id, answer=lambda: answer)
    session.expire_all()

    replay = once(session, account_id, answer=dict)

    assert replay.replayed
    assert repr(replay.body) == repr(answer)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"at": UUID(int=1)}, {"at": UUID(int=1)}),
    ],
)
def test_equal_requests_have_one_fingerprint(
    session: Session, first: dict[str, Any], second: dict[str, Any]
) -> None:
    account_id = accounts.principal(session).account_id
    once(session, account_id, request=first)

    assert once(session, account_id, request=second).replayed


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": {"b": 1}}, {"a": {"c": 1}}),
        ({"a": "\u00e9"}, {"a": "e\u0301"}),  # one character, and a letter with its accent
    ],
)
def test_unequal_requests_do_not(
    session: Session, first: dict[str, Any], second: dict[str, Any]
) -> None:
    account_id = accounts.principal(session).account_id
    once(session, account_id, request=first)

    with pytest.raises(IdempotencyKeyReused):
        once(session, account_id, request=second)


def test_a_running_key_is_a_conflict_for_another_connection_only(
    engine: Engine, session: Session
) -> None:
    account_id = accounts.principal(session).account_id
    session.commit()
    once(session, account_id)
    assert once(session, account_id).replayed

    with pytest.raises(Conflict), db.transaction() as other:
        once(other, account_id)


def test_a_running_key_stops_neither_another_account_nor_another_operation(
    engine: Engine, session: Session
) -> None:
    mine, theirs = (accounts.principal(session).account_id for _ in range(2))
    session.commit()
    once(session, mine)

    with db.transaction() as other:
        assert not once(other, theirs).replayed
        assert not once(other, mine, scope="POST /jobs").replayed


# --- expiry -------------------------------------------------------------------------------------


def test_expired_keys_are_forgotten_in_portions_and_living_ones_stay(
    engine: Engine, session: Session
) -> None:
    account_id = accounts.principal(session).account_id
    for number in range(5):
        once(session, account_id, key=f"old-{number}")
    session.commit()
    shift(engine, service.LIFETIME)
    once(session, account_id, key="new")
    session.commit()

    deleted = []
    for _ in range(4):
        deleted.append(service.forget_expired(session, limit=2))
        session.commit()

    assert deleted == [2, 2, 1, 0]
    keys = session.execute(text("SELECT key FROM idempotency_keys")).scalars().all()
    assert keys == ["new"]


def test_two_sweeps_at_once_do_not_wait_for_each_other(engine: Engine, session: Session) -> None:
    account_id = accounts.principal(session).account_id
    for number in range(4):
        once(session, account_id, key=f"old-{number}")
    session.commit()
    shift(engine, service.LIFETIME)

    assert service.forget_expired(session, limit=3) == 3
    with db.transaction() as other:
        assert service.forget_expired(other, limit=3) == 1
    session.commit()
    assert contents(engine)["idempotency_keys"] == 0


def test_expiry_is_found_by_its_index(session: Session) -> None:
    session.execute(text("SET LOCAL enable_seqscan = off"))
    plan = session.execute(
        text("EXPLAIN SELECT 1 FROM idempotency_keys WHERE expires_at <= now() LIMIT 10")
    ).scalars()

    assert "ix_idempotency_keys_expires_at" in "\n".join(plan)
