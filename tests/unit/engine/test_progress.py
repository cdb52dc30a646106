"""When a worker says that it gets on with its work."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from tasks.engine import visibility
from tasks.engine.catalogue import Catalogue
from tasks.engine.engine import Engine

CATALOGUE = Catalogue.load("http://sqs/okuru-")
QUEUE = replace(CATALOGUE["gifts"], max_hold=100)


@pytest.fixture
def worker() -> Engine:
    """One that polls all of its queues."""
    application = Mock(outage_errors=())
    made = Engine(catalogue=CATALOGUE, region="ap-northeast-1", application=application)
    made.channels = [SimpleNamespace(closed=False, is_consuming=True)]  # type: ignore[assignment]
    return made


def says(worker: Engine) -> bool:
    worker.application.on_progress.reset_mock()  # type: ignore[attr-defined]
    worker._look()
    return bool(worker.application.on_progress.called)  # type: ignore[attr-defined]


def test_one_that_polls_gets_on(worker: Engine) -> None:
    assert says(worker)
    (channel,) = worker.channels
    channel.is_consuming = False  # type: ignore[misc]
    assert not says(worker)


def test_one_whose_pool_takes_nothing_does_not(
    worker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reader found it: every child was frozen, sixty gifts waited, and it was well."""
    now = 1000.0
    monkeypatch.setattr(visibility.time, "monotonic", lambda: now)
    worker.held.add("h1", QUEUE, "http://sqs/okuru-gifts")
    now += QUEUE.max_hold - 1
    assert says(worker)
    now += 1
    assert not says(worker)
    worker.held.drop("h1")
    assert says(worker)
