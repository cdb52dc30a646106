"""Whose turn it is: shares as the weights say, and nobody starves."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tasks.engine.turns import Turns


def weights(largest: int) -> st.SearchStrategy[dict[str, int]]:
    return st.lists(st.integers(1, largest), min_size=1, max_size=6).map(
        lambda given: {f"q{number}": weight for number, weight in enumerate(given)}
    )


def longest_waits(taken: list[str]) -> dict[str, int]:
    """Turns from one of a queue's to its next, at most; the first wait begins before the first."""
    longest: Counter[str] = Counter()
    last: dict[str, int] = {}
    for number, name in enumerate(taken):
        longest[name] = max(longest[name], number - last.get(name, -1))
        last[name] = number
    return dict(longest)


def test_a_heavy_queues_turns_are_spread() -> None:
    turns = Turns({"a": 5, "b": 1, "c": 1})
    assert "".join(turns.next("abc") for _ in range(14)) == "aabacaa" * 2


def test_equal_queues_take_turns() -> None:
    turns = Turns({"a": 3, "b": 3, "c": 3})
    assert "".join(turns.next("abc") for _ in range(6)) == "abcabc"


@given(weights=weights(largest=10))
def test_no_queue_starves(weights: dict[str, int]) -> None:
    """The bound for the weights that a catalogue may have."""
    total = sum(weights.values())
    turns = Turns(weights)
    waits = longest_waits([turns.next(weights) for _ in range(3 * total)])
    assert waits.keys() == weights.keys()
    for name, weight in weights.items():
        assert waits[name] <= math.ceil(total / weight) + len(weights)


@given(weights=weights(largest=100))
def test_no_queue_starves_whatever_the_weights(weights: dict[str, int]) -> None:
    total = sum(weights.values())
    turns = Turns(weights)
    waits = longest_waits([turns.next(weights) for _ in range(3 * total)])
    assert waits.keys() == weights.keys()
    for name, weight in weights.items():
        assert waits[name] <= math.ceil(2 * total / weight)


@given(weights=weights(largest=30), skipped=st.integers(0, 200))
def test_shares_are_as_the_weights_say(weights: dict[str, int], skipped: int) -> None:
    """Over any W turns, not only over the first."""
    turns = Turns(weights)
    for _ in range(skipped):
        turns.next(weights)
    assert Counter(turns.next(weights) for _ in range(sum(weights.values()))) == weights


@given(
    weights=weights(largest=10),
    dry=st.lists(st.sets(st.sampled_from(["q0", "q1", "q2", "q3", "q4", "q5"])), max_size=200),
)
def test_none_starves_after_any_were_dry(weights: dict[str, int], dry: list[set[str]]) -> None:
    """A queue that was away neither catches up for long nor pays for it."""
    turns = Turns(weights)
    for each in dry:
        if wet := weights.keys() - each:
            turns.next(sorted(wet))
    taken = Counter(turns.next(weights) for _ in range(3 * sum(weights.values())))
    for name, weight in weights.items():
        assert abs(taken[name] - 3 * weight) <= 2


def test_a_queue_that_has_nothing_is_left_out() -> None:
    turns = Turns({"a": 5, "b": 1, "c": 1})
    assert "".join(turns.next("bc") for _ in range(4)) == "bcbc"
    assert turns.next(["c"]) == "c"
