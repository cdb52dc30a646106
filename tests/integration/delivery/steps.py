"""One transaction a step, as a worker makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text

from app import db
from app.delivery import recovery, service
from app.delivery.models import Attempt
from app.delivery.recovery import Letter
from app.delivery.service import Claim, Failure, Success, Verdict
from app.gifts.models import Gift
from app.outbox.models import OutboxRow

TRANSIENT = Failure("transient", "PROVIDER_503", "the provider answered 503")
PERMANENT = Failure("permanent", "PROVIDER_400", "the provider answered 400", permanent=True)


@dataclass(frozen=True)
class Delivery:
    message_id: str = "m1"
    receive_count: int = 1
    last_receive: bool = False
    worker: str = "worker:1"
    retry_delay: float = 0.0


def ask(gift: Gift, message: str = "m1", receive: int = 1, *, last: bool = False) -> Any:
    """A claim or the verdict against it."""
    with db.transaction() as session:
        return service.claim(session, Gift, gift.id, gift.send_no, Delivery(message, receive, last))


def claim(gift: Gift, message: str = "m1", receive: int = 1, *, last: bool = False) -> Claim:
    answer = ask(gift, message, receive, last=last)
    assert isinstance(answer, Claim)
    return answer


def fail(held: Claim, failure: Failure = TRANSIENT) -> Verdict:
    with db.transaction() as session:
        return service.fail(session, Gift, held, failure)


def succeed(held: Claim) -> Success:
    with db.transaction() as session:
        return service.succeed(session, Gift, held)


def reconcile(gift: Gift, message: str = "m1", send_no: int | None = None) -> str | None:
    send_no = gift.send_no if send_no is None else send_no
    letter = Letter(message, "gifts", 6, "{}", "gifts.send", gift.id, send_no, "key-1")
    with db.transaction() as session:
        return recovery.reconcile(session, letter, Gift)


def look(gift: Gift) -> Gift:
    with db.transaction() as session:
        return session.get_one(Gift, gift.id)


def outcomes(gift: Gift) -> list[str | None]:
    return [attempt.outcome for attempt in attempts(gift.id)]


def attempts(gift_id: UUID) -> list[Attempt]:
    with db.transaction() as session:
        return list(service.attempts(session, Gift, gift_id))


def staged() -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


def change(gift: Gift, **values: Any) -> None:
    """Put the row where a test wants it; the database still guards the moves."""
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    with db.transaction() as session:
        session.execute(
            text(f"UPDATE gifts SET {assignments} WHERE id = :gift_id"),
            {**values, "gift_id": gift.id},
        )
