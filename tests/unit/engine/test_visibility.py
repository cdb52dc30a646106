"""Which held messages are due for another extension, and when they are let go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tasks.engine import visibility
from tasks.engine.catalogue import Catalogue
from tasks.engine.visibility import HUNG_AFTER, RETRY_EVERY, Extension, Held

CATALOGUE = Catalogue.load("http://sqs/okuru-")
QUEUE = replace(CATALOGUE["gifts"], visibility_timeout=30, max_hold=70)
URL = CATALOGUE.url("gifts")


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let time pass; the event loop ticks meanwhile."""
    now = [1000.0]
    monkeypatch.setattr(visibility.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


@pytest.fixture
def held(wait: Callable[[float], None]) -> Held:
    held = Held()
    held.add("h1", QUEUE, URL)
    return held


def test_a_message_is_extended_after_a_third_of_its_timeout(
    held: Held, wait: Callable[[float], None]
) -> None:
    wait(9.9)
    assert held.due() == {}
    wait(0.1)
    assert held.due() == {URL: [Extension("h1", 30)]}
    assert held.due() == {}, "a call is under way"
    held.extended(["h1"])
    wait(9.9)
    assert held.due() == {}


def test_an_extension_that_failed_is_due_again_soon(
    held: Held, wait: Callable[[float], None]
) -> None:
    wait(10)
    held.due()
    wait(RETRY_EVERY)
    assert held.due() == {URL: [Extension("h1", 30)]}


def test_a_message_is_held_no_longer_than_its_queue_declares(
    held: Held, wait: Callable[[float], None]
) -> None:
    hidden_until = 1030.0
    while wait(10) or (due := held.due()):
        held.tick()
        held.extended(["h1"])
        [extension] = due[URL]
        hidden_until = visibility.time.monotonic() + extension.seconds
    assert hidden_until == 1000 + QUEUE.max_hold


def test_what_is_held_for_longer_than_its_queue_declares_is_overdue(
    held: Held, wait: Callable[[float], None]
) -> None:
    wait(QUEUE.max_hold - 1)
    assert not held.is_overdue
    wait(1)
    assert held.is_overdue
    held.drop("h1")
    assert not held.is_overdue


def test_what_was_settled_is_not_extended(held: Held, wait: Callable[[float], None]) -> None:
    wait(10)
    held.drop("h1")
    assert held.due() == {}
    held.extended(["h1"])  # a call that was under way
    wait(30)
    assert held.due() == {}


def test_a_worker_whose_event_loop_hangs_lets_go_and_says_so_once(
    held: Held, wait: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    wait(HUNG_AFTER + 1)
    for _ in range(3):
        assert held.due() == {}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    held.tick()
    assert held.due() == {URL: [Extension("h1", 30)]}


def test_what_is_left_can_be_taken_away(held: Held) -> None:
    assert held.take_all() == [(URL, "h1")]
    assert held.take_all() == []
