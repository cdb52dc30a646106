"""What each route of jobs answers."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.accounts import service as accounts_service
from app.delivery.errors import PermanentError, TransientError
from app.jobs.models import STATUSES
from tests.factories import accounts
from tests.integration.api import answered, contents, refused
from tests.integration.jobs import steps
from tests.integration.jobs.steps import RESERVED, TYPE, Work

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")

Caller = Callable[[str], FlaskClient]


@pytest.fixture
def caller(app: Flask, session: Session) -> Caller:
    """A client with the key of a new account."""

    def caller(role: str) -> FlaskClient:
        _, key = accounts.key(session, role=role)  # type: ignore[arg-type]
        session.commit()
        client = app.test_client()
        client.environ_base["HTTP_X_API_KEY"] = key
        return client

    return caller


@pytest.fixture
def user(caller: Caller) -> FlaskClient:
    return caller("user")


def post(client: FlaskClient, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"job_type": TYPE, "payload": {}, **fields}
    return client.post("/jobs", json=body, headers=headers)


def new(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    response = post(client, **fields)
    assert response.status_code == 202, response.text
    created: dict[str, Any] = response.get_json()
    return created


def get(client: FlaskClient, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/jobs/{job_id}").get_json()
    return found


def run(work: Work, job_id: str, *, error: Exception | None = None) -> None:
    """As a worker does."""
    if error:
        work.raises(error)
    steps.perform(job_named(job_id))


def job_named(job_id: str) -> Any:
    with steps.db.transaction() as session:
        return session.get_one(steps.Job, UUID(job_id))


# --- enqueue ------------------------------------------------------------------------------------


def test_a_new_job_is_accepted_and_promised_in_one_transaction(user: FlaskClient) -> None:
    response = post(user, {"X-Request-ID": "trace-1"}, payload={"number": 7})

    job = response.get_json()
    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers
    assert response.headers["Location"] == f"/jobs/{job['job_id']}"
    assert MOMENT.fullmatch(job["created_at"])
    assert job["scheduled_at"] == job["created_at"]
    assert {name: job[name] for name in job.keys() - {"job_id", "created_at", "scheduled_at"}} == {
        "job_type": TYPE,
        "payload": {"number": 7},
        "status": "PENDING",
        "priority": 0,
        "max_retries": 3,
        "retry_count": 0,
        "error_message": None,
        "unique_key": None,
        "progress": 0,
        "progress_note": None,
        "result": None,
        "cancel_requested": False,
        "started_at": None,
        "completed_at": None,
    }
    assert get(user, job["job_id"]) == job
    [row] = steps.outbox()
    assert (row.task, row.queue) == ("jobs.run", "jobs-default")
    assert row.kwargs == {"job_id": job["job_id"], "send_no": 1, "request_id": "trace-1"}


@pytest.mark.parametrize(
    "fields",
    [
        {"priority": -9},
        {"priority": 9},
        {"max_retries": 0},
        {"max_retries": 20},
        {"unique_key": "k" * 255},
        {"unique_key": "鍵 🔑"},
        {"unique_key": None},
        {"payload": {"number": 0}},
    ],
    ids=repr,
)
def test_what_was_asked_for_is_what_is_kept(user: FlaskClient, fields: dict[str, Any]) -> None:
    job = new(user, **fields)
    assert get(user, job["job_id"]) | fields == job


@pytest.mark.parametrize("moment", [None, "2020-01-01T00:00:00Z", "2020-01-01T09:00:00+09:00"])
def test_what_is_due_already_is_staged_at_once(user: FlaskClient, moment: str | None) -> None:
    job = new(user, scheduled_at=moment)
    assert steps.staged_ids() == [UUID(job["job_id"])]
    if moment:
        assert job["scheduled_at"] == "2020-01-01T00:00:00Z"


def test_what_is_due_later_waits_in_the_database(user: FlaskClient) -> None:
    moment = datetime.now(UTC) + timedelta(days=400)
    job = new(user, scheduled_at=moment.isoformat())
    assert datetime.fromisoformat(job["scheduled_at"]) == moment
    assert steps.outbox() == []


BAD: list[tuple[dict[str, Any], str]] = [
    ({"job_type": None}, "job_type"),
    ({"job_type": ""}, "job_type"),
    ({"job_type": 7}, "job_type"),
    ({"job_type": "x" * 81}, "job_type"),
    ({"job_type": "nul\x00"}, "job_type"),
    ({"job_type": "nobody.knows"}, "job_type"),
    ({"payload": None}, "payload"),
    ({"payload": []}, "payload"),
    ({"payload": "{}"}, "payload"),
    ({"payload": {"number": "many"}}, "payload"),
    ({"payload": {"other": 1}}, "payload"),
    ({"payload": {"number": None}}, "payload"),
    ({"payload": {"number": "\x00"}}, "payload"),
    ({"payload": {"number": "\ud800"}}, "payload"),
    ({"priority": -10}, "priority"),
    ({"priority": 10}, "priority"),
    ({"priority": "1"}, "priority"),
    ({"priority": 1.0}, "priority"),
    ({"priority": True}, "priority"),
    ({"priority": None}, "priority"),
    ({"max_retries": -1}, "max_retries"),
    ({"max_retries": 21}, "max_retries"),
    ({"max_retries": None}, "max_retries"),
    ({"scheduled_at": ""}, "scheduled_at"),
    ({"scheduled_at": "tomorrow"}, "scheduled_at"),
    ({"scheduled_at": "2026-01-31T09:30:00"}, "scheduled_at"),  # of which place?
    ({"scheduled_at": "2026-02-30T09:30:00Z"}, "scheduled_at"),
    ({"scheduled_at": "9999-12-31T23:59:59-01:00"}, "scheduled_at"),
    ({"scheduled_at": 1767225600}, "scheduled_at"),
    ({"unique_key": ""}, "unique_key"),
    ({"unique_key": "k" * 256}, "unique_key"),
    ({"unique_key": "\x00"}, "unique_key"),
    ({"unique_key": 1}, "unique_key"),
    ({"status": "COMPLETED"}, "status"),
    ({"account_id": "012bdc16-eded-478f-b55e-e78666b57f82"}, "account_id"),
    ({"send_no": 1}, "send_no"),
]


@pytest.mark.parametrize(("fields", "field"), BAD, ids=[json.dumps(case[0]) for case in BAD])
def test_a_bad_field_is_named_and_nothing_is_enqueued(
    user: FlaskClient, engine: Engine, fields: dict[str, Any], field: str
) -> None:
    before = contents(engine)

    error = refused(post(user, **fields), 400, "VALIDATION_ERROR")

    assert error["details"].keys() == {field}
    assert contents(engine) == before


@pytest.mark.parametrize("missing", ["job_type", "payload"])
def test_what_is_missing_is_named(user: FlaskClient, missing: str) -> None:
    body = {"job_type": TYPE, "payload": {}}
    del body[missing]
    error = refused(user.post("/jobs", json=body), 400, "VALIDATION_ERROR")
    assert error["details"].keys() == {missing}


def test_an_unknown_type_is_told_the_types_that_are_open_to_all(user: FlaskClient) -> None:
    error = refused(post(user, job_type="nobody.knows"), 400, "VALIDATION_ERROR")
    [said] = error["details"]["job_type"]
    assert {"data_analysis", TYPE} <= set(said.removeprefix("One of: ").rstrip(".").split(", "))
    assert RESERVED not in said
    assert "user_created" not in said


def test_a_bad_payload_says_what_is_wrong_with_which_field(user: FlaskClient) -> None:
    error = refused(post(user, payload={"number": "many", "other": 1}), 400, "VALIDATION_ERROR")
    assert error["details"] == {
        "payload": {"number": ["Not a valid integer."], "other": ["Unknown field."]}
    }


@pytest.mark.parametrize("job_type", [RESERVED, "user_created"])
def test_a_reserved_type_is_not_for_everyone(
    user: FlaskClient, engine: Engine, job_type: str
) -> None:
    before = contents(engine)
    refused(post(user, job_type=job_type), 403, "FORBIDDEN")
    assert contents(engine) == before


def test_an_operator_may_enqueue_a_reserved_type(caller: Caller) -> None:
    assert new(caller("operator"), job_type=RESERVED)["job_type"] == RESERVED


# --- unique_key, Idempotency-Key ----------------------------------------------------------------


def test_a_second_enqueue_of_a_live_job_answers_the_first(user: FlaskClient) -> None:
    first = new(user, unique_key="k", payload={"number": 1})

    response = post(user, unique_key="k", payload={"number": 2}, priority=9)

    assert (response.status_code, response.get_json()) == (200, first)
    assert response.headers["Location"] == f"/jobs/{first['job_id']}"
    assert steps.staged_ids() == [UUID(first["job_id"])]


def test_a_job_that_waits_for_its_time_is_live(user: FlaskClient) -> None:
    first = new(user, unique_key="k", scheduled_at="2999-01-01T00:00:00Z")
    response = post(user, unique_key="k")
    assert (response.status_code, response.get_json()) == (200, first)
    assert steps.outbox() == []


def test_a_unique_key_is_one_accounts(caller: Caller) -> None:
    jobs = [new(caller("user"), unique_key="k")["job_id"] for _ in range(2)]
    assert len(set(jobs)) == 2


ENDS: dict[str, Callable[[FlaskClient, Work, str], Any]] = {
    "COMPLETED": lambda _, work, job_id: run(work, job_id),
    "FAILED": lambda _, work, job_id: run(work, job_id, error=PermanentError("NO", "no")),
    "CANCELLED": lambda user, _, job_id: user.post(f"/jobs/{job_id}/cancel"),
}


@pytest.mark.parametrize("status", ENDS)
def test_a_unique_key_is_free_again_when_its_job_has_ended(
    user: FlaskClient, work: Work, status: str
) -> None:
    first = new(user, unique_key="k")["job_id"]
    ENDS[status](user, work, first)
    assert get(user, first)["status"] == status

    second = new(user, unique_key="k")["job_id"]

    assert second != first
    assert post(user, unique_key="k").get_json()["job_id"] == second


def test_a_request_under_an_idempotency_key_is_answered_again(user: FlaskClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = post(user, key)

    replay = post(user, key)

    assert (replay.status_code, replay.data) == (202, first.data)
    assert replay.headers["Idempotent-Replayed"] == "true"
    assert replay.headers["Location"] == first.headers["Location"]
    assert len(steps.outbox()) == 1
    refused(post(user, key, priority=1), 422, "IDEMPOTENCY_KEY_REUSED")


def test_an_answer_of_200_is_replayed_as_one(user: FlaskClient) -> None:
    post(user, unique_key="k")
    key = {"Idempotency-Key": "once"}
    answers = [post(user, key, unique_key="k") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert len({answer.data for answer in answers}) == 1


def test_an_idempotency_key_is_one_accounts(caller: Caller) -> None:
    key = {"Idempotency-Key": "once"}
    jobs = [post(caller("user"), key).get_json()["job_id"] for _ in range(2)]
    assert len(set(jobs)) == 2


def test_a_refused_request_leaves_its_idempotency_key_free(user: FlaskClient) -> None:
    key = {"Idempotency-Key": "once"}
    refused(post(user, key, job_type="nobody.knows"), 400, "VALIDATION_ERROR")
    assert post(user, key).status_code == 202


CALLERS = 8


def test_enqueues_with_one_unique_key_at_once_are_one_job(
    app: Flask, user: FlaskClient, engine: Engine
) -> None:
    line = threading.Barrier(CALLERS)
    key = user.environ_base["HTTP_X_API_KEY"]

    def call(_: int) -> Any:
        client = app.test_client()
        client.environ_base["HTTP_X_API_KEY"] = key
        line.wait(timeout=30)
        return answered(lambda: post(client, unique_key="k"))

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(call, range(CALLERS)))

    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: CALLERS - 1}
    assert len({answer.get_json()["job_id"] for answer in answers}) == 1
    found = contents(engine)
    assert (found["jobs"], found["outbox"]) == (1, 1)


def test_an_enqueue_waits_for_one_that_is_not_committed(user: FlaskClient, engine: Engine) -> None:
    """The one that comes second sees the first, or takes the key when the first is undone."""
    owner = job_named(new(user)["job_id"]).account_id
    answers: list[Any] = []
    with Session(engine) as first:
        steps.service.enqueue(first, account_id=owner, job_type=TYPE, payload={}, unique_key="k")
        second = threading.Thread(target=lambda: answers.append(post(user, unique_key="k")))
        second.start()
        wait_for_a_lock(engine)
        first.rollback()
    second.join(10)
    assert [answer.status_code for answer in answers] == [202]


def wait_for_a_lock(engine: Engine) -> None:
    """Until some other session of this database waits for one."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        for _ in range(500):
            if connection.execute(waiting).scalar_one():
                return
            connection.rollback()
            connection.execute(text("SELECT pg_sleep(0.01)"))
    raise AssertionError("nobody waits for a lock")


# --- whose it is --------------------------------------------------------------------------------

ROUTES = [
    ("GET", "/jobs/{}"),
    ("GET", "/jobs/{}/attempts"),
    ("POST", "/jobs/{}/cancel"),
    ("POST", "/jobs/{}/retry"),
]


@pytest.mark.parametrize("role", ["user", "operator"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_job_belongs_to_one_account(
    user: FlaskClient, caller: Caller, method: str, path: str, role: str
) -> None:
    """An operator's key opens no other account's rows (ADR 7)."""
    job = new(user)

    response = caller(role).open(path.format(job["job_id"]), method=method)

    error = refused(response, 403, "FORBIDDEN")
    assert "details" not in error
    assert get(user, job["job_id"]) == job


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_job_that_does_not_exist_is_404(user: FlaskClient, method: str, path: str) -> None:
    refused(user.open(path.format(uuid4()), method=method), 404, "NOT_FOUND")
    refused(user.open(path.format("stat"), method=method), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"), [*ROUTES, ("GET", "/jobs"), ("POST", "/jobs"), ("GET", "/jobs/stats")]
)
def test_a_stranger_is_401(app: Flask, user: FlaskClient, method: str, path: str) -> None:
    job_id = new(user)["job_id"]
    stranger = app.test_client()
    headers = {"X-API-Key": "nobody's"}
    response = stranger.open(path.format(job_id), method=method, headers=headers, json={})
    refused(response, 401, "UNAUTHENTICATED")


def test_a_job_of_no_account_is_for_operators(caller: Caller) -> None:
    """Jobs of messages from other systems are nobody's."""
    with steps.db.transaction() as session:
        nobody = accounts_service.system_account(session)
        steps.service.enqueue(session, account_id=nobody, job_type=TYPE, payload={})
    operator, user = caller("operator"), caller("user")
    [job] = operator.get("/jobs").get_json()["items"]
    path = f"/jobs/{job['job_id']}"
    assert user.get("/jobs").get_json()["items"] == []
    refused(user.get(path), 403, "FORBIDDEN")
    refused(user.post(f"{path}/cancel"), 403, "FORBIDDEN")
    assert operator.get(path).get_json() == job
    assert operator.get(f"{path}/attempts").get_json() == {"items": []}
    assert operator.post(f"{path}/cancel").get_json()["status"] == "CANCELLED"


# --- lists --------------------------------------------------------------------------------------


def pages(client: FlaskClient, query: str) -> list[list[str]]:
    found, cursor = [], ""
    while True:
        page = client.get(f"/jobs?{query}{cursor}").get_json()
        assert page.keys() == {"items", "next_cursor"}
        found.append([item["job_id"] for item in page["items"]])
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def test_an_empty_list_is_one_empty_page(user: FlaskClient) -> None:
    assert pages(user, "limit=5") == [[]]


@pytest.mark.parametrize("limit", [1, 3, 6, 7, 8])
def test_pages_are_newest_first_and_complete(user: FlaskClient, limit: int) -> None:
    ids = [new(user)["job_id"] for _ in range(7)][::-1]
    found = pages(user, f"limit={limit}")
    assert [job_id for page in found for job_id in page] == ids
    assert {len(page) for page in found[:-1]} <= {limit}
    assert found[-1], "no empty page at the end"


def test_jobs_of_the_very_same_moment_are_neither_doubled_nor_lost(
    user: FlaskClient, session: Session
) -> None:
    ids = {new(user)["job_id"] for _ in range(9)}
    session.execute(text("UPDATE jobs SET created_at = now()"))
    session.commit()
    found = [job_id for page in pages(user, "limit=2") for job_id in page]
    assert len(found) == len(ids)
    assert set(found) == ids


def test_a_list_can_be_of_one_state_or_type_or_both(caller: Caller, session: Session) -> None:
    operator = caller("operator")
    made: dict[tuple[str, str], list[str]] = {}
    for job_type in (TYPE, RESERVED):
        for status in STATUSES[:3]:
            made[status, job_type] = [new(operator, job_type=job_type)["job_id"] for _ in range(3)][
                ::-1
            ]
            for step in STATUSES[1 : STATUSES.index(status) + 1]:
                session.execute(
                    text("UPDATE jobs SET status = :step WHERE id = ANY(CAST(:ids AS uuid[]))"),
                    {"step": step, "ids": made[status, job_type]},
                )
    session.commit()

    for status, job_type in made:
        found = pages(operator, f"status={status}&job_type={job_type}&limit=2")
        assert found == [made[status, job_type][:2], made[status, job_type][2:]]
    assert sum(map(len, pages(operator, "status=PENDING&limit=4"))) == 6
    assert sum(map(len, pages(operator, f"job_type={TYPE}&limit=4"))) == 9
    assert pages(operator, "job_type=nobody.knows") == [[]]


def test_a_list_is_of_its_account_alone_and_shows_the_same_as_each_job(caller: Caller) -> None:
    other, user = caller("operator"), caller("user")
    new(other)
    job = new(user, payload={"number": 3})
    assert user.get("/jobs").get_json()["items"] == [get(user, job["job_id"])]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=pending", "status"),
        ("status=", "status"),
        ("job_type=", "job_type"),
        (f"job_type={'x' * 81}", "job_type"),
        ("job_type=%00", "job_type"),
        ("cursor=x", "cursor"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("order=asc", "order"),
    ],
)
def test_a_bad_query_is_named(user: FlaskClient, query: str, field: str) -> None:
    error = refused(user.get(f"/jobs?{query}"), 400, "VALIDATION_ERROR")
    assert error["details"].keys() == {field}


# --- cancel, retry ------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [None, "2999-01-01T00:00:00Z"], ids=["staged", "scheduled"])
def test_a_job_that_waits_is_cancelled_at_once(user: FlaskClient, moment: str | None) -> None:
    job = new(user, scheduled_at=moment)

    response = user.post(f"/jobs/{job['job_id']}/cancel")

    found = response.get_json()
    assert response.status_code == 200
    assert (found["status"], found["cancel_requested"]) == ("CANCELLED", True)
    assert MOMENT.fullmatch(found["completed_at"])
    assert get(user, job["job_id"]) == found
    again = user.post(f"/jobs/{job['job_id']}/cancel")
    assert (again.status_code, again.get_json()) == (200, found)


def test_a_job_that_runs_is_asked_to_stop(user: FlaskClient) -> None:
    job_id = new(user)["job_id"]
    steps.claim(job_named(job_id))

    answers = [user.post(f"/jobs/{job_id}/cancel") for _ in range(2)]

    for answer in answers:
        found = answer.get_json()
        assert answer.status_code == 202
        assert (found["status"], found["cancel_requested"]) == ("PROCESSING", True)
    assert answers[0].data == answers[1].data


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
def test_what_has_ended_cannot_be_cancelled(user: FlaskClient, work: Work, status: str) -> None:
    job_id = new(user)["job_id"]
    ENDS[status](user, work, job_id)
    before = get(user, job_id)

    error = refused(user.post(f"/jobs/{job_id}/cancel"), 409, "CONFLICT")

    assert error["details"] == {"status": status}
    assert get(user, job_id) == before


def test_a_failed_job_is_queued_again(user: FlaskClient, work: Work) -> None:
    job_id = new(user)["job_id"]
    run(work, job_id, error=PermanentError("NO", "not today"))
    failed = get(user, job_id)
    assert (failed["status"], failed["error_message"]) == ("FAILED", "NO: not today")

    response = user.post(f"/jobs/{job_id}/retry")

    found = response.get_json()
    assert response.status_code == 202
    assert found == {
        **failed,
        "status": "PENDING",
        "error_message": None,
        "started_at": None,
        "completed_at": None,
    }
    assert get(user, job_id) == found
    error = refused(user.post(f"/jobs/{job_id}/retry"), 409, "CONFLICT")
    assert error["details"] == {"status": "PENDING"}


@pytest.mark.parametrize("status", ["PENDING", "COMPLETED", "CANCELLED"])
def test_only_a_failed_job_can_be_retried(user: FlaskClient, work: Work, status: str) -> None:
    job_id = new(user)["job_id"]
    if status != "PENDING":
        ENDS[status](user, work, job_id)
    before = get(user, job_id)
    error = refused(user.post(f"/jobs/{job_id}/retry"), 409, "CONFLICT")
    assert error["details"] == {"status": status}
    assert get(user, job_id) == before


def test_a_retry_beside_a_live_job_of_its_unique_key_is_refused(
    user: FlaskClient, work: Work, engine: Engine
) -> None:
    failed = new(user, unique_key="k")["job_id"]
    run(work, failed, error=PermanentError("NO", "no"))
    live = new(user, unique_key="k")["job_id"]
    before = contents(engine)

    refused(user.post(f"/jobs/{failed}/retry"), 409, "CONFLICT")

    assert get(user, failed)["status"] == "FAILED"
    assert contents(engine) == before
    user.post(f"/jobs/{live}/cancel")
    assert user.post(f"/jobs/{failed}/retry").status_code == 202


# --- attempts, stats ----------------------------------------------------------------------------


def test_attempts_are_shown_oldest_first(user: FlaskClient, work: Work) -> None:
    job_id = new(user)["job_id"]
    assert user.get(f"/jobs/{job_id}/attempts").get_json() == {"items": []}
    work.raises(TransientError("BUSY", "later"))
    steps.perform(job_named(job_id))
    steps.claim(job_named(job_id), 2)

    first, second = user.get(f"/jobs/{job_id}/attempts").get_json()["items"]

    assert {name: first[name] for name in first.keys() - {"started_at", "ended_at"}} == {
        "receive_count": 1,
        "message_id": "m1",
        "worker": "worker:1",
        "outcome": "transient",
        "error_code": "BUSY",
        "error_message": "later",
    }
    assert (second["receive_count"], second["outcome"], second["ended_at"]) == (2, None, None)


def test_stats_of_nothing(user: FlaskClient) -> None:
    assert user.get("/jobs/stats").get_json() == {
        "by_status": {},
        "by_type": {},
        "oldest_pending_age_seconds": None,
        "throughput": {"1m": 0, "5m": 0, "60m": 0},
    }


def test_stats_count_by_state_and_type(caller: Caller, work: Work, session: Session) -> None:
    operator, other = caller("operator"), caller("user")
    done = [new(operator)["job_id"] for _ in range(4)]
    for job_id in done:
        run(work, job_id)
    for job_id, ago in zip(done, ("50 s", "4 min", "59 min", "61 min"), strict=True):
        session.execute(
            text("UPDATE jobs SET completed_at = now() - CAST(:ago AS interval) WHERE id = :id"),
            {"ago": ago, "id": job_id},
        )
    waits = new(operator, job_type=RESERVED)["job_id"]
    new(operator, job_type=RESERVED, scheduled_at="2999-01-01T00:00:00Z")
    session.execute(
        text("UPDATE jobs SET accepted_at = now() - interval '1 hour' WHERE id = :id"),
        {"id": waits},
    )
    session.commit()
    new(other)

    found = operator.get("/jobs/stats").get_json()

    assert 3600 <= found.pop("oldest_pending_age_seconds") < 3660
    assert found == {
        "by_status": {"COMPLETED": 4, "PENDING": 3},
        "by_type": {TYPE: {"COMPLETED": 4, "PENDING": 1}, RESERVED: {"PENDING": 2}},
        "throughput": {"1m": 1, "5m": 2, "60m": 3},
    }
    own = other.get("/jobs/stats").get_json()
    assert own["by_status"] == {"PENDING": 1}
    assert own["oldest_pending_age_seconds"] < 60
    assert own["throughput"] == {"1m": 0, "5m": 0, "60m": 0}


def test_what_waits_for_its_time_is_not_old(user: FlaskClient) -> None:
    new(user, scheduled_at="2999-01-01T00:00:00Z")
    found = user.get("/jobs/stats").get_json()
    assert found["by_status"] == {"PENDING": 1}
    assert found["oldest_pending_age_seconds"] is None
