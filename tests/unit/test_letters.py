"""An operator's way through a dead-letter queue: how fast, and which letters are meant."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import letters
from tasks.engine.dead_letters import READING
from tasks.letters import Criteria


class Clock:
    """Stands in for `time`; its sleep is the only thing that takes any."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@given(
    rate=st.floats(0.05, 1000),
    work=st.lists(st.floats(0, 3), min_size=2, max_size=40),
)
def test_no_more_letters_than_the_rate_allows(rate: float, work: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(letters, "time", clock)
        pace = letters._Pace(rate)
        began = []
        for seconds in work:
            pace.wait()
            began.append(clock.now)
            clock.sleep(seconds)
    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert all(gap >= 1 / rate - 1e-6 for gap in gaps), "also after a slow one: no burst"
    # And no slower: it waits for nothing when the work takes longer.
    slower = [gap - max(1 / rate, spent) for gap, spent in zip(gaps, work, strict=False)]
    assert max(slower) < 1e-6


@pytest.mark.parametrize("rate", [0.05, 0.5, 1, 7, 50, None])
def test_letters_are_not_held_longer_than_they_are_hidden(rate: float | None) -> None:
    pace = letters._Pace(rate)
    assert 1 <= pace.at_once <= 10
    if rate is not None:
        assert (pace.at_once - 1) / rate < READING / 2


ABOUT = {
    "message_id": "m1", "task": "gifts.send", "subject_id": UUID(int=1), "request_id": "order-1",
    "send_no": 2, "receive_count": 5, "trace": None,
}  # fmt: skip
SEEN = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        (Criteria(), True),
        (Criteria(task="gifts.send"), True),
        (Criteria(task="gifts"), False),
        (Criteria(since=SEEN), True),
        (Criteria(since=SEEN + timedelta(seconds=1)), False),
        (Criteria(match={"subject_id": str(UUID(int=1))}), True),
        (Criteria(match={"send_no": "2", "message_id": "m1"}), True),
        (Criteria(match={"send_no": "2", "message_id": "m2"}), False),
        (Criteria(match={"flag": "true"}), True),
        (Criteria(match={"flag": "True"}), False),
        (Criteria(match={"nothing": "null"}), True),
        (Criteria(match={"text": '"quoted"'}), True),
        (Criteria(match={"list": "[1, 2]"}), True),
        (Criteria(match={"missing": ""}), False),
        # An argument that is called like a field of the letter does not hide it.
        (Criteria(match={"receive_count": "5"}), True),
        (Criteria(match={"receive_count": "77"}), False),
    ],
)
def test_a_letter_is_meant_if_it_fits_all(criteria: Criteria, expected: bool) -> None:
    kwargs: dict[str, Any] = {
        "flag": True, "nothing": None, "text": '"quoted"', "list": [1, 2], "receive_count": 77,
    }  # fmt: skip
    assert criteria.fit(ABOUT, kwargs, SEEN) is expected
