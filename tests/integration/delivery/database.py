"""The real SQL behind the model's interface: each call is one transaction of `app.delivery`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from app import db
from app.delivery import recovery, redrive, service
from app.delivery.models import DeadLetter
from app.delivery.recovery import Letter as DeadLetterSeen
from app.delivery.service import Claim, Failure
from app.gifts.models import Gift, SendRequest
from app.outbox import service as outbox
from app.outbox.models import OutboxRow
from tests.factories import gifts
from tests.unit.delivery import model
from tests.unit.delivery.model import UNTOUCHED, Decision, Delivery, Held, Letter, Scheme


class Disagreement(AssertionError):
    """The database decided other than the model."""


class Both(Scheme):
    """The model, and beside it the real database, which must agree at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[int, UUID] = {}

    def create(self) -> int:
        gift = super().create()
        with db.transaction() as session:
            self.ids[gift] = gifts.created(session).id
        return gift

    def queue(self, gift: int) -> None:
        super().queue(gift)
        with db.transaction() as session:
            service.queue(
                session,
                service.queueing(Gift, Gift.id == self.ids[gift], record=record),
                key="key",
            )
        self._compare(gift)

    def ask_again(self, gift: int) -> None:
        super().ask_again(gift)
        with db.transaction() as session:
            agree("send number", self.rows[gift].send_no, requeue(session, self.ids[gift]))
        self._compare(gift)

    def take(self) -> list[tuple[int, int]]:
        with db.transaction() as session:
            taken = self._read(outbox.take(session, limit=100))
        expected = super().take()
        agree("taken", sorted(expected), sorted(taken))
        return expected

    def look_at_outbox(self) -> list[tuple[int, int]]:
        """The relay dies: what it took comes back."""
        with db.transaction() as session:
            taken = self._read(outbox.take(session, limit=100))
            session.rollback()
        expected = super().look_at_outbox()
        agree("seen", sorted(expected), sorted(taken))
        return expected

    def claim(self, gift: int, send_no: int, delivery: Delivery) -> Held | Decision:
        expected = super().claim(gift, send_no, delivery)
        with db.transaction() as session:
            real = service.claim(session, Gift, self.ids[gift], send_no, delivery)
        if isinstance(expected, Held) and isinstance(real, Claim):
            agree("execution", expected.execution, real.execution)
            self._compare(gift)
            return Held(gift, send_no, delivery, real.execution, (expected.handle, real))
        agree("claim", expected, decision(real))
        self._compare(gift)
        return expected

    def succeed(self, held: Held) -> Decision:
        mine, claim = self._split(held)
        expected = super().succeed(mine)
        with db.transaction() as session:
            real = service.succeed(session, Gift, claim)
        agree("success", expected, decision(real.verdict))
        agree("latency", expected.reason == "done", real.latency is not None)
        self._compare(held.gift)
        return expected

    def fail(self, held: Held, outcome: str) -> Decision:
        mine, claim = self._split(held)
        expected = super().fail(mine, outcome)
        failure = Failure(outcome, "CODE", "text", permanent=outcome == "permanent")
        with db.transaction() as session:
            real = service.fail(session, Gift, claim, failure)
        agree("failure", expected, decision(real))
        self._compare(held.gift)
        return expected

    def reconcile(self, letter: Letter) -> str | None:
        expected = super().reconcile(letter)
        seen = DeadLetterSeen(
            letter.message_id, "gifts", 6, "{}", "gifts.send", self.ids[letter.gift],
            letter.send_no, "key",
        )  # fmt: skip
        with db.transaction() as session:
            agree("reconciled", expected, recovery.reconcile(session, seen, Gift))
            known = session.scalars(select(DeadLetter.message_id)).all()
        agree("letters", self.letters, set(known))
        self._compare(letter.gift)
        return expected

    def recover_stalled(self, visible_depth: int) -> list[int]:
        ages = {self.ids[gift]: self.now - row.touched_at for gift, row in self.rows.items()}
        expected = super().recover_stalled(visible_depth)
        with db.transaction() as session:
            # The world's clock is not the database's: the trigger would write its own.
            session.execute(text("ALTER TABLE gifts DISABLE TRIGGER guard_deliverable"))
            for gift_id, age in ages.items():
                session.execute(AGE, {"id": gift_id, "age": age})
            session.execute(text("ALTER TABLE gifts ENABLE TRIGGER guard_deliverable"))
            real = recovery.recover_stalled(
                session,
                Gift,
                "gifts",
                visible_depth=visible_depth,
                untouched_for=timedelta(seconds=UNTOUCHED),
            )
        agree("recovered", {self.ids[gift] for gift in expected}, set(real))
        for gift in expected:
            self._compare(gift)
        return expected

    # --- what the two have in common ---

    def _split(self, held: Held) -> tuple[Held, Claim]:
        attempt, claim = held.handle
        return Held(held.gift, held.send_no, held.delivery, held.execution, attempt), claim

    def _read(self, taken: list[outbox.Taken]) -> list[tuple[int, int]]:
        numbers = {str(gift_id): gift for gift, gift_id in self.ids.items()}
        return [(numbers[row.kwargs["gift_id"]], row.kwargs["send_no"]) for row in taken]

    def _compare(self, gift: int) -> None:
        """The row, its attempts and the outbox, as the model has them."""
        row = self.rows[gift]
        with db.transaction() as session:
            real = session.get_one(Gift, self.ids[gift])
            columns = (
                "status", "send_no", "carrier", "receive", "executions", "restages", "failure",
            )  # fmt: skip
            attempts = [
                model.Attempt(each.send_no, each.message_id, each.receive_count, each.outcome)
                for each in service.attempts(session, Gift, self.ids[gift])
            ]
            staged = session.scalar(select(func.count()).select_from(OutboxRow))
            for name in columns:
                agree(name, getattr(row, name), getattr(real, name))
        agree("attempts", row.attempts, attempts)
        agree("staged", len(self.outbox), staged)


def requeue(session: Session, gift_id: UUID) -> int | None:
    return redrive.requeue(session, Gift, Gift.id == gift_id)


def agree(what: str, expected: object, real: object) -> None:
    if expected != real:
        raise Disagreement(f"{what}: the model says {expected!r}, the database {real!r}")


def decision(verdict: Any) -> Decision:
    return Decision(str(verdict.settle), verdict.reason, verdict.status)


def record(queued: Any) -> Any:
    """What a domain inserts beside: as `app.gifts.service` does it."""
    return insert(SendRequest).from_select(
        ["gift_id", "request_id"], select(queued.c.id, queued.c.request_id)
    )


AGE = text("UPDATE gifts SET updated_at = now() - make_interval(secs => :age) WHERE id = :id")
