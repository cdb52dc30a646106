"""`receive`: a message is remembered and becomes a job, once; or it is refused with a reason."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from app import db
from app.accounts.service import SYSTEM_ACCOUNT_ID
from app.delivery.service import Settle, Verdict
from app.observability import metrics
from tests.integration.api import Events, contents, eventually, samples
from tests.integration.messages.steps import (
    NOON,
    all_jobs,
    data_sync,
    notification,
    receive,
    refusals,
    rows,
    task,
)
from tests.integration.outage import Outage

ACCEPTED = Verdict(Settle.DELETE, "accepted", "accepted")
DUPLICATE = Verdict(Settle.DELETE, "duplicate", "duplicate")
REFUSED = Verdict(Settle.RETRY, "refused", "-")


def counted() -> Counter[str]:
    """Messages so far, by type and outcome."""
    found = samples(metrics.exposition().decode(), "messages_received_total")
    return Counter({labels: int(value) for labels, value in found.items()})


# --- accepted -----------------------------------------------------------------------------------


#: What the jobs are told: a message's data under the names of ours, whole.
PAYLOADS: dict[str, dict[str, Any]] = {
    "task": {"task_id": "task-456", "action": "process"},
    "notification": {
        "recipient_id": "user-789", "title": "新着情報", "body": "メッセージが届きました",
    },
    "data-sync": {
        "entity_type": "product", "entity_id": "prod-123", "operation": "update", "attributes": {},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "message", [task(), notification(), data_sync()], ids=lambda it: it["type"]
)
def test_a_message_becomes_a_job_of_its_type(message: dict[str, Any]) -> None:
    before = counted()

    assert receive(message) == ACCEPTED

    (job,) = all_jobs()
    assert (job.job_type, job.status, job.account_id) == (
        message["type"],
        "PENDING",
        SYSTEM_ACCOUNT_ID,
    )
    payload = dict(job.payload)
    if message["type"] == "data-sync":
        assert payload.pop("timestamp") == "2023-01-01T12:00:00+00:00"
    assert payload == PAYLOADS[message["type"]]
    assert rows("SELECT external_id, type, version, duplicates, job_id FROM inbox_messages") == [
        (message["id"], message["type"], 1, 0, job.id)
    ]
    assert rows("SELECT sent_at = :noon FROM inbox_messages", noon=NOON) == [(True,)]
    assert refusals() == []
    assert counted() - before == {f'outcome="accepted",type="{message["type"]}"': 1}


@pytest.mark.parametrize(
    ("priority", "number", "queue"),
    [
        ({"priority": "high"}, 5, "jobs-high"),
        ({"priority": "normal"}, 0, "jobs-default"),
        ({"priority": "low"}, -5, "jobs-low"),
        ({}, 0, "jobs-default"),
    ],
)
def test_its_priority_leads_to_its_band(priority: dict[str, str], number: int, queue: str) -> None:
    receive(task(**priority))

    (job,) = all_jobs()
    assert job.priority == number
    assert rows("SELECT task, queue, kwargs FROM outbox") == [
        ("jobs.run", queue, {"job_id": str(job.id), "send_no": 1, "request_id": None})
    ]


def test_ids_of_255_characters_are_kept() -> None:
    id_ = "🎁" * 255
    receive(task(id_, taskId=id_))

    (job,) = all_jobs()
    assert job.payload == {"task_id": id_, "action": "process"}
    assert rows("SELECT external_id FROM inbox_messages") == [(id_,)]


def test_ids_that_differ_in_capitals_or_spaces_are_different() -> None:
    for id_ in ("a", "A", " a", "a ", "á", "a\u0301"):
        assert receive(task(id_)) == ACCEPTED

    assert len(all_jobs()) == 6


# --- again --------------------------------------------------------------------------------------


def test_a_message_that_comes_again_is_acknowledged_and_counted_and_does_nothing() -> None:
    receive(task())
    before = counted()

    for number in range(1, 4):
        assert receive(task(), sqs_id=f"copy-{number}") == DUPLICATE

    assert len(all_jobs()) == 1
    assert rows("SELECT count(*) FROM outbox") == [(1,)]
    assert rows("SELECT duplicates FROM inbox_messages") == [(3,)]
    assert refusals() == []
    assert counted() - before == {'outcome="duplicate",type="task"': 3}


def test_the_same_message_written_otherwise_is_the_same() -> None:
    receive(task())

    assert receive(json.dumps(dict(reversed(task().items())), indent=8)) == DUPLICATE


@pytest.mark.parametrize(
    "other",
    [
        task(taskId="task-457"),
        task(priority="normal"),
        {**task(), "timestamp": "2023-01-01T12:00:01Z"},
        {**notification(), "id": "msg-123"},
    ],
)
def test_another_message_with_the_same_id_is_refused(other: dict[str, Any]) -> None:
    receive(task())
    before = counted()

    assert receive(other, "m2") == REFUSED

    (job,) = all_jobs()
    assert job.payload == PAYLOADS["task"]
    assert rows("SELECT duplicates FROM inbox_messages") == [(0,)]
    assert [(each.message_id, each.error_code) for each in refusals()] == [
        ("m2", "MESSAGE_ID_REUSED")
    ]
    assert counted() - before == {f'outcome="refused",type="{other["type"]}"': 1}


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("{", "INVALID_JSON", "Expecting property name"),
        ({**task(), "type": "order"}, "UNKNOWN_MESSAGE_TYPE", "order"),
        ({**task(), "version": 2}, "UNKNOWN_MESSAGE_VERSION", "no version 2 of task"),
        ({**task(), "timestamp": "2023-01-01T12:00:00"}, "INVALID_MESSAGE", "timestamp: "),
        (task(taskId=""), "INVALID_MESSAGE", "data.taskId: "),
        ({**task(), "\x00": 1}, "INVALID_MESSAGE", ": Unknown field"),
        ({**task(), "\ud800": 1}, "INVALID_MESSAGE", ": Unknown field"),
        ({**task(), "x" * 50_000: 1}, "INVALID_MESSAGE", "xxx"),
    ],
    ids=["JSON", "type", "version", "timestamp", "data", "NUL", "surrogate", "long name"],
)
def test_a_message_that_is_none_is_refused_each_time_with_its_reason(
    body: dict[str, Any] | str, code: str, words: str
) -> None:
    before = counted()

    for number in range(1, 6):
        assert receive(body, number=number) == REFUSED

    found = refusals()
    assert [each.receive_count for each in found] == [1, 2, 3, 4, 5]
    for each in found:
        assert (each.message_id, each.outcome, each.error_code) == ("m1", "permanent", code)
        assert words in (each.error_message or "")
        assert each.ended_at is not None
    assert rows("SELECT count(*) FROM inbox_messages, jobs") == [(0,)]
    kind = "unknown" if code in ("INVALID_JSON", "UNKNOWN_MESSAGE_TYPE") else "task"
    assert counted() - before == {f'outcome="refused",type="{kind}"': 5}
    assert len(found[0].error_message or "") <= 600


def test_an_id_that_was_refused_may_come_again_mended() -> None:
    receive(task(taskId=""))

    assert receive(task()) == ACCEPTED


def test_neither_log_nor_reason_tells_what_stands_in_a_message(events: Events) -> None:
    secret = "hunter2-hunter2"
    receive(task(taskId=secret))
    receive(task(taskId=secret))
    receive(notification(title=secret, body=secret))
    receive(task(taskId=f"other-{secret}"))
    receive({**task(), "data": secret})
    receive(f'{{"id": "{secret}')

    assert "hunter2" not in json.dumps(events())
    assert "hunter2" not in "".join(each.error_message or "" for each in refusals())
    assert len(refusals()) == 3


def test_what_happens_to_a_message_is_logged_with_its_id(events: Events) -> None:
    receive(task())
    receive(task())
    receive({**task(), "type": "order"})

    told = {event["message"]: event for event in events()}
    assert told["message accepted"]["external_id"] == "msg-123"
    assert told["message accepted"]["job_id"] == str(all_jobs()[0].id)
    assert told["message came again: nothing to do"]["external_id"] == "msg-123"
    assert told["message refused"]["error_code"] == "UNKNOWN_MESSAGE_TYPE"


# --- at once, and without a database ------------------------------------------------------------


def at_once(engine: Engine, calls: list[Callable[[], Verdict]]) -> list[Verdict]:
    """All have looked for the id, and none has found it, before the first may go on."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    url = engine.url.render_as_string(hide_password=False)
    gate, observer = (db.engine_for(url, db.OPERATOR) for _ in range(2))
    with ThreadPoolExecutor(len(calls)) as workers, gate.begin() as connection:
        connection.execute(text("LOCK TABLE jobs IN SHARE MODE"))
        running = [workers.submit(call) for call in calls]
        with observer.connect() as other:

            def all_wait() -> bool:
                found: int = other.execute(waiting).scalar_one()
                other.rollback()  # what a transaction sees of the activity stays as it was
                return found == len(calls)

            eventually(all_wait, "all stand before the jobs")
        connection.commit()
        return [each.result() for each in running]


def test_copies_of_one_message_at_once_are_one_job(engine: Engine) -> None:
    copies = [lambda number=number: receive(task(), f"m{number}") for number in range(4)]

    verdicts = at_once(engine, copies)

    assert Counter(each.reason for each in verdicts) == {"accepted": 1, "duplicate": 3}
    assert len(all_jobs()) == 1
    assert rows("SELECT count(*) FROM outbox") == [(1,)]
    assert rows("SELECT duplicates FROM inbox_messages") == [(3,)]
    assert refusals() == []


def test_two_messages_with_one_id_at_once_are_one_job_and_a_refusal(engine: Engine) -> None:
    both = [lambda: receive(task(taskId="a"), "m1"), lambda: receive(task(taskId="b"), "m2")]

    verdicts = at_once(engine, both)

    assert Counter(each.reason for each in verdicts) == {"accepted": 1, "refused": 1}
    assert len(all_jobs()) == 1
    assert [each.error_code for each in refusals()] == ["MESSAGE_ID_REUSED"]


def test_many_messages_at_once_are_a_job_each() -> None:
    line = threading.Barrier(8)

    def work(number: int) -> str:
        line.wait(timeout=30)
        return receive(task(f"msg-{number}")).reason

    with ThreadPoolExecutor(8) as workers:
        assert set(workers.map(work, range(8))) == {"accepted"}
    assert len(all_jobs()) == 8


@pytest.mark.parametrize("body", ["{", json.dumps(task())], ids=["bad", "good"])
def test_without_a_database_a_message_comes_again(
    outage: Outage, engine: Engine, body: str
) -> None:
    outage.begin()
    with pytest.raises(db.OUTAGE_ERRORS):
        receive(body)
    outage.end()

    assert set(contents(engine).values()) == {0}
