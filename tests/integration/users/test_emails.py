"""What is an email address, and when two are the same."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app import db
from app.config import Settings
from tests.factories import accounts
from tests.integration.api import answered, eventually, refused

LABEL = "b" * 61

#: {as given: as kept}
GOOD = {
    "hanako@example.com": "hanako@example.com",
    "Hanako.Yamada+gift@Mail.EXAMPLE.com": "Hanako.Yamada+gift@mail.example.com",
    "o'brien@example.com": "o'brien@example.com",
    "a@b.co": "a@b.co",
    "_@example.com": "_@example.com",
    "花子@例え.jp": "花子@例え.jp",
    "a@BÜCHER.example": "a@bücher.example",
    "a@xn--bcher-kva.example": "a@bücher.example",
    "a@１２.example": "a@12.example",
    "e\u0301@example.com": "é@example.com",
    "x" * 64 + "@example.com": "x" * 64 + "@example.com",
    f"{'a' * 64}@{LABEL}.{LABEL}.{LABEL}.com": f"{'a' * 64}@{LABEL}.{LABEL}.{LABEL}.com",  # 254
}

BAD: list[Any] = [
    "",
    " ",
    "hanako",
    "@example.com",
    "hanako@",
    "hanako@localhost",  # where the accounts of the service itself are
    "hanako@example",
    "hanako@example.test",
    "hanako@example..com",
    "hanako@example.com.",
    "hanako@-example.com",
    "hanako@exa_mple.com",
    "hanako@127.0.0.1",
    "hanako@[127.0.0.1]",
    "hanako@example.com@example.com",
    "ha nako@example.com",
    '"ha nako"@example.com',
    "ha..nako@example.com",
    ".hanako@example.com",
    "hanako.@example.com",
    " hanako@example.com",
    "hanako@example.com ",
    "hanako@example.com\n",
    "hanako@example.com\nBcc: taro@example.com",
    "hanako@example.com,taro@example.com",
    "Hanako <hanako@example.com>",
    "<script>@example.com",
    "hanako\u202e@example.com",
    "hanako\x00@example.com",
    "hanako\ud800@example.com",
    "hanako＠example.com",
    "x" * 65 + "@example.com",
    f"hanako@{'b' * 64}.com",
    f"{'a' * 64}@{LABEL}.{LABEL}.{LABEL}b.com",  # 255
    f"{'a' * 64}@{'.'.join(['b' * 50] * 5)}",  # 319
    "a" * 60_000 + "@example.com",
    None,
    True,
    5,
    ["hanako@example.com"],
    {"email": "hanako@example.com"},
]


def post(client: FlaskClient, email: Any) -> Any:
    return client.post("/users", json={"email": email, "age": 30})


def made(session: Session) -> list[str]:
    """The addresses of all users but the service's own, and that each has its job."""
    session.rollback()
    emails = session.execute(
        text("SELECT email FROM users WHERE email NOT LIKE '%@localhost' ORDER BY created_at")
    )
    return list(emails.scalars())


def jobs(session: Session) -> int:
    session.rollback()
    count: int = session.execute(text("SELECT count(*) FROM jobs")).scalar_one()
    return count


@pytest.mark.parametrize(("given", "kept"), GOOD.items(), ids=lambda it: it[:40])
def test_an_address_is_kept_as_the_library_writes_it(
    client: FlaskClient, session: Session, given: str, kept: str
) -> None:
    response = post(client, given)

    assert response.status_code == 201, response.text
    assert response.get_json()["email"] == kept
    assert made(session) == [kept]


@pytest.mark.parametrize("given", BAD, ids=lambda it: repr(it)[:40])
def test_what_is_no_address_is_refused(client: FlaskClient, session: Session, given: Any) -> None:
    error = refused(post(client, given), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {"email"}
    assert made(session) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("hanako@example.com", "hanako@example.com"),
        ("hanako@example.com", "HANAKO@EXAMPLE.COM"),
        ("Hanako@Example.com", "hanako@example.com"),
        ("a@bücher.example", "A@XN--BCHER-KVA.example"),
        ("é@example.com", "e\u0301@example.com"),
        ("é@example.com", "É@example.com"),
    ],
)
def test_an_address_is_taken_whatever_its_capitals(
    client: FlaskClient, session: Session, first: str, second: str
) -> None:
    assert post(client, first).status_code == 201

    refused(post(client, second), 409, "EMAIL_TAKEN")
    assert (len(made(session)), jobs(session)) == (1, 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("hanako@example.com", "hanako@example.org"),
        ("hanako@example.com", "hanako+1@example.com"),
        ("hanako@example.com", "ha.nako@example.com"),
    ],
)
def test_other_addresses_are_others(client: FlaskClient, first: str, second: str) -> None:
    assert [post(client, email).status_code for email in (first, second)] == [201, 201]


def test_the_address_of_an_account_that_has_a_key_is_taken(
    client: FlaskClient, session: Session
) -> None:
    accounts.key(session, email="Hanako@example.com")
    session.commit()

    refused(post(client, "hanako@example.com"), 409, "EMAIL_TAKEN")
    assert jobs(session) == 0


def test_a_refusal_does_not_say_whose_address_it_is(client: FlaskClient) -> None:
    user_id = post(client, "hanako@example.com").get_json()["user_id"]

    response = post(client, "hanako@example.com")

    assert user_id not in response.text


# --- at once ------------------------------------------------------------------------------------


def test_one_address_twice_at_once_is_one_user(
    app: Flask, settings: Settings, engine: Engine, session: Session
) -> None:
    """Both have written the user, and the first has not committed, before either may go on."""
    app.test_client().get("/users/3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11")  # the operator exists
    pool = db.configure(settings, db.WORKER)  # a lock may take longer than a caller would wait
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    emails = ("hanako@example.com", "HANAKO@example.com")
    gate = db.engine_for(engine.url.render_as_string(hide_password=False), db.OPERATOR)
    with ThreadPoolExecutor(2) as callers, gate.begin() as lock, gate.connect() as observer:
        lock.execute(text("LOCK TABLE jobs IN SHARE MODE"))
        running = [callers.submit(post, app.test_client(), email) for email in emails]

        def both_wait() -> bool:
            found: int = observer.execute(waiting).scalar_one()
            observer.rollback()
            return found == 2

        eventually(both_wait, "one before the jobs, the other before the user")
        lock.commit()
        answers = [each.result() for each in running]
    pool.dispose()

    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 1}
    (loser,) = [answer for answer in answers if answer.status_code == 409]
    refused(loser, 409, "EMAIL_TAKEN")
    assert (len(made(session)), jobs(session)) == (1, 1)


def test_eight_callers_at_once_make_one_user(app: Flask, session: Session) -> None:
    line = threading.Barrier(8)

    def call(number: int) -> int:
        line.wait(timeout=30)
        client = app.test_client()
        return answered(lambda: post(client, "hanako@example.com")).status_code

    with ThreadPoolExecutor(8) as callers:
        statuses = Counter(callers.map(call, range(8)))

    assert statuses == {201: 1, 409: 7}
    assert (len(made(session)), jobs(session)) == (1, 1)
