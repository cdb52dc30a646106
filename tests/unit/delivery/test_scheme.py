"""The delivery scheme, driven through random interleavings of everything that can go wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest

from tests.unit.delivery.model import MAX_EXECUTIONS, Delivery, Held, Row, Scheme
from tests.unit.delivery.world import Violation, World

STEPS = 250
BLOCK = 400


def run(seed: int, scheme: Scheme | None = None, *, premise: bool = True) -> World:
    world = World(scheme or Scheme(), Random(seed), premise=premise)
    try:
        world.run(STEPS)
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}\n" + "\n".join(world.history)) from None
    return world


@pytest.mark.parametrize("block", range(6))
def test_every_promise_holds(block: int) -> None:
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        run(seed)


def test_the_interleavings_reach_every_decision() -> None:
    """Else the test above would prove less than it says."""
    seen: Counter[str] = Counter()

    class Watched(Scheme):
        def claim(self, *args: object) -> object:  # type: ignore[override]
            answer = super().claim(*args)  # type: ignore[arg-type]
            seen["claimed" if isinstance(answer, Held) else answer.reason] += 1
            return answer

        def succeed(self, held: Held) -> object:  # type: ignore[override]
            was = self.rows[held.gift].status, held.handle.outcome
            answer = super().succeed(held)
            seen[f"{answer.reason} after {was[0]}"] += 1
            seen["sent after lost"] += was[1] == "lost" and answer.reason == "done"
            return answer

        def fail(self, held: Held, outcome: str) -> object:  # type: ignore[override]
            answer = super().fail(held, outcome)
            seen[answer.reason] += 1
            return answer

        def reconcile(self, *args: object) -> object:  # type: ignore[override]
            answer = super().reconcile(*args)  # type: ignore[arg-type]
            seen[f"reconciled {answer}"] += 1
            return answer

        def recover_stalled(self, *args: object) -> object:  # type: ignore[override]
            answer = super().recover_stalled(*args)  # type: ignore[arg-type]
            seen["recovered"] += bool(answer)
            return answer

    for seed in range(600):
        run(seed, Watched())
    wanted = {
        "claimed", "stale", "already_done", "already_failed", "another_carrier", "exhausted",
        "not_newer", "done after QUEUED", "done after FAILED", "already_done after SENT",
        "sent after lost", "fenced", "permanent", "restaged", "transient", "reconciled restaged",
        "reconciled failed", "recovered",
    }  # fmt: skip
    assert not wanted - {reason for reason, times in seen.items() if times}


class WithoutCarrier(Scheme):
    """Any copy of a message may claim."""

    def carrier_allows(self, row: Row, delivery: Delivery) -> bool:
        return True

    def is_newer(self, row: Row, delivery: Delivery) -> bool:
        return row.carrier != delivery.message_id or super().is_newer(row, delivery)


class WithoutReceive(Scheme):
    """The carrier alone is the fence: an old delivery may claim beside the new one."""

    def is_newer(self, row: Row, delivery: Delivery) -> bool:
        return True


class WithoutCount(Scheme):
    """SQS alone counts: copies and messages staged again bring receives of their own."""

    def has_executions_left(self, row: Row) -> bool:
        row.executions = min(row.executions, MAX_EXECUTIONS - 1)
        return True


class WithoutFencedFailure(Scheme):
    """Whoever fails may write."""

    def holds(self, row: Row, held: Held) -> bool:
        return row.status != "CREATED"


class WithoutReconciler(Scheme):
    def reconcile(self, letter: object) -> None:
        self.letters.add(letter.message_id)  # type: ignore[attr-defined]

    def recover_stalled(self, visible_depth: int) -> list[int]:
        return []


@pytest.mark.parametrize(
    ("scheme", "broken"),
    [
        (WithoutCarrier, "two executions inside the provider at once"),
        (WithoutReceive, "two executions inside the provider at once"),
        (WithoutCount, "executions of send"),
        (WithoutFencedFailure, "is FAILED with"),
        (WithoutReconciler, "does not come to rest"),
    ],
)
def test_each_bar_of_the_fence_is_needed(scheme: type[Scheme], broken: str) -> None:
    """Take one out, and some interleaving breaks the promise that it kept."""
    assert any(broken in violation for violation in violations(scheme))


def test_the_fence_needs_time_limits_below_the_visibility_timeout() -> None:
    broken = violations(Scheme, premise=False)
    assert any("two executions inside the provider at once" in violation for violation in broken)


def violations(scheme: type[Scheme], *, premise: bool = True) -> Iterator[str]:
    for seed in range(1000):
        try:
            run(seed, scheme(), premise=premise)
        except Violation as violation:
            yield str(violation).splitlines()[0]
