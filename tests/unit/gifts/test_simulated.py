"""The provider that only pretends."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from app.delivery.errors import PermanentError, TransientError
from app.gifts.senders import Parcel
from app.gifts.senders.simulated import SimulatedSender


def parcel(**simulate: Any) -> Parcel:
    return Parcel(
        gift_id=UUID(int=1),
        code=UUID(int=2),
        amount=5,
        message=None,
        recipient=None,
        accepted_at=datetime(2026, 1, 1, tzinfo=UTC),
        simulate=simulate,
    )


def outcome(sender: SimulatedSender, parcel: Parcel, execution: int) -> str:
    try:
        sender.send(parcel, execution)
    except TransientError as error:
        return error.code
    except PermanentError as error:
        return error.code
    return "sent"


FAILS, REFUSES = "SIMULATED_FAILURE", "SIMULATED_REFUSAL"


@pytest.mark.parametrize(
    ("simulate", "outcomes"),
    [
        ({"fail_times": 0}, ["sent"] * 5),
        ({"fail_times": 2}, [FAILS] * 2 + ["sent"] * 3),
        ({"fail_times": 4}, [FAILS] * 4 + ["sent"]),
        ({"fail_times": 99}, [FAILS] * 5),
        ({"permanent": True}, [REFUSES] * 5),
        ({"permanent": False}, ["sent"] * 5),
        ({"fail_times": 2, "permanent": True}, [FAILS] * 2 + [REFUSES] * 3),
        ({"delay_ms": 0}, ["sent"] * 5),
    ],
)
@pytest.mark.parametrize("rate", [0, 1])
def test_a_script_decides_and_chance_has_no_say(
    rate: float, simulate: dict[str, Any], outcomes: list[str]
) -> None:
    sender = SimulatedSender(rate)
    said = [outcome(sender, parcel(**simulate), execution) for execution in range(1, 6)]
    assert said == outcomes


@pytest.mark.parametrize(("rate", "expected"), [(0, "sent"), (1, FAILS)])
def test_the_bounds_of_the_rate_leave_nothing_to_chance(rate: float, expected: str) -> None:
    sender = SimulatedSender(rate)
    assert {outcome(sender, parcel(), 1) for _ in range(500)} == {expected}


def test_a_rate_between_fails_some() -> None:
    sender = SimulatedSender(0.5)
    assert {outcome(sender, parcel(), 1) for _ in range(500)} == {"sent", FAILS}


@pytest.mark.parametrize("fails", [0, 1])
def test_a_delay_comes_before_the_answer(fails: int) -> None:
    began = time.monotonic()
    outcome(SimulatedSender(0), parcel(delay_ms=50, fail_times=fails), 1)
    assert time.monotonic() - began >= 0.05
