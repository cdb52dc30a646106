"""The breaker: opens once, asks until there is an answer, closes, and says each change once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from tasks.engine import breaker
from tasks.engine.breaker import Breaker


class Outage(Exception):
    pass


class Database:
    """Answers, or does not."""

    def __init__(self, error: type[Exception] = Outage) -> None:
        self.answers = threading.Event()
        self.asked = threading.Semaphore(0)
        self.error = error

    def probe(self) -> None:
        self.asked.release()
        if not self.answers.is_set():
            raise self.error


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "PROBE_EVERY", 0.01)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_it_opens_once_and_closes_when_the_database_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database, changes = Database(), []
    subject = Breaker(database.probe, (Outage,), changes.append)
    assert not subject.is_open
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            subject.trip()
        assert subject.is_open
        for _ in range(3):
            assert database.asked.acquire(timeout=10)
        assert subject.is_open
        assert changes == [True]
        database.answers.set()
        wait_until(lambda: changes == [True, False])
    assert not subject.is_open
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_it_opens_again_at_the_next_outage() -> None:
    database, changes = Database(), []
    subject = Breaker(database.probe, (Outage,), changes.append)
    for outages in (1, 2):
        database.answers.clear()
        subject.trip()
        database.answers.set()
        wait_until(lambda: changes == [True, False] * outages)  # noqa: B023


def test_many_failures_at_once_open_it_once() -> None:
    database, changes = Database(), []
    subject = Breaker(database.probe, (Outage,), changes.append)
    threads = [threading.Thread(target=subject.trip) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert changes == [True]
    assert sum(thread.name == "breaker" for thread in threading.enumerate()) >= 1
    database.answers.set()
    wait_until(lambda: changes == [True, False])


def test_an_answer_that_nobody_foresaw_does_not_keep_it_open_for_ever() -> None:
    """A dead thread would leave a worker that lives and receives nothing."""
    database, changes = Database(error=ZeroDivisionError), []
    subject = Breaker(database.probe, (Outage,), changes.append)
    subject.trip()
    assert database.asked.acquire(timeout=10)
    assert database.asked.acquire(timeout=10)
    database.answers.set()
    wait_until(lambda: changes == [True, False])
