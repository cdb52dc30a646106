"""A password is kept as a hash, and nowhere else, not even as that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError
from argon2.low_level import Type
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app import db
from tests.integration.api import Events, refused
from tests.integration.users.conftest import ClientIn

PASSWORD = "correct-horse-battery"


def post(client: FlaskClient, **fields: Any) -> Any:
    return client.post(
        "/users",
        json={"email": "hanako@example.com", "age": 30, **fields},
        headers={"Idempotency-Key": "order-1"},
    )


def kept(session: Session) -> str | None:
    found: str | None = session.execute(
        text("SELECT password_hash FROM users WHERE email = 'hanako@example.com'")
    ).scalar_one()
    return found


def everything(engine: Engine) -> dict[str, str]:
    """All that the database holds, as text, by table."""
    with engine.connect() as connection:
        return {
            table.name: connection.execute(
                text(f"SELECT coalesce(string_agg(t::text, ' '), '') FROM {table.name} t")
            ).scalar_one()
            for table in db.Base.metadata.sorted_tables
        }


@pytest.mark.parametrize(
    "password", [PASSWORD, "１２３４５６７８", "🎁" * 128, " " * 8, "a\tb\nc\rd "]
)
def test_a_password_is_kept_as_an_argon2id_hash(
    client: FlaskClient, session: Session, password: str
) -> None:
    assert post(client, password=password).status_code == 201

    hash_ = kept(session)
    assert hash_ is not None
    assert PasswordHasher().verify(hash_, password)
    with pytest.raises(VerifyMismatchError):
        PasswordHasher().verify(hash_, password + "x")


def test_the_hash_is_as_dear_as_owasp_asks(client: FlaskClient, session: Session) -> None:
    post(client, password=PASSWORD)

    found = extract_parameters(kept(session) or "")
    assert found.type is Type.ID
    assert (found.memory_cost, found.time_cost, found.parallelism) >= (19 * 1024, 2, 1)
    assert found.salt_len >= 16


def test_equal_passwords_have_different_hashes(client: FlaskClient, session: Session) -> None:
    for number in range(2):
        post(client, email=f"person{number}@example.com", password=PASSWORD)

    hashes = session.execute(
        text("SELECT password_hash FROM users WHERE email LIKE 'person%'")
    ).scalars()
    assert len(set(hashes)) == 2


def test_without_a_password_there_is_no_hash(client: FlaskClient, session: Session) -> None:
    post(client)

    assert kept(session) is None


@pytest.mark.parametrize("mode", ["default", "flexible", "strict"])
def test_neither_password_nor_hash_leaves_the_row(
    client_in: ClientIn, engine: Engine, session: Session, events: Events, mode: str
) -> None:
    client = client_in(mode)
    response = post(client, password=PASSWORD)
    user = response.get_json()
    answers = [
        response,
        post(client, password=PASSWORD),  # taken
        client.get(f"/users/{user['user_id']}"),
        client.get("/jobs"),
    ]

    told = " ".join(answer.text for answer in answers) + json.dumps(events())

    hash_ = kept(session)
    assert hash_ is not None
    assert "user created" in told
    assert "user_created" in answers[3].text
    for secret in (PASSWORD, hash_, "argon2", "password"):
        assert secret not in told
    tables = everything(engine)
    assert "Argon2" not in tables["users"]
    for name, contents in tables.items():
        assert PASSWORD not in contents, name
        assert (hash_ in contents) == (name == "users"), name
    assert tables["idempotency_keys"] == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"password": "hunter2" * 20},
        {"password": "hunter2-\x00"},
        {"password": ["hunter2-hunter2"]},
        {"password": "hunter2-hunter2", "age": -1},
    ],
)
def test_a_refusal_quotes_no_password(
    client: FlaskClient, events: Events, fields: dict[str, Any]
) -> None:
    response = post(client, **fields)

    refused(response, 400, "VALIDATION_ERROR")
    assert "hunter2" not in response.text
    assert "hunter2" not in json.dumps(events())
