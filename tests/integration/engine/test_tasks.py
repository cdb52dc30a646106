"""The registered tasks: their queues, their time limits, their native retries."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from celery import beat
from kombu.utils.imports import symbol_by_name
from sqlalchemy import text

from app import db
from app.gifts import messages
from app.jobs.messages import DEFAULT, HIGH, LOW
from app.messages.messages import RECEIVE_AGAIN
from tests.factories import accounts

#: Seconds of the longest call that the settings allow a sender: connect and read.
LONGEST_CALL = 3 + 10
JOBS = (HIGH, DEFAULT, LOW)


def queues(workers: ModuleType) -> dict[str, list[str]]:
    """The queues of every task that something asks for."""
    found: dict[str, list[str]] = {}
    for entry in workers.app.conf.beat_schedule.values():
        found.setdefault(entry["task"], []).append(entry["options"]["queue"])
    for message in (messages.SEND, *JOBS, RECEIVE_AGAIN):
        found.setdefault(message.task, []).append(message.queue)
    for queue in workers.engine.catalogue:
        if queue.foreign_task:
            found[queue.foreign_task].append(queue.name)
    return found


@pytest.fixture
def own_tasks(worker_app: ModuleType) -> dict[str, Any]:
    return {
        name: task for name, task in worker_app.app.tasks.items() if not name.startswith("celery.")
    }


def test_every_task_that_is_asked_for_is_registered_and_no_other(
    worker_app: ModuleType, own_tasks: dict[str, Any]
) -> None:
    assert set(own_tasks) == set(queues(worker_app))


def test_a_task_ends_before_its_message_is_visible_again(
    worker_app: ModuleType, own_tasks: dict[str, Any]
) -> None:
    """The premise of the carrier fence: tests/unit/delivery show what falls without it."""
    catalogue = worker_app.engine.catalogue
    for name, task in own_tasks.items():
        for queue in (catalogue[each] for each in queues(worker_app)[name]):
            # A job may take longer: its message is kept invisible as long as its worker lives, and
            # its processor has an idempotency key (docs/adr/0014).
            hidden = queue.max_hold if name == JOBS[0].task else queue.visibility_timeout
            assert task.soft_time_limit < task.time_limit < hidden, (name, queue.name)
    assert own_tasks["gifts.send"].soft_time_limit > LONGEST_CALL


def test_only_success_deletes_a_message(own_tasks: dict[str, Any]) -> None:
    for name, task in own_tasks.items():
        assert task.acks_late is True, name
        assert task.acks_on_failure is False, name
        assert task.acks_on_timeout is False, name
        assert task.reject_on_worker_lost is True, name
        assert task.ignore_result is True, name
        assert not getattr(task, "autoretry_for", ()), name


def test_the_schedule_is_in_memory_and_short(worker_app: ModuleType) -> None:
    scheduler = symbol_by_name(worker_app.app.conf.beat_scheduler)
    assert issubclass(scheduler, beat.Scheduler)
    assert not issubclass(scheduler, beat.PersistentScheduler)
    for entry in worker_app.app.conf.beat_schedule.values():
        assert entry["options"] == {"queue": "maintenance"}


def test_expiring_deletes_every_key_that_is_past_its_lifetime(workers: ModuleType) -> None:
    """More than one portion of them."""
    with db.transaction() as session:
        session.execute(
            text(
                "INSERT INTO idempotency_keys"
                " (account_id, scope, key, fingerprint, answer, expires_at)"
                " SELECT :account_id, 'POST /gifts', n::text, '', '{}',"
                " now() + make_interval(hours => CASE n WHEN 0 THEN 1 ELSE -1 END)"
                " FROM generate_series(0, 10001) AS n"
            ),
            {"account_id": accounts.principal(session).account_id},
        )
    workers.app.tasks["idempotency.expire"].run()
    with db.transaction() as session:
        assert session.scalars(text("SELECT key FROM idempotency_keys")).all() == ["0"]
