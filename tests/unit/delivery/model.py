"""The delivery scheme in plain Python: what docs/architecture.md promises, without a database.

`Scheme` is written from the rules, not from `app.delivery`: tests/integration/delivery drives both
through the same interleavings and compares every decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_EXECUTIONS = 5
MAX_RESTAGES = 3
#: Seconds, as the queue of gifts has them.
VISIBILITY = 30
HARD_LIMIT = 20
BACKOFF = (10, 30, 60, 120)
OUTAGE_DELAY = 30
MAX_RECEIVES = 5
UNTOUCHED = max(BACKOFF) + VISIBILITY


@dataclass(frozen=True)
class Delivery:
    message_id: str
    receive_count: int
    worker: str = "worker:1"
    retry_delay: float = 0.0

    @property
    def last_receive(self) -> bool:
        return self.receive_count >= MAX_RECEIVES


@dataclass(frozen=True)
class Decision:
    """What becomes of a message, why, and the state that the log is told."""

    settle: str
    reason: str
    status: str


@dataclass(frozen=True)
class Letter:
    message_id: str
    gift: int
    send_no: int


@dataclass
class Attempt:
    send_no: int
    message_id: str
    receive: int
    outcome: str | None = None


@dataclass(frozen=True)
class Held:
    """A claim. `handle` is whatever the database needs to find it again."""

    gift: int
    send_no: int
    delivery: Delivery
    execution: int
    handle: Any


@dataclass
class Row:
    status: str = "CREATED"
    send_no: int = 0
    carrier: str | None = None
    receive: int = 0
    executions: int = 0
    restages: int = 0
    failure: str | None = None
    touched_at: int = 0
    attempts: list[Attempt] = field(default_factory=list)


class Scheme:
    """The rows, the outbox and the dead letters; each method is one transaction."""

    def __init__(self) -> None:
        self.now = 0
        self.rows: dict[int, Row] = {}
        self.outbox: list[tuple[int, int]] = []
        self.letters: set[str] = set()

    # The fence, each bar by itself: tests take one out and see what falls.

    def carrier_allows(self, row: Row, delivery: Delivery) -> bool:
        return row.carrier in (None, delivery.message_id)

    def is_newer(self, row: Row, delivery: Delivery) -> bool:
        return row.receive < delivery.receive_count

    def has_executions_left(self, row: Row) -> bool:
        return row.executions < MAX_EXECUTIONS

    def holds(self, row: Row, held: Held) -> bool:
        return (row.status, row.send_no, row.carrier, row.receive) == (
            "QUEUED",
            held.send_no,
            held.delivery.message_id,
            held.delivery.receive_count,
        )

    # --- the transactions ---

    def create(self) -> int:
        gift = len(self.rows) + 1
        self.rows[gift] = Row(touched_at=self.now)
        return gift

    def queue(self, gift: int) -> None:
        self._to_queued(self.rows[gift])
        self._stage(gift)

    def ask_again(self, gift: int) -> None:
        """An operator's redrive of a failed row."""
        row = self.rows[gift]
        assert row.status == "FAILED"
        row.carrier, row.receive, row.executions, row.restages = None, 0, 0, 0
        row.failure = None
        self._to_queued(row)
        self._stage(gift)

    def take(self) -> list[tuple[int, int]]:
        taken, self.outbox = self.outbox, []
        return taken

    def look_at_outbox(self) -> list[tuple[int, int]]:
        """What a relay that dies before it commits has published."""
        return list(self.outbox)

    def claim(self, gift: int, send_no: int, delivery: Delivery) -> Held | Decision:
        row = self.rows[gift]
        if (
            row.send_no == send_no
            and row.status == "QUEUED"
            and self.has_executions_left(row)
            and self.carrier_allows(row, delivery)
            and self.is_newer(row, delivery)
        ):
            row.carrier, row.receive = delivery.message_id, delivery.receive_count
            row.executions += 1
            row.touched_at = self.now
            self._close_open(row)
            row.attempts.append(Attempt(send_no, delivery.message_id, delivery.receive_count))
            return Held(gift, send_no, delivery, row.executions, row.attempts[-1])
        return self._refuse(row, send_no, delivery)

    def _refuse(self, row: Row, send_no: int, delivery: Delivery) -> Decision:
        if row.send_no > send_no:
            return Decision("delete", "stale", row.status)
        if row.send_no < send_no or row.status == "CREATED":
            return Decision("retry", "not_yet_queued", row.status)
        if row.status == "SENT":
            for attempt in row.attempts:
                mine = attempt.message_id == delivery.message_id
                if mine and attempt.receive < delivery.receive_count and attempt.outcome is None:
                    attempt.outcome = "lost"
            return Decision("delete", "already_done", row.status)
        if row.failure == "permanent":
            return Decision("delete", "already_failed", row.status)
        if row.carrier not in (None, delivery.message_id):
            return Decision("delete", "another_carrier", row.status)
        if row.status == "FAILED" or row.executions >= MAX_EXECUTIONS:
            return Decision("expose", "exhausted", row.status)
        return Decision("leave", "not_newer", row.status)

    def succeed(self, held: Held) -> Decision:
        row = self.rows[held.gift]
        attempt: Attempt = held.handle
        if row.send_no != held.send_no or row.status not in ("QUEUED", "FAILED"):
            if attempt.outcome is None:
                attempt.outcome = "unknown"
            return Decision("delete", "already_done", "SENT")
        row.status, row.failure, row.touched_at = "SENT", None, self.now
        attempt.outcome = "sent"
        return Decision("delete", "done", "SENT")

    def fail(self, held: Held, outcome: str) -> Decision:
        row = self.rows[held.gift]
        attempt: Attempt = held.handle
        if attempt.outcome is None:
            attempt.outcome = outcome
        if not self.holds(row, held):
            return Decision("leave", "fenced", "-")
        row.touched_at = self.now
        if outcome == "permanent":
            row.status, row.failure = "FAILED", "permanent"
            return Decision("delete", "permanent", "FAILED")
        if held.execution >= MAX_EXECUTIONS:
            row.status, row.failure = "FAILED", "exhausted"
            return Decision("expose", "exhausted", "FAILED")
        if held.delivery.last_receive:
            self._restage(held.gift)
            return Decision("delete", "restaged", "QUEUED")
        return Decision("retry", "transient", "QUEUED")

    def reconcile(self, letter: Letter) -> str | None:
        if letter.message_id in self.letters:
            return None
        self.letters.add(letter.message_id)
        row = self.rows[letter.gift]
        if (
            row.status != "QUEUED"
            or row.send_no != letter.send_no
            or row.carrier not in (None, letter.message_id)
        ):
            return None
        if row.executions < MAX_EXECUTIONS and row.restages < MAX_RESTAGES:
            row.restages += 1
            self._restage(letter.gift)
            return "restaged"
        row.status, row.failure, row.touched_at = "FAILED", "unknown", self.now
        self._close_open(row)
        return "failed"

    def recover_stalled(self, visible_depth: int) -> list[int]:
        if visible_depth or self.outbox:
            return []
        stalled = [
            gift
            for gift, row in self.rows.items()
            if row.status == "QUEUED" and row.touched_at < self.now - UNTOUCHED
        ]
        for gift in stalled:
            self._restage(gift)
        return stalled

    def _to_queued(self, row: Row) -> None:
        row.status, row.touched_at = "QUEUED", self.now
        row.send_no += 1

    def _restage(self, gift: int) -> None:
        row = self.rows[gift]
        row.carrier, row.receive, row.touched_at = None, 0, self.now
        self._stage(gift)

    def _stage(self, gift: int) -> None:
        self.outbox.append((gift, self.rows[gift].send_no))

    def _close_open(self, row: Row) -> None:
        for attempt in row.attempts:
            if attempt.outcome is None:
                attempt.outcome = "lost"
