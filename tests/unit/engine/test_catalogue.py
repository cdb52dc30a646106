"""The queues: their declared numbers fit together, and the back-off that comes of them."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks.engine
from app.config import Settings
from okuru import procfile
from tasks.engine.catalogue import MAX_VISIBILITY, Catalogue, Queue
from tests.unit.test_messages import ENVIRONMENT

PREFIX = "https://sqs.example/1234/okuru-"
CATALOGUE = Catalogue.load(PREFIX)
GIFTS = CATALOGUE["gifts"]


def queue(**changes: object) -> Queue:
    values: dict[str, object] = {
        "name": "q", "description": "d", "visibility_timeout": 30, "max_receive_count": 5,
        "backoff": (10, 30, 60, 120), "retention_days": 14, "prefetch": 10, "max_hold": 60,
    }  # fmt: skip
    return Queue(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("receive_count", "at_least", "scale", "delay"),
    [
        (1, 0, 1, 10),
        (2, 0, 1, 30),
        (3, 0, 1, 60),
        (4, 0, 1, 120),
        (5, 0, 1, 120),
        (99, 0, 1, 120),
        # What a provider asks for, up to the largest back-off.
        (1, 5, 1, 10),
        (1, 42, 1, 42),
        (1, 42.2, 1, 43),
        (4, 42, 1, 120),
        (1, 100_000, 1, 120),
        (1, float("inf"), 1, 120),
        # A local stack shortens every delay, and never to nothing.
        (1, 0, 0.1, 1),
        (4, 0, 0.1, 12),
        (1, 0, 0.001, 1),
        (1, 100_000, 0.1, 12),
    ],
)
def test_a_failed_message_is_hidden_for_its_backoff(
    receive_count: int, at_least: float, scale: float, delay: int
) -> None:
    assert queue().retry_delay(receive_count, scale=scale, at_least=at_least) == delay


@given(
    receive_count=st.integers(1, 1000),
    scale=st.floats(0.001, 1),
    at_least=st.floats(0, allow_nan=False),
)
def test_a_delay_is_what_sqs_takes(receive_count: int, scale: float, at_least: float) -> None:
    largest = queue(backoff=(100_000,))
    delay = largest.retry_delay(receive_count, scale=scale, at_least=at_least)
    assert isinstance(delay, int)
    assert 1 <= delay <= MAX_VISIBILITY


def test_a_message_on_its_way_is_seen_again_within_its_largest_hiding() -> None:
    assert queue().untouched_limit(scale=1) == 180
    assert queue().untouched_limit(scale=0.1) == 72
    assert queue(max_hold=1).untouched_limit(scale=1) == 150


def test_urls_lead_to_queues_and_back() -> None:
    assert CATALOGUE.url("gifts") == "https://sqs.example/1234/okuru-gifts"
    assert CATALOGUE.url(GIFTS.dead_letter_queue) == "https://sqs.example/1234/okuru-gifts-dlq"
    assert CATALOGUE.by_url(CATALOGUE.url("gifts")) is GIFTS
    with pytest.raises(KeyError):
        CATALOGUE.by_url("https://sqs.example/1234/okuru-unknown")


# --- queues.json, which Terraform reads too ------------------------------------------------------

ENTRIES = json.loads((Path(tasks.engine.__file__).parent / "queues.json").read_text())
TYPES = {
    "description": str, "group": str, "visibility_timeout": int, "max_receive_count": int,
    "backoff": list, "retention_days": int, "prefetch": int, "max_hold": int,
}  # fmt: skip
#: Of some queues only.
OPTIONAL = {"foreign_task": str, "weight": int}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_complete_and_has_no_more(name: str) -> None:
    assert re.fullmatch(r"[a-z][a-z-]{0,60}", name)
    assert not name.endswith("-dlq")
    given = {key: type(value) for key, value in ENTRIES[name].items()}
    assert TYPES.items() <= given.items() <= {**TYPES, **OPTIONAL}.items()
    assert {field.name for field in fields(Queue)} == {"name", *TYPES, *OPTIONAL}


def test_the_procfile_has_a_process_for_each_group_that_consumes_its_queues() -> None:
    groups: dict[str, set[str]] = {}
    for queue in CATALOGUE:
        groups.setdefault(queue.group, set()).add(queue.name)
    consumed = {
        process: set(command.partition(" -Q ")[2].split(","))
        for process, command in procfile.read().items()
        if " worker " in command
    }
    assert consumed == groups


@pytest.mark.parametrize("queue", list(CATALOGUE), ids=lambda queue: queue.name)
def test_the_numbers_of_a_queue_fit_together(queue: Queue) -> None:
    assert queue.description.endswith(".")
    assert 1 <= queue.visibility_timeout <= MAX_VISIBILITY
    assert 1 <= queue.retention_days <= 14
    assert list(queue.backoff) == sorted(queue.backoff)
    assert min(queue.backoff) >= 1
    assert queue.prefetch >= 1
    # What test_turns.py shows of the light queues holds for these weights.
    assert 1 <= queue.weight <= (10 if queue.prefetch == 1 else 1)
    assert queue.visibility_timeout <= queue.max_hold <= MAX_VISIBILITY
    # One delay after each receive but the last: then SQS buries the message.
    assert len(queue.backoff) == queue.max_receive_count - 1


def test_a_process_gets_through_what_it_holds_even_if_every_call_is_slow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the last ones would go to another worker, and a receive of each would be burnt."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_env()
    call = settings.sender_connect_timeout + settings.sender_read_timeout
    assert GIFTS.prefetch * call <= GIFTS.max_hold


def test_gifts_are_retried_as_designed_and_inside_the_slo() -> None:
    assert GIFTS.backoff == (10, 30, 60, 120)
    assert GIFTS.max_receive_count == 5
    assert sum(GIFTS.backoff) < 300
