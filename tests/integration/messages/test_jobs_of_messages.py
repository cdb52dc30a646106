"""What the jobs of messages do, however often and in whatever order they run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy.orm import Session

from app.jobs.processors import Context, JobView
from app.messages import processors
from app.messages.entities import Change, Entity, apply
from app.observability import metrics
from tests.factories import accounts
from tests.integration.api import samples
from tests.integration.messages.steps import (
    data_sync,
    job_of,
    notification,
    perform,
    receive,
    rows,
    task,
)


@dataclass
class Execution:
    """A context whose executions are all of one job: what a crash before the record comes to."""

    idempotency_key: str = "job:1"
    job: JobView = field(default_factory=lambda: JobView(uuid4(), "any", uuid4(), 0, 1))

    def progress(self, percent: int, note: str | None = None) -> None: ...

    def is_cancelled(self) -> bool:
        return False

    def stop_if_cancelled(self) -> None: ...


# --- task ---------------------------------------------------------------------------------------


def test_a_task_is_processed() -> None:
    done = perform(job_of(task(action="process")))

    assert (done.status, done.result) == (
        "COMPLETED",
        {"task_id": "task-456", "action": "process"},
    )
    assert rows("SELECT task_id, action FROM external_tasks") == [("task-456", "process")]


def test_a_task_is_processed_once_however_often_its_job_runs() -> None:
    payload = {"task_id": "task-456", "action": "process"}

    for _ in range(3):
        processors.task(Execution(), payload)

    assert rows("SELECT count(*) FROM external_tasks") == [(1,)]


def test_a_jobs_second_delivery_processes_nothing() -> None:
    job = job_of(task())

    for number in range(1, 4):
        assert perform(job, f"j{number}").status == "COMPLETED"

    assert rows("SELECT count(*) FROM external_tasks") == [(1,)]


def test_two_messages_about_one_task_are_two_actions() -> None:
    for id_ in ("msg-1", "msg-2"):
        perform(job_of(task(id_)))

    assert rows("SELECT task_id FROM external_tasks") == [("task-456",)] * 2


def test_an_action_that_nobody_knows_fails_for_good() -> None:
    failed = perform(job_of(task(action="explode")))

    assert (failed.status, failed.failure, failed.executions) == ("FAILED", "permanent", 1)
    assert "process" in (failed.last_error or ""), "it says what is known"
    assert rows("SELECT count(*) FROM external_tasks") == [(0,)]


@pytest.fixture
def archived() -> Iterator[list[tuple[str, str]]]:
    """An action of one's own, and what it was called with."""
    calls: list[tuple[str, str]] = []

    @processors.action("archive")
    def archive(context: Context, task_id: str) -> None:
        calls.append((context.idempotency_key, task_id))

    yield calls
    del processors._actions["archive"]


def test_an_action_that_was_registered_runs(archived: list[tuple[str, str]]) -> None:
    job = job_of(task(action="archive"))

    assert perform(job).result == {"task_id": "task-456", "action": "archive"}
    assert archived == [(f"job:{job.id}", "task-456")]


# --- notification -------------------------------------------------------------------------------


def stored() -> dict[str, float]:
    return samples(metrics.exposition().decode(), "notifications_stored_total")


def counted_since(before: dict[str, float]) -> dict[str, float]:
    return {
        labels: value - before.get(labels, 0)
        for labels, value in stored().items()
        if value != before.get(labels, 0)
    }


@pytest.fixture
def recipient(session: Session) -> UUID:
    account_id = accounts.principal(session).account_id
    session.commit()
    return account_id


NOTIFICATIONS = "SELECT account_id, recipient, title, body, read_at FROM notifications"


def test_a_notification_is_stored_for_its_recipient(recipient: UUID) -> None:
    before = stored()

    done = perform(job_of(notification(recipientId=str(recipient))))

    assert (done.status, done.result) == ("COMPLETED", {"stored": True})
    assert rows(NOTIFICATIONS) == [
        (recipient, str(recipient), "新着情報", "メッセージが届きました", None)
    ]
    assert counted_since(before) == {'recipient="known"': 1}


@pytest.mark.parametrize(
    "name",
    [
        "user-789",
        "u" * 255,
        "f57d210e-2c8f-46ee-bc9a-169de52ba7c1",
        "hanako@example.com",
        "\x01",
        "{}",
        "0" * 31,
    ],
)
def test_a_notification_for_nobody_here_is_stored_and_counted(name: str) -> None:
    before = stored()

    assert perform(job_of(notification(recipientId=name))).status == "COMPLETED"

    assert rows(NOTIFICATIONS) == [(None, name, "新着情報", "メッセージが届きました", None)]
    assert counted_since(before) == {'recipient="unknown"': 1}


def test_a_recipients_id_in_capitals_is_theirs(recipient: UUID) -> None:
    perform(job_of(notification(recipientId=str(recipient).upper())))

    assert rows("SELECT account_id FROM notifications") == [(recipient,)]


def test_a_notification_is_stored_once_however_often_its_job_runs(recipient: UUID) -> None:
    before = stored()
    payload = {"recipient_id": str(recipient), "title": "t", "body": "b"}

    told = [processors.notification(Execution(), payload)["stored"] for _ in range(3)]

    assert told == [True, False, False]
    assert rows("SELECT count(*) FROM notifications") == [(1,)]
    assert counted_since(before) == {'recipient="known"': 1}


# --- data-sync ----------------------------------------------------------------------------------

ENTITY = """
    SELECT attributes, is_deleted FROM synced_entities
    WHERE entity_type = 'product' AND entity_id = 'prod-123'
"""


def at(second: int) -> str:
    return f"2023-01-01T12:00:{second:02}Z"


def test_an_entity_is_created_updated_and_deleted() -> None:
    steps: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
        ("create", {"name": "pen", "price": 100}, {"name": "pen", "price": 100}, False),
        ("update", {"price": 120}, {"name": "pen", "price": 120}, False),
        ("delete", {}, {}, True),
        ("update", {"price": 90}, {"price": 90}, False),
    ]
    for second, (operation, given, attributes, is_deleted) in enumerate(steps):
        sent = data_sync(f"msg-{second}", at(second), operation=operation, attributes=given)

        done = perform(job_of(sent))

        assert (done.status, done.result) == ("COMPLETED", {"is_deleted": is_deleted})
        assert rows(ENTITY) == [(attributes, is_deleted)]


def test_an_update_without_attributes_says_that_it_exists() -> None:
    perform(job_of(data_sync()))

    assert rows(ENTITY) == [({}, False)]


@pytest.mark.parametrize(("old", "new"), [(1, True), (False, 0), (1, 1.0), ([1], [True])])
def test_a_value_that_python_calls_equal_is_another(old: Any, new: Any) -> None:
    perform(job_of(data_sync("1", at(0), attributes={"a": old})))
    perform(job_of(data_sync("2", at(1), attributes={"a": new})))

    assert json.dumps(rows(ENTITY)[0][0]) == json.dumps({"a": new})


def test_entities_do_not_meet_across_types_or_ids() -> None:
    places = [("product", "1"), ("product", "2"), ("order", "1"), ("Product", "1")]
    for number, (kind, id_) in enumerate(places):
        sent = data_sync(
            f"msg-{number}", entityType=kind, entityId=id_, attributes={"number": number}
        )
        perform(job_of(sent))

    found = rows("SELECT entity_type, entity_id, attributes FROM synced_entities")
    assert sorted(found, key=lambda row: row[2]["number"]) == [
        (kind, id_, {"number": number}) for number, (kind, id_) in enumerate(places)
    ]


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z"],
)
def test_an_entity_of_any_age_is_kept(moment: str) -> None:
    perform(job_of(data_sync("1", moment, operation="create", attributes={"a": 1})))
    assert rows(ENTITY) == [({"a": 1}, False)]

    perform(job_of(data_sync("2", moment, operation="delete")))
    assert rows(ENTITY) == [({}, True)]


#: Several at one moment, and values that JSONB writes otherwise than Python does.
HISTORY: list[tuple[int, str, dict[str, Any]]] = [
    (0, "create", {"name": "pen", "price": 100}),
    (1, "update", {"price": 1e22, "size": -0.0}),
    (1, "update", {"price": 15, "size": 1e-7}),
    (1, "update", {"price": "15", "size": 0}),
    (2, "delete", {}),
    (2, "update", {"name": "lost: the delete wins"}),
    (3, "update", {"colour": "red", "tags": ["a", None, {"b": 1.0}]}),
    (3, "update", {"colour": "blue", "tags": ["a", None, {"b": 1}]}),
    (4, "update", {"colour": None}),
]
#: Before its delete, and after: what is left is different.
UNTIL = [4, 6, 9]


def history(until: int) -> list[dict[str, Any]]:
    return [
        data_sync(f"msg-{number}", at(second), operation=operation, attributes=attributes)
        for number, (second, operation, attributes) in enumerate(HISTORY[:until])
    ]


def in_memory(until: int) -> Entity:
    """In the order in which it was said, with the values as JSONB has them."""
    changes = [
        Change(
            operation,  # type: ignore[arg-type]
            datetime.fromisoformat(at(second)),
            rows("SELECT CAST(:given AS jsonb)", given=json.dumps(attributes))[0][0],
        )
        for second, operation, attributes in HISTORY[:until]
    ]
    return reduce(apply, changes, Entity())


@pytest.mark.parametrize("until", UNTIL)
@pytest.mark.parametrize("seed", range(4))
def test_messages_and_jobs_in_any_order_end_in_the_same_entity(until: int, seed: int) -> None:
    shuffle = random.Random(seed).sample
    sent = history(until)
    jobs = [job_of(message) for message in shuffle(sent, len(sent))]

    for number, job in enumerate(shuffle(jobs, len(jobs)) + shuffle(jobs, len(jobs))):
        perform(job, f"j{number}")

    ((attributes, is_deleted),) = rows(ENTITY)
    expected = in_memory(until)
    assert is_deleted == expected.is_deleted
    assert json.dumps(attributes, sort_keys=True) == json.dumps(expected.attributes, sort_keys=True)
    assert rows("SELECT DISTINCT status FROM jobs") == [("COMPLETED",)]


def test_messages_about_one_entity_at_once_lose_nothing() -> None:
    sent = [data_sync(f"msg-{number}", attributes={f"a{number}": number}) for number in range(8)]
    jobs = [job_of(message) for message in sent]

    with ThreadPoolExecutor(8) as workers:
        done = list(workers.map(lambda job: perform(job, f"of {job.id}"), jobs))

    assert {job.status for job in done} == {"COMPLETED"}
    assert rows(ENTITY) == [({f"a{number}": number for number in range(8)}, False)]


def test_a_copy_that_comes_after_the_delete_revives_nothing() -> None:
    created = data_sync("1", at(0), operation="create", attributes={"a": 1})
    job = job_of(created)
    perform(job)
    perform(job_of(data_sync("2", at(1), operation="delete")))

    receive(created)
    perform(job, "j2")

    assert rows(ENTITY) == [({}, True)]


def test_an_entity_has_an_end() -> None:
    """Each write rewrites it: without one, a few messages would keep the workers for minutes."""
    grown = [
        perform(
            job_of(data_sync(str(n), "2023-01-01T12:00:00Z", attributes={f"a{n}": "x" * 60_000}))
        )
        for n in range(5)
    ]
    assert [verdict.status for verdict in grown] == ["COMPLETED"] * 4 + ["FAILED"]
    assert rows("SELECT count(*) FROM synced_entities, jsonb_object_keys(attributes)") == [(4,)]
    assert "ENTITY_TOO_LARGE" in rows("SELECT last_error FROM jobs WHERE status = 'FAILED'")[0][0]
