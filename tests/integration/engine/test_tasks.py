"""The registered tasks: their queues, their time limits, their native retries."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from app.gifts import messages

#: Seconds of the longest call that the settings allow a sender: connect and read.
LONGEST_CALL = 3 + 10


def queues(workers: ModuleType) -> dict[str, str]:
    """The queue of every task that something asks for."""
    scheduled = {
        entry["task"]: entry["options"]["queue"]
        for entry in workers.app.conf.beat_schedule.values()
    }
    return {messages.SEND.task: messages.SEND.queue, **scheduled}


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
    for name, task in own_tasks.items():
        visibility = worker_app.engine.catalogue[queues(worker_app)[name]].visibility_timeout
        assert task.soft_time_limit < task.time_limit < visibility, name
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
    assert worker_app.app.conf.beat_scheduler == "celery.beat:Scheduler"
    for entry in worker_app.app.conf.beat_schedule.values():
        assert entry["options"] == {"queue": "maintenance"}
