"""The search of the monitor worker-failures finds what a worker writes when an execution fails."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from celery.signals import celeryd_init

from app.delivery import run
from app.delivery.errors import PermanentError, TimedOut, TransientError
from app.gifts.models import Gift
from okuru.datadog.files import FOLDER
from tests.infra.queries import Term, search_of, terms
from tests.integration.celery_app import worker_app as worker_app
from tests.integration.delivery.steps import Delivery

MONITOR = json.loads((FOLDER / "monitors/worker-failures.json").read_text())
TERMS = terms(search_of(MONITOR["query"]))


def meets(line: dict[str, Any]) -> bool:
    return all(term.meets(line) for term in TERMS)


Lines = Callable[[BaseException | None], list[dict[str, Any]]]


@pytest.fixture
def lines(gift: Gift, worker_app: ModuleType) -> Lines:
    """What a worker writes while it executes a gift that ends so."""

    def written(error: BaseException | None) -> list[dict[str, Any]]:
        celeryd_init.send(sender=None)  # as a worker begins: it sets up its logging
        (stdout,) = [found for found in logging.getLogger().handlers if found.name == "stdout"]
        stdout.setStream(text := io.StringIO())  # type: ignore[attr-defined]
        _execute(gift, error)
        return [json.loads(line) for line in text.getvalue().splitlines()]

    return written


def _execute(gift: Gift, error: BaseException | None) -> None:

    def effect(*_: Any) -> None:
        if error:
            raise error

    run.deliver(
        Gift,
        gift.id,
        gift.send_no,
        Delivery(),
        load=lambda session: session.get_one(Gift, gift.id).status,
        effect=effect,
    )


@pytest.mark.parametrize(
    "error",
    [
        TransientError("BUSY", "later"),
        TimedOut("SLOW", "no answer"),
        PermanentError("NO", "never"),
        ZeroDivisionError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_execution_is_found(lines: Lines, error: BaseException) -> None:
    found = [line for line in lines(error) if meets(line)]
    assert any(line["message"].startswith("gift executed: ") for line in found)


def test_a_success_is_not_found(lines: Lines) -> None:
    written = lines(None)
    assert written
    assert not any(meets(line) for line in written)


def test_each_term_counts(lines: Lines) -> None:
    (line,) = [
        each for each in lines(PermanentError("NO", "never")) if "executed" in each["message"]
    ]
    assert {term.field for term in TERMS} == {"service", "level", "error_code"}
    for term in TERMS:
        without = {name: value for name, value in line.items() if name != term.field}
        assert not meets(without)
    assert not Term("level", frozenset({"error"})).meets(line)
