"""API keys: shown once, kept as a hash, revoked for good."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner, Result
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import create_app
from app.accounts import service
from app.config import Settings
from okuru.cli import main
from tests.factories import accounts
from tests.integration.api import refused

# Also where only the command uses the database: the rows go when the test is over.
pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def client(settings: Settings, engine: Engine) -> FlaskClient:
    """As in production: nobody without a key."""
    return create_app(replace(settings, environment="production")).test_client()


@pytest.fixture
def key(session: Session) -> str:
    made = accounts.key(session)[1]
    session.commit()
    return made


def okuru(settings: Settings, *arguments: str) -> Result:
    """The operator's command, in this process."""
    return CliRunner().invoke(main, arguments, env={"DATABASE_URL": settings.database_url})


def made(settings: Settings, *arguments: str) -> dict[str, Any]:
    result = okuru(settings, "keys", "create", "--json", *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def asks(client: FlaskClient, key: str) -> int:
    return client.get("/gifts", headers={"X-API-Key": key}).status_code


# --- the secret ---------------------------------------------------------------------------------


def test_only_the_hash_of_a_key_is_in_the_database(session: Session, key: str) -> None:
    rows = session.execute(
        text("SELECT to_jsonb(api_keys)::text, to_jsonb(users)::text, hash FROM api_keys, users")
    ).all()

    ((api_key, user, digest),) = rows
    assert bytes(digest) == hashlib.sha256(key.encode()).digest()
    for secret in (key, key.removeprefix(service.KEY_PREFIX)):
        assert secret not in api_key + user
        assert secret.encode().hex() not in api_key + user


def test_keys_are_long_random_and_recognisable(session: Session) -> None:
    keys = {accounts.key(session)[1] for _ in range(20)}

    assert len(keys) == 20
    for key in keys:
        assert key.startswith("okuru_")
        assert len(key) >= len("okuru_") + 43, "256 bits in base64"


def test_what_a_stolen_row_holds_opens_nothing(
    session: Session, client: FlaskClient, key: str
) -> None:
    row = session.execute(text("SELECT id, hash FROM api_keys")).one()

    for stolen in (str(row.id), bytes(row.hash).hex(), "\\x" + bytes(row.hash).hex()):
        assert asks(client, stolen) == 401
    assert asks(client, key) == 200


@pytest.mark.parametrize("length", [0, 31, 33])
def test_the_database_refuses_what_is_no_hash(session: Session, length: int) -> None:
    owner = accounts.principal(session)

    with pytest.raises(IntegrityError, match="ck_api_keys_hash"):
        session.execute(
            text("INSERT INTO api_keys VALUES (gen_random_uuid(), :user, 'user', '', :hash)"),
            {"user": owner.account_id, "hash": b"x" * length},
        )


# --- the door -----------------------------------------------------------------------------------


def test_a_key_opens_the_api(client: FlaskClient, key: str) -> None:
    assert asks(client, key) == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda key: "",
        lambda key: " ",
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: key.upper(),
        lambda key: key.removeprefix("okuru_"),
        lambda key: f"{key},{key}",
        lambda key: "okuru_" + "x" * 43,
        lambda key: "x" * 4000,
        lambda key: "clé",
        lambda key: "' OR 1=1 --",
        lambda key: "a\x00b",
    ],
)
def test_anything_but_the_key_is_401(client: FlaskClient, key: str, change: Any) -> None:
    response = client.get("/gifts", headers={"X-API-Key": change(key)})

    error = refused(response, 401, "UNAUTHENTICATED")
    assert error["message"] == "the API key is unknown or revoked"
    assert response.headers["WWW-Authenticate"] == 'ApiKey realm="okuru"'


def test_no_key_is_401_and_says_what_to_send(client: FlaskClient) -> None:
    response = client.get("/gifts")

    assert "X-API-Key" in refused(response, 401, "UNAUTHENTICATED")["message"]
    assert response.headers["WWW-Authenticate"] == 'ApiKey realm="okuru"'


def test_a_key_elsewhere_than_in_its_header_is_no_key(client: FlaskClient, key: str) -> None:
    for request in (
        {"query_string": {"X-API-Key": key}},
        {"query_string": {"api_key": key}},
        {"headers": {"Authorization": f"Bearer {key}"}},
        {"headers": {"Cookie": f"X-API-Key={key}"}},
    ):
        refused(client.get("/gifts", **request), 401, "UNAUTHENTICATED")


def test_the_key_of_an_account_that_is_not_active_is_401(
    client: FlaskClient, session: Session, engine: Engine
) -> None:
    _, key = accounts.key(session)
    session.commit()
    headers = {"X-API-Key": key}
    assert client.get("/gifts", headers=headers).status_code == 200
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET is_active = false"))
    refused(client.get("/gifts", headers=headers), 401, "UNAUTHENTICATED")


def test_a_revoked_key_is_401_at_once_and_its_account_keeps_its_gifts(
    client: FlaskClient, session: Session
) -> None:
    old_id, old = accounts.key(session, email="hanako@example.com")
    _, new = accounts.key(session, email="Hanako@Example.com")
    session.commit()
    gift = client.post("/gifts", json={"amount": 5}, headers={"X-API-Key": old}).get_json()

    service.revoke_key(session, old_id)
    session.commit()

    assert asks(client, old) == 401
    found = client.get(f"/gifts/{gift['gift_id']}", headers={"X-API-Key": new})
    assert found.get_json()["code"] == gift["code"]


def test_the_operators_routes_need_an_operator(client: FlaskClient, session: Session) -> None:
    _, user = accounts.key(session)
    _, operator = accounts.key(session, role="operator")
    session.commit()

    refused(client.get("/metrics", headers={"X-API-Key": user}), 403, "FORBIDDEN")
    assert client.get("/metrics", headers={"X-API-Key": operator}).status_code == 200


# --- okuru keys ---------------------------------------------------------------------------------


def test_create_prints_the_key_and_nothing_else_to_stdout(
    settings: Settings, client: FlaskClient
) -> None:
    result = okuru(settings, "keys", "create", "hanako@example.com")

    assert result.exit_code == 0
    assert asks(client, result.stdout.removesuffix("\n")) == 200
    assert "not shown again" in result.stderr


def test_create_for_scripts(settings: Settings, client: FlaskClient, session: Session) -> None:
    created = made(settings, "hanako@example.com", "--role", "operator", "--name", "till")

    assert created.keys() == {"key_id", "key", "email", "role"}
    assert UUID(created["key_id"])
    assert service.authenticate(session, created["key"]).role == "operator"
    assert client.get("/metrics", headers={"X-API-Key": created["key"]}).status_code == 200


def test_two_keys_of_one_address_are_of_one_account(settings: Settings, session: Session) -> None:
    first, second = made(settings, "hanako@example.com"), made(settings, "HANAKO@example.com")

    assert (
        service.authenticate(session, first["key"]).account_id
        == service.authenticate(session, second["key"]).account_id
    )


def test_a_key_is_a_users_unless_said_otherwise(settings: Settings, session: Session) -> None:
    created = made(settings, "hanako@example.com")

    assert service.authenticate(session, created["key"]).role == "user"


def test_list_shows_every_key_and_no_secret(settings: Settings) -> None:
    created = [made(settings, "a@example.com", "--name", "till"), made(settings, "b@example.com")]
    assert okuru(settings, "keys", "revoke", created[0]["key_id"]).exit_code == 0

    for arguments in (["keys", "list"], ["keys", "list", "--json"]):
        output = okuru(settings, *arguments).output
        assert "a@example.com" in output
        for one in created:
            assert one["key"] not in output
            assert hashlib.sha256(one["key"].encode()).hexdigest() not in output

    items = json.loads(okuru(settings, "keys", "list", "--json").stdout)["items"]
    assert [(item["key_id"], item["email"], item["name"]) for item in items] == [
        (created[0]["key_id"], "a@example.com", "till"),
        (created[1]["key_id"], "b@example.com", ""),
    ]
    assert [item["revoked_at"] is not None for item in items] == [True, False]


def test_revoke_closes_the_key_and_may_be_repeated(settings: Settings, client: FlaskClient) -> None:
    created = made(settings, "hanako@example.com")

    for _ in range(2):
        assert okuru(settings, "keys", "revoke", created["key_id"]).exit_code == 0
    assert asks(client, created["key"]) == 401


def test_revoking_again_keeps_the_first_moment(settings: Settings, session: Session) -> None:
    created = made(settings, "hanako@example.com")
    moments = []
    for _ in range(2):
        okuru(settings, "keys", "revoke", created["key_id"])
        moments.append(session.execute(text("SELECT revoked_at FROM api_keys")).scalar_one())
        session.commit()

    assert moments[0] == moments[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["revoke", str(uuid4())], "no API key"),
        (["revoke", "not-a-uuid"], "not a valid UUID"),
        (["create", "a@example.com", "--role", "king"], "king"),
        (["create"], "EMAIL"),
    ],
)
def test_a_mistake_is_a_sentence_and_not_a_traceback(
    settings: Settings, engine: Engine, arguments: list[str], says: str
) -> None:
    result = okuru(settings, "keys", *arguments)

    assert result.exit_code != 0
    assert says in result.output
    assert isinstance(result.exception, SystemExit)


def test_without_a_database_it_says_which_variable() -> None:
    result = CliRunner().invoke(main, ["keys", "list"], env={"DATABASE_URL": None})

    assert result.exit_code != 0
    assert "DATABASE_URL" in result.output


def test_a_database_that_is_away_is_a_sentence() -> None:
    nowhere = {"DATABASE_URL": "postgresql+psycopg2://okuru:hunter2@127.0.0.1:1/okuru"}
    result = CliRunner().invoke(main, ["keys", "list"], env=nowhere)

    assert result.exit_code != 0
    assert "the database does not answer" in result.output
    assert "hunter2" not in result.output
