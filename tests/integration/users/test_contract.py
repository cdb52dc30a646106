"""What the routes of users answer, in each VALIDATION_MODE."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.accounts.models import User
from app.users.schemas import MAX_ADDITIONAL
from tests.factories import accounts
from tests.integration.api import contents, refused
from tests.integration.users.conftest import ClientIn

MODES = ("default", "flexible", "strict")

#: A field that is complained about, or what is stored.
Expected = str | dict[str, Any]


def everywhere(expected: Expected) -> dict[str, Expected]:
    return dict.fromkeys(MODES, expected)


def coerced(field: str, value: Any) -> dict[str, Expected]:
    """Taken by all but strict."""
    return {**everywhere({field: value}), "strict": field}


def unknown(name: str, value: Any) -> dict[str, Expected]:
    return {**everywhere(name), "flexible": {"additional_data": {name: value}}}


PLAIN = {"name": None, "bio": None, "is_active": True, "additional_data": {}, "profile": None}

#: {what: (fields, mode -> what becomes of them)}
BODIES: dict[str, tuple[dict[str, Any], dict[str, Expected]]] = {
    "the least": ({}, everywhere({**PLAIN, "age": 30, "email": "hanako@example.com"})),
    "all": (
        {"name": "花子", "bio": "🎁 \u202e", "is_active": False, "password": "correct horse"},
        everywhere({**PLAIN, "name": "花子", "bio": "🎁 \u202e", "is_active": False}),
    ),
    # age
    "age 0": ({"age": 0}, everywhere({"age": 0})),
    "age 2^31 - 1": ({"age": 2**31 - 1}, everywhere({"age": 2**31 - 1})),
    'age "30"': ({"age": "30"}, coerced("age", 30)),
    'age "0"': ({"age": "0"}, coerced("age", 0)),
    'age "007"': ({"age": "007"}, coerced("age", 7)),
    "age -1": ({"age": -1}, everywhere("age")),
    'age "-1"': ({"age": "-1"}, everywhere("age")),
    "age 2^31": ({"age": 2**31}, everywhere("age")),
    'age "2^31"': ({"age": str(2**31)}, everywhere("age")),
    "age 10^100": ({"age": 10**100}, everywhere("age")),
    "age of 5,000 digits as text": ({"age": "9" * 5000}, everywhere("age")),
    "age 1.0": ({"age": 1.0}, everywhere("age")),
    "age 30.5": ({"age": 30.5}, everywhere("age")),
    'age "30.0"': ({"age": "30.0"}, everywhere("age")),
    'age "1e2"': ({"age": "1e2"}, everywhere("age")),
    "age true": ({"age": True}, everywhere("age")),
    "age false": ({"age": False}, everywhere("age")),
    'age "true"': ({"age": "true"}, everywhere("age")),
    "age null": ({"age": None}, everywhere("age")),
    'age ""': ({"age": ""}, everywhere("age")),
    'age " 30"': ({"age": " 30"}, everywhere("age")),
    'age "30\\n"': ({"age": "30\n"}, everywhere("age")),
    'age "+30"': ({"age": "+30"}, everywhere("age")),
    'age "3_0"': ({"age": "3_0"}, everywhere("age")),
    'age "0x1e"': ({"age": "0x1e"}, everywhere("age")),
    "age in full-width digits": ({"age": "３０"}, everywhere("age")),
    "age a list": ({"age": [30]}, everywhere("age")),
    "age an object": ({"age": {"$gt": 0}}, everywhere("age")),
    # is_active: a boolean, and nothing that looks like one
    "is_active true": ({"is_active": True}, everywhere({"is_active": True})),
    'is_active "true"': ({"is_active": "true"}, everywhere("is_active")),
    "is_active 1": ({"is_active": 1}, everywhere("is_active")),
    "is_active 0": ({"is_active": 0}, everywhere("is_active")),
    "is_active null": ({"is_active": None}, everywhere("is_active")),
    # texts
    "name null": ({"name": None, "bio": None}, everywhere({"name": None, "bio": None})),
    "name empty": ({"name": "", "bio": ""}, everywhere({"name": "", "bio": ""})),
    "name of digits": ({"name": "30"}, everywhere({"name": "30"})),
    "name 200": ({"name": "🎁" * 200}, everywhere({"name": "🎁" * 200})),
    "name 201": ({"name": "x" * 201}, everywhere("name")),
    "name a number": ({"name": 30}, everywhere("name")),
    "name true": ({"name": True}, everywhere("name")),
    "name a list": ({"name": ["花子"]}, everywhere("name")),
    "name with NUL": ({"name": "a\x00"}, everywhere("name")),
    "name with a surrogate": ({"name": "\ud800"}, everywhere("name")),
    "name of SQL": ({"name": "'); DROP TABLE users; --"}, everywhere({"bio": None})),
    "bio 2,000": ({"bio": "x" * 2000}, everywhere({"bio": "x" * 2000})),
    "bio 2,001": ({"bio": "x" * 2001}, everywhere("bio")),
    "bio with NUL": ({"bio": "\x00"}, everywhere("bio")),
    # password
    "password of 8": ({"password": "12345678"}, everywhere(PLAIN)),
    "password of 128": ({"password": "🎁" * 128}, everywhere(PLAIN)),
    "password of 7": ({"password": "1234567"}, everywhere("password")),
    "password of 129": ({"password": "x" * 129}, everywhere("password")),
    "password a number": ({"password": 1234567890}, everywhere("password")),
    "password null": ({"password": None}, everywhere("password")),
    "password with NUL": ({"password": "12345678\x00"}, everywhere("password")),
    # what is not known
    "hobby": ({"hobby": "釣り"}, unknown("hobby", "釣り")),
    "null": ({"hobby": None}, unknown("hobby", None)),
    "a tree": ({"tree": {"a": [1, {"b": 1.5}]}}, unknown("tree", {"a": [1, {"b": 1.5}]})),
    "a name with a dot": ({"a.b": 1}, unknown("a.b", 1)),
    "a name of nothing": ({"": 1}, unknown("", 1)),
    "a name in Japanese": ({"趣味": 1}, unknown("趣味", 1)),
    "a known name in capitals": ({"Age": 5}, unknown("Age", 5)),
    "true": ({"score": True}, unknown("score", True)),
    '"1"': ({"score": "1"}, unknown("score", "1")),
    "a role of one's choice": ({"role": "operator"}, unknown("role", "operator")),
    "NUL in it": ({"hobby": ["\x00"]}, {**everywhere("hobby"), "flexible": "_schema"}),
    "a surrogate in it": ({"hobby": "\udfff"}, {**everywhere("hobby"), "flexible": "_schema"}),
    "NUL in its name": ({"\x00": 1}, {**everywhere("\x00"), "flexible": "_schema"}),
}
#: Names of the table's columns, and of the answer's fields, that no caller may write.
SHADOWS: dict[str, Any] = {
    "id": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11",
    "user_id": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11",
    "profile": {"rank": "gold"},
    "additional_data": {"hobby": "a"},
    "created_at": "2000-01-01T00:00:00Z",
}
for _name, _value in SHADOWS.items():
    BODIES[f"{_name} of one's choice"] = ({_name: _value}, unknown(_name, _value))


def post(client: FlaskClient, **fields: Any) -> Any:
    """A request for a user, as its own JSON: lone surrogates and all."""
    body = {"email": "hanako@example.com", "age": 30, **fields}
    return client.post("/users", data=json.dumps(body), content_type="application/json")


def created(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    response = post(client, **fields)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.get_json()
    return answer


def users(session: Session) -> list[User]:
    """All but those that were made for keys."""
    return session.query(User).filter(User.age.is_not(None)).all()


def jobs(session: Session) -> list[Any]:
    return list(session.execute(text("SELECT * FROM jobs")))


# --- create -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("fields", "by_mode"), BODIES.values(), ids=BODIES)
def test_what_becomes_of_a_body_in_each_mode(
    client_in: ClientIn,
    session: Session,
    fields: dict[str, Any],
    by_mode: dict[str, Expected],
    mode: str,
) -> None:
    client, expected = client_in(mode), by_mode[mode]

    response = post(client, **fields)

    if isinstance(expected, str):
        error = refused(response, 400, "VALIDATION_ERROR")
        assert error["details"].keys() == {expected}
        assert (users(session), jobs(session)) == ([], [])
        return
    assert response.status_code == 201, response.text
    answer = response.get_json()
    assert answer | expected == answer
    assert client.get(f"/users/{answer['user_id']}").get_json() == answer
    (user,) = users(session)
    for name, value in expected.items():
        # Not by ==, for which 1 is True.
        assert json.dumps(getattr(user, name)) == json.dumps(value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("missing", ["email", "age"])
def test_what_must_be_there(client_in: ClientIn, mode: str, missing: str) -> None:
    body = {"email": "hanako@example.com", "age": 30}
    del body[missing]

    error = refused(client_in(mode).post("/users", json=body), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {missing}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("body", ["null", "[]", '"a"', "5", '[{"email": "a@example.com"}]'])
def test_a_body_that_is_no_object(client_in: ClientIn, mode: str, body: str) -> None:
    response = client_in(mode).post("/users", data=body, content_type="application/json")

    error = refused(response, 400, "VALIDATION_ERROR")
    assert error["details"].keys() == {"_schema"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "value", ["NaN", "1e", "[" * 40 + "]" * 40, '1, "email": "other@example.com"', "9" * 5000]
)
def test_a_body_that_is_no_json(client_in: ClientIn, mode: str, value: str) -> None:
    body = f'{{"email": "hanako@example.com", "age": 30, "hobby": {value}}}'

    response = client_in(mode).post("/users", data=body, content_type="application/json")

    assert "not valid JSON" in refused(response, 400, "VALIDATION_ERROR")["message"]


def test_a_new_user_has_an_id_and_a_place(client: FlaskClient) -> None:
    response = post(client)

    answer = response.get_json()
    assert list(answer) == [
        "user_id", "email", "age", "name", "bio", "is_active", "additional_data", "profile",
        "created_at",
    ]  # fmt: skip
    assert UUID(answer["user_id"]).version == 4
    assert response.headers["Location"] == f"/users/{answer['user_id']}"
    assert client.get(response.headers["Location"]).get_json() == answer


def test_its_place_has_the_prefix_under_which_it_was_asked(client: FlaskClient) -> None:
    response = client.post("/api/v1/users", json={"email": "a@example.com", "age": 1})

    assert response.headers["Location"] == f"/api/v1/users/{response.get_json()['user_id']}"
    assert client.get(response.headers["Location"]).status_code == 200


# --- fields that nobody knows -------------------------------------------------------------------


def test_names_of_columns_write_no_columns(client_in: ClientIn, session: Session) -> None:
    answer = created(client_in("flexible"), **SHADOWS)

    (user,) = users(session)
    assert str(user.id) == answer["user_id"] != SHADOWS["id"]
    assert (user.password_hash, user.profile) == (None, None)
    assert user.created_at.year > 2000
    assert user.additional_data == answer["additional_data"] == SHADOWS


@pytest.mark.parametrize("name", ["Password", "password_hash", "passwd", "api_token", "mySecret"])
def test_what_may_be_a_misspelt_secret_is_not_kept(
    client_in: ClientIn, session: Session, name: str
) -> None:
    """It would stand in the clear in the user, in the job, and in both answers."""
    response = post(client_in("flexible"), **{name: "hunter2-hunter2"})
    error = refused(response, 400, "VALIDATION_ERROR")
    assert error["details"] == {name: ["Not kept: it may be a secret."]}
    assert "hunter2" not in response.text
    assert users(session) == jobs(session) == []


def test_what_is_not_known_reaches_the_job(client_in: ClientIn, session: Session) -> None:
    answer = created(client_in("flexible"), hobby=["a", None], score=1.5)

    (job,) = jobs(session)
    assert job.payload == {
        "user_id": answer["user_id"],
        "additional_data": {"hobby": ["a", None], "score": 1.5},
    }


@pytest.mark.parametrize(("count", "status"), [(MAX_ADDITIONAL, 201), (MAX_ADDITIONAL + 1, 400)])
def test_how_many_fields_may_be_unknown(client_in: ClientIn, count: int, status: int) -> None:
    fields = {f"f{number}": number for number in range(count)}

    assert post(client_in("flexible"), **fields).status_code == status


# --- the job ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_its_job_is_staged_in_the_same_transaction(
    client_in: ClientIn, session: Session, mode: str
) -> None:
    answer = created(client_in(mode), name="花子")

    (job,) = jobs(session)
    assert (job.job_type, job.status, job.priority) == ("user_created", "PENDING", 1)
    assert job.payload == {"user_id": answer["user_id"], "additional_data": {}}
    staged = session.execute(text("SELECT queue, kwargs FROM outbox")).one()
    assert (staged.queue, staged.kwargs["job_id"]) == ("jobs-default", str(job.id))


def test_without_its_job_there_is_no_user(
    client: FlaskClient, engine: Engine, session: Session
) -> None:
    """The user is written first; then the jobs stay out of reach for longer than a lock may."""
    client.get("/users/3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11")  # the local operator exists
    with engine.begin() as other:
        other.execute(text("LOCK TABLE jobs IN SHARE MODE"))
        refused(post(client), 503, "UNAVAILABLE")

    assert (users(session), set(contents(engine).values())) == ([], {0})
    assert post(client).status_code == 201


# --- see ----------------------------------------------------------------------------------------


def headers(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


def test_who_sees_whom(production: FlaskClient, session: Session) -> None:
    keys = {
        "operator": accounts.key(session, email="boss@example.com", role="operator")[1],
        "hanako": accounts.key(session, email="hanako@example.com")[1],
        "taro": accounts.key(session, email="taro@example.com")[1],
    }
    session.commit()
    ids = {row.email: row.id for row in session.execute(text("SELECT email, id FROM users"))}

    def see(who: str, whom: UUID) -> Any:
        return production.get(f"/users/{whom}", headers=headers(keys[who]))

    assert see("hanako", ids["hanako@example.com"]).get_json()["email"] == "hanako@example.com"
    for whom in ids.values():
        assert see("operator", whom).get_json()["user_id"] == str(whom)
    refusal = see("taro", ids["hanako@example.com"])
    refused(refusal, 403, "FORBIDDEN")
    assert "hanako" not in refusal.text
    for who in keys:
        assert refused(see(who, uuid4()), 404, "NOT_FOUND")["message"] == "user not found"


def test_an_account_that_was_made_for_a_key_has_no_age(
    production: FlaskClient, session: Session
) -> None:
    key = accounts.key(session, email="hanako@example.com")[1]
    session.commit()
    user_id = session.execute(text("SELECT id FROM users")).scalar_one()

    found = production.get(f"/users/{user_id}", headers=headers(key)).get_json()

    assert found | {**PLAIN, "age": None} == found


def test_users_are_made_by_operators(
    production: FlaskClient, session: Session, engine: Engine
) -> None:
    key = accounts.key(session)[1]
    session.commit()
    body = {"email": "hanako@example.com", "age": 30}

    refused(production.post("/users", json=body), 401, "UNAUTHENTICATED")
    refused(production.post("/users", json=body, headers=headers(key)), 403, "FORBIDDEN")
    # Who may not ask is told nothing about what was asked.
    response = production.post("/users", data=b"{", headers=headers(key))
    refused(response, 403, "FORBIDDEN")

    assert users(session) == []
    assert set(contents(engine).values()) == {0}


def test_an_operator_with_a_key_makes_users(production: FlaskClient, session: Session) -> None:
    key = accounts.key(session, email="boss@example.com", role="operator")[1]
    session.commit()
    body = {"email": "hanako@example.com", "age": 30}

    assert production.post("/users", json=body, headers=headers(key)).status_code == 201
    (job,) = jobs(session)
    boss = session.execute(
        text("SELECT id FROM users WHERE email = 'boss@example.com'")
    ).scalar_one()
    assert job.account_id == boss, "who asked may watch it"


# --- the document -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("default", "unknown fields are refused; a text of digits is taken as a number"),
        ("flexible", "unknown fields are kept in `additional_data`"),
        ("strict", "nothing is coerced"),
    ],
)
def test_the_document_says_which_mode_is_on(client_in: ClientIn, mode: str, words: str) -> None:
    document = client_in(mode).get("/openapi.json").get_json()

    (tag,) = [tag for tag in document["tags"] if tag["name"] == "users"]
    assert f"VALIDATION_MODE={mode}" in tag["description"]
    operation = document["paths"]["/users"]["post"]
    assert f"Validation is `{mode}`" in operation["description"]
    assert words in operation["description"]
    place = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schema = document["components"]["schemas"][place.rpartition("/")[2]]
    assert schema.get("additionalProperties", False) is (mode == "flexible")
    assert {"email", "age"} == set(schema["required"])
    assert "password" not in document["components"]["schemas"]["UserOut"]["properties"]
