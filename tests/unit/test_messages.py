"""A domain stages tasks by name: each name is a task, and its queue exists."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

import app
from app.outbox.service import Message

# In a process of its own: importing the Celery app reads the environment, once.
DESCRIBE_THE_WORKERS = """
import json
from tasks.celery import app, catalogue
app.loader.import_default_modules()
print(json.dumps({
    "tasks": sorted(app.tasks),
    "queues": sorted(catalogue.queues),
    "scheduled": [[entry["task"], entry["options"]["queue"]]
                  for entry in app.conf.beat_schedule.values()],
}))
"""
ENVIRONMENT = {
    "ENVIRONMENT": "local",
    "DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/nothing",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "QUEUE_URL_PREFIX": "http://127.0.0.1:1/000000000000/okuru-",
    "AWS_REGION": "ap-northeast-1",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "DD_TRACE_ENABLED": "false",
}


def declared() -> dict[str, Message]:
    """Every `Message` of app/*/messages.py, by where it stands."""
    found = {}
    for domain in pkgutil.iter_modules(app.__path__):
        if not domain.ispkg:
            continue
        folder = import_module(f"app.{domain.name}")
        if "messages" not in {module.name for module in pkgutil.iter_modules(folder.__path__)}:
            continue
        module = import_module(f"app.{domain.name}.messages")
        found |= {
            f"{domain.name}.{name}": value
            for name, value in vars(module).items()
            if isinstance(value, Message)
        }
    return found


@pytest.fixture(scope="module")
def workers() -> Any:
    """What a worker process knows: its tasks, queues and schedule."""
    done = subprocess.run(
        [sys.executable, "-c", DESCRIBE_THE_WORKERS],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_messages_are_found() -> None:
    assert "gifts.SEND" in declared()


@pytest.mark.parametrize("place", sorted(declared()))
def test_a_declared_message_is_a_registered_task_on_a_known_queue(
    place: str, workers: dict[str, Any]
) -> None:
    message = declared()[place]

    assert message.task in workers["tasks"]
    assert message.queue in workers["queues"]


def test_what_is_scheduled_is_a_registered_task_on_a_known_queue(workers: dict[str, Any]) -> None:
    assert workers["scheduled"]
    for task, queue in workers["scheduled"]:
        assert task in workers["tasks"]
        assert queue in workers["queues"]
