"""How an outcome travels from the pool's process to the worker's, and what it means there."""

from __future__ import annotations

import pickle

import pytest
from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Reject

from tasks.engine.catalogue import Catalogue
from tasks.engine.verdict import Returned

QUEUE = Catalogue.load("http://sqs/")["gifts"]


@pytest.mark.parametrize("retry_after", [None, 7.5])
@pytest.mark.parametrize("settle", ["retry", "expose", "leave", "outage"])
def test_it_survives_the_way_between_processes(settle: str, retry_after: float | None) -> None:
    there = Returned(settle, retry_after)
    back = pickle.loads(pickle.dumps(there))
    assert type(back) is Returned
    assert (back.settle, back.retry_after, back.requeue) == (settle, retry_after, True)


def test_billiard_carries_it_too() -> None:
    wrapped = ExceptionWithTraceback(Returned("expose"), None)
    back = pickle.loads(pickle.dumps(wrapped))
    assert back.settle == "expose"


def test_celery_takes_it_as_a_reject_and_not_as_a_failure() -> None:
    """requeue=True: no failure signals, no stack trace for what is an ordinary retry."""
    assert isinstance(Returned("retry"), Reject)
    assert Returned("retry").requeue is True


@pytest.mark.parametrize(
    ("settle", "retry_after", "receive_count", "scale", "delay"),
    [
        ("retry", None, 1, 1, 10),
        ("retry", None, 3, 1, 60),
        ("retry", 45, 1, 1, 45),
        ("retry", 9999, 1, 1, 120),
        ("expose", None, 1, 1, 0),
        ("expose", 45, 5, 1, 0),
        ("leave", None, 1, 1, None),
        # An outage does not know how long it lasts: the same rest at every receive.
        ("outage", None, 1, 1, 30),
        ("outage", None, 5, 1, 30),
        ("outage", None, 1, 0.01, 1),
    ],
)
def test_what_it_says_is_how_long_the_message_hides(
    settle: str, retry_after: float | None, receive_count: int, scale: float, delay: int | None
) -> None:
    assert Returned(settle, retry_after).delay(QUEUE, receive_count, scale) == delay
