"""The Celery app of the workers, on this test process's own database and queues."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Engine

from app.config import Settings
from okuru.stack.home import Home
from okuru.stack.sqs import Sqs
from tasks.engine import queues, sqs
from tasks.engine.catalogue import Catalogue


@contextmanager
def running_sqs(path: Path) -> Iterator[Sqs]:
    """An SQS of one's own, to be frozen and stopped."""
    home = Home(path)
    with home.locked():
        server = Sqs(home)
        server.start()
        server.wait_until_ready()
        try:
            yield server
        finally:
            server.child.end()


@pytest.fixture(scope="session")
def worker_app(settings: Settings, sqs_url: str) -> ModuleType:
    """`tasks.celery`, which reads the environment when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", settings.database_url)
        patch.setenv("AWS_ENDPOINT_URL", sqs_url)
        patch.setenv("QUEUE_URL_PREFIX", settings.queue_url_prefix)
        import tasks.celery

        tasks.celery.app.loader.import_default_modules()
    return tasks.celery


@pytest.fixture
def workers(
    worker_app: ModuleType, settings: Settings, sqs_url: str, engine: Engine
) -> Iterator[ModuleType]:
    """The same with empty queues, whoever imported it first and with which environment."""
    made = worker_app.engine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "catalogue", Catalogue.load(settings.queue_url_prefix))
        patch.setitem(made.__dict__, "sqs", sqs.client(settings.aws_region, endpoint_url=sqs_url))
        queues.create(made.sqs, made.catalogue)
        purge(made)
        yield worker_app


def purge(made: Any) -> None:
    for queue in made.catalogue:
        for name in (queue.name, queue.dead_letter_queue):
            made.sqs.purge_queue(QueueUrl=made.catalogue.url(name))


def receive(made: Any, name: str = "gifts", **options: Any) -> list[dict[str, Any]]:
    """Every visible message of a queue."""
    found: list[dict[str, Any]] = []
    while messages := made.sqs.receive_message(
        QueueUrl=made.catalogue.url(name),
        MaxNumberOfMessages=10,
        MessageSystemAttributeNames=["All"],
        **options,
    ).get("Messages"):
        found += messages
    return found


assert os.environ["AWS_ACCESS_KEY_ID"] == "test", "tests never talk to the real AWS"
