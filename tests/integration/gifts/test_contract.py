"""What each route of gifts answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.accounts import service as accounts_service
from app.delivery.models import OUTCOMES, Attempt
from app.gifts.models import STATUSES
from tests.factories import accounts, gifts
from tests.integration.api import contents, refused

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")

Settle = Callable[[str, str], None]


def new(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    response = client.post("/gifts", json={"amount": 5, **fields})
    assert response.status_code == 201
    created: dict[str, Any] = response.get_json()
    return created


def send(client: FlaskClient, gift_id: str, key: str = "order-1") -> Any:
    return client.post(f"/gifts/{gift_id}/send", headers={"Idempotency-Key": key})


@pytest.fixture
def settle(engine: Engine) -> Settle:
    """As a worker would have left the gift."""

    def settle(gift_id: str, status: str) -> None:
        failed = status == "FAILED"
        with engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE gifts SET status = :status, failure = :failure, last_error = :error"
                    " WHERE id = :id"
                ),
                {
                    "id": gift_id,
                    "status": status,
                    "failure": "permanent" if failed else None,
                    "error": "the provider refused" if failed else None,
                },
            )

    return settle


# --- create -------------------------------------------------------------------------------------


def test_a_new_gift_has_an_id_a_code_and_a_place(client: FlaskClient) -> None:
    response = client.post("/gifts", json={"amount": 3000})

    created = response.get_json()
    assert response.status_code == 201
    assert list(created) == ["gift_id", "code", "status", "created_at"]
    assert created["status"] == "CREATED"
    assert response.headers["Location"] == f"/gifts/{created['gift_id']}"
    assert UUID(created["code"]).version == 4, "random"
    assert created["code"] != created["gift_id"]
    assert MOMENT.fullmatch(created["created_at"])
    age = datetime.now(UTC) - datetime.fromisoformat(created["created_at"])
    assert abs(age.total_seconds()) < 60


def test_codes_are_unique(client: FlaskClient) -> None:
    assert len({new(client)["code"] for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": 1},
        {"amount": 2**31 - 1},
        {"message": None, "recipient": None},
        {"message": "", "recipient": ""},
        {"message": "x" * 500, "recipient": "x" * 320},
        {"message": "🎁" * 500},  # characters, and not bytes or UTF-16 units
        {"message": "お誕生日おめでとう 👩‍👩‍👧 \u202e\t\r\n\x01\uffff"},
        {"message": "'; DROP TABLE gifts; --", "recipient": "<script>alert(1)</script>"},
        {"simulate": {}},
        {"simulate": {"fail_times": 2, "permanent": True, "delay_ms": 10}},
    ],
    ids=repr,
)
def test_what_was_given_is_what_is_kept(client: FlaskClient, fields: dict[str, Any]) -> None:
    created = new(client, **fields)

    found = client.get(f"/gifts/{created['gift_id']}").get_json()

    expected = {"amount": 5, "message": None, "recipient": None, **fields}
    expected.pop("simulate", None)
    assert found | expected == found


def test_a_gift_is_in_the_list_of_its_account_alone(client: FlaskClient, session: Session) -> None:
    gifts.created(session)
    session.commit()
    mine = new(client)["gift_id"]

    assert [gift["gift_id"] for gift in client.get("/gifts").get_json()["items"]] == [mine]


# --- read ---------------------------------------------------------------------------------------


def test_a_gift_shows_all_that_its_owner_may_know(client: FlaskClient) -> None:
    created = new(client, message="hi", recipient="hanako@example.com")

    found = client.get(f"/gifts/{created['gift_id']}").get_json()

    assert MOMENT.fullmatch(found.pop("updated_at"))
    assert found == {
        **created,
        "amount": 5,
        "message": "hi",
        "recipient": "hanako@example.com",
        "last_error": None,
    }


def test_an_id_in_capitals_is_the_same_id(client: FlaskClient) -> None:
    gift_id = new(client)["gift_id"]

    assert client.get(f"/gifts/{gift_id.upper()}").get_json()["gift_id"] == gift_id


def test_a_failed_gift_says_why(client: FlaskClient, settle: Settle) -> None:
    gift_id = new(client)["gift_id"]
    send(client, gift_id)
    settle(gift_id, "FAILED")

    found = client.get(f"/gifts/{gift_id}").get_json()

    assert (found["status"], found["last_error"]) == ("FAILED", "the provider refused")


def test_a_change_of_state_is_an_update(client: FlaskClient) -> None:
    gift_id = new(client)["gift_id"]
    before = client.get(f"/gifts/{gift_id}").get_json()

    send(client, gift_id)

    after = client.get(f"/gifts/{gift_id}").get_json()
    assert after["created_at"] == before["created_at"]
    assert after["updated_at"] > before["updated_at"]


# --- send ---------------------------------------------------------------------------------------


def test_a_send_is_accepted_and_promised_in_one_transaction(
    client: FlaskClient, engine: Engine, session: Session
) -> None:
    gift_id = new(client)["gift_id"]

    response = send(client, gift_id)

    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers
    assert response.get_json() == {
        "gift_id": gift_id,
        "status": "QUEUED",
        "request_id": "order-1",
    }
    assert client.get(f"/gifts/{gift_id}").get_json()["status"] == "QUEUED"
    rows = session.execute(text("SELECT task, queue, kwargs FROM outbox")).all()
    assert rows == [
        ("gifts.send", "gifts", {"gift_id": gift_id, "send_no": 1, "request_id": "order-1"})
    ]


def test_the_ids_of_the_request_travel_with_the_message(
    client: FlaskClient, session: Session
) -> None:
    gift_id = new(client)["gift_id"]
    headers = {"Idempotency-Key": "order-1", "X-Request-ID": "trace-1"}

    client.post(f"/gifts/{gift_id}/send", headers=headers)

    assert session.execute(text("SELECT headers FROM outbox")).scalar_one() == {
        "request_id": "order-1",
        "http_request_id": "trace-1",
    }


@pytest.mark.parametrize("status", ["QUEUED", "SENT", "FAILED"])
def test_the_same_key_gets_the_same_body_whatever_became_of_the_gift(
    client: FlaskClient, engine: Engine, settle: Settle, status: str
) -> None:
    gift_id = new(client)["gift_id"]
    first = send(client, gift_id)
    if status != "QUEUED":
        settle(gift_id, status)
    before = contents(engine)

    for _ in range(2):
        replay = send(client, gift_id)
        assert (replay.status_code, replay.data) == (200, first.data)
        assert replay.headers["Idempotent-Replayed"] == "true"
    assert contents(engine) == before
    assert client.get(f"/gifts/{gift_id}").get_json()["status"] == status


@pytest.mark.parametrize("status", ["QUEUED", "SENT", "FAILED"])
def test_another_key_is_409_and_says_what_became_of_the_gift(
    client: FlaskClient, engine: Engine, settle: Settle, status: str
) -> None:
    gift_id = new(client)["gift_id"]
    send(client, gift_id)
    if status != "QUEUED":
        settle(gift_id, status)
    before = contents(engine)

    error = refused(send(client, gift_id, "order-2"), 409, "CONFLICT")

    assert error["details"] == {"status": status}
    assert contents(engine) == before


def test_a_send_key_outlives_a_day(client: FlaskClient, engine: Engine) -> None:
    """Other keys are forgotten after 24 hours; these never."""
    gift_id = new(client)["gift_id"]
    first = send(client, gift_id)
    with engine.begin() as connection:
        connection.execute(text("UPDATE send_requests SET created_at = now() - interval '9 years'"))

    assert send(client, gift_id).data == first.data


def test_one_key_may_send_many_gifts(client: FlaskClient) -> None:
    """It belongs to the gift, and not to the account."""
    answers = [send(client, new(client)["gift_id"]).status_code for _ in range(3)]

    assert answers == [202, 202, 202]


@pytest.mark.parametrize("key", ["k" * 255, "a b", "~", "'; DROP TABLE gifts; --", "{}"])
def test_a_key_may_be_any_printable_ascii(client: FlaskClient, key: str) -> None:
    gift_id = new(client)["gift_id"]

    assert send(client, gift_id, key).get_json()["request_id"] == key
    assert send(client, gift_id, key).status_code == 200


# --- attempts -----------------------------------------------------------------------------------


def test_a_gift_that_was_never_tried_has_no_attempts(client: FlaskClient) -> None:
    gift_id = new(client)["gift_id"]

    assert client.get(f"/gifts/{gift_id}/attempts").get_json() == {"items": []}


def test_attempts_are_shown_oldest_first_with_their_outcome(
    client: FlaskClient, session: Session
) -> None:
    gift_id = new(client)["gift_id"]
    send(client, gift_id)
    now = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    for number, outcome in enumerate([*OUTCOMES, None], start=1):
        session.add(
            Attempt(
                kind="gift",
                subject_id=UUID(gift_id),
                send_no=1,
                receive_count=number,
                message_id="m-1",
                worker="worker-1",
                started_at=now,
                ended_at=now if outcome else None,
                outcome=outcome,
                error_code="PROVIDER_TIMEOUT" if outcome == "timeout" else None,
                error_message="no answer" if outcome == "timeout" else None,
            )
        )
        session.flush()
    # Another kind's row of the same id is another story.
    session.add(
        Attempt(
            kind="job",
            subject_id=UUID(gift_id),
            send_no=1,
            receive_count=1,
            message_id="m",
            worker="w",
        )
    )
    session.commit()

    items = client.get(f"/gifts/{gift_id}/attempts").get_json()["items"]

    assert [item["outcome"] for item in items] == [*OUTCOMES, None]
    assert [item["receive_count"] for item in items] == list(range(1, len(OUTCOMES) + 2))
    assert items[OUTCOMES.index("timeout")] == {
        "receive_count": OUTCOMES.index("timeout") + 1,
        "message_id": "m-1",
        "worker": "worker-1",
        "started_at": "2026-01-31T09:30:00Z",
        "ended_at": "2026-01-31T09:30:00Z",
        "outcome": "timeout",
        "error_code": "PROVIDER_TIMEOUT",
        "error_message": "no answer",
    }
    assert items[-1]["ended_at"] is None


# --- lists --------------------------------------------------------------------------------------


def pages(client: FlaskClient, query: str, between: Callable[[], Any] = lambda: None) -> list[Any]:
    """All pages, one after the other; `between` happens after each."""
    found, cursor = [], ""
    while True:
        page = client.get(f"/gifts?{query}{cursor}").get_json()
        assert page.keys() == {"items", "next_cursor"}
        found.append([item["gift_id"] for item in page["items"]])
        if page["next_cursor"] is None:
            return found
        between()
        cursor = f"&cursor={page['next_cursor']}"


def test_an_empty_list_is_one_empty_page(client: FlaskClient) -> None:
    assert pages(client, "limit=5") == [[]]


@pytest.mark.parametrize("limit", [1, 3, 6, 7, 8])
def test_pages_are_newest_first_and_complete(client: FlaskClient, limit: int) -> None:
    ids = [new(client)["gift_id"] for _ in range(7)][::-1]

    found = pages(client, f"limit={limit}")

    assert [gift_id for page in found for gift_id in page] == ids
    assert {len(page) for page in found[:-1]} <= {limit}
    assert found[-1], "no empty page at the end"


def test_gifts_of_the_very_same_moment_are_neither_doubled_nor_lost(
    client: FlaskClient, session: Session
) -> None:
    owner = accounts_service.local_operator(session)
    ids = {str(gifts.created(session, owner=owner).id) for _ in range(9)}
    session.commit()

    found = [gift_id for page in pages(client, "limit=2") for gift_id in page]

    assert len(found) == len(ids)
    assert set(found) == ids


def test_gifts_that_arrive_meanwhile_shift_nothing(client: FlaskClient) -> None:
    ids = [new(client)["gift_id"] for _ in range(7)][::-1]

    found = pages(client, "limit=2", between=lambda: [new(client) for _ in range(3)])

    assert [gift_id for page in found for gift_id in page] == ids


def test_a_list_can_be_of_one_state(client: FlaskClient, settle: Settle) -> None:
    by_status: dict[str, list[str]] = {status: [] for status in STATUSES}
    for status in [*STATUSES, *STATUSES, *STATUSES]:
        gift_id = new(client)["gift_id"]
        by_status[status].insert(0, gift_id)
        if status != "CREATED":
            send(client, gift_id)
        if status in ("SENT", "FAILED"):
            settle(gift_id, status)

    for status in STATUSES:
        found = pages(client, f"status={status}&limit=2")
        assert found == [by_status[status][:2], by_status[status][2:]]
    assert len(client.get("/gifts").get_json()["items"]) == 12


def test_a_page_has_50_unless_asked_and_200_at_most(client: FlaskClient, session: Session) -> None:
    owner = accounts_service.local_operator(session)
    for _ in range(201):
        gifts.created(session, owner=owner)
    session.commit()

    assert len(client.get("/gifts").get_json()["items"]) == 50
    assert [len(page) for page in pages(client, "limit=200")] == [200, 1]


def test_a_list_shows_the_same_as_each_gift(client: FlaskClient) -> None:
    gift_id = new(client, message="hi")["gift_id"]

    assert client.get("/gifts").get_json()["items"] == [client.get(f"/gifts/{gift_id}").get_json()]


# --- the role of the caller ---------------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "operator"])
def test_any_role_may_give(client: FlaskClient, session: Session, role: Any) -> None:
    _, key = accounts.key(session, role=role)
    session.commit()
    headers = {"X-API-Key": key}

    created = client.post("/gifts", json={"amount": 5}, headers=headers).get_json()

    path = f"/gifts/{created['gift_id']}"
    assert client.get(path, headers=headers).status_code == 200
    sent = client.post(f"{path}/send", headers={**headers, "Idempotency-Key": str(uuid4())})
    assert sent.status_code == 202
