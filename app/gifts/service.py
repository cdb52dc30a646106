"""The rules of gifts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import CTE, Insert, Select, and_, bindparam, exists, func, insert, select, tuple_
from sqlalchemy.orm import Session

from app.accounts.ownership import require_owner
from app.accounts.service import Principal
from app.delivery import redrive, run
from app.delivery import service as delivery
from app.delivery.models import Attempt
from app.delivery.redrive import Command
from app.delivery.service import Delivery, Verdict
from app.errors import Conflict, IdempotencyKeyReused, Invalid, NotFound
from app.gifts.models import QUEUED, Gift, SendRequest
from app.gifts.senders import Parcel, Sender

log = logging.getLogger(__name__)

#: The send number of the owner's own send. Those of retries are higher.
FIRST_SEND = 1


def create(
    session: Session, principal: Principal, fields: dict[str, Any], may_simulate: bool
) -> Gift:
    """A new gift of the principal's account, with a code of its own.

    Raises:
        Invalid: it asks to be simulated, and the sender is a real one.
    """
    if "simulate" in fields and not may_simulate:
        raise Invalid("simulate needs SENDER=simulated", details={"simulate": ["Not allowed."]})
    gift = Gift(account_id=principal.account_id, **fields)
    session.add(gift)
    session.flush()
    session.refresh(gift)
    log.info("gift created", extra={"gift_id": str(gift.id), "status": gift.status})
    return gift


def get(session: Session, principal: Principal, gift_id: UUID) -> Gift:
    """
    Raises:
        NotFound: there is no such gift.
        Forbidden: it belongs to another account.
    """
    gift = session.get(Gift, gift_id)
    require_owner(principal, gift.account_id if gift else None, "gift")
    assert gift is not None  # noqa: S101 - for the types
    return gift


def list_gifts(
    session: Session,
    principal: Principal,
    *,
    limit: int,
    status: str | None = None,
    before: tuple[datetime, UUID] | None = None,
) -> Sequence[Gift]:
    """The account's gifts, newest first.

    Args:
        before: (created_at, id) of the last gift that the caller has seen.
    """
    query = select(Gift).where(Gift.account_id == principal.account_id)
    if status is not None:
        query = query.where(Gift.status == status)
    if before is not None:
        query = query.where(tuple_(Gift.created_at, Gift.id) < before)
    return session.scalars(
        query.order_by(Gift.created_at.desc(), Gift.id.desc()).limit(limit)
    ).all()


def summary(session: Session, account_id: UUID) -> dict[str, Any]:
    """How many gifts an account has, by state, and their amounts."""
    rows = session.execute(
        select(Gift.status, func.count(), func.sum(Gift.amount), func.max(Gift.amount))
        .where(Gift.account_id == account_id)
        .group_by(Gift.status)
    ).all()
    count = sum(row[1] for row in rows)
    total = int(sum(row[2] for row in rows))
    return {
        "rows": count,
        "by_status": {row[0]: row[1] for row in rows},
        "amount": {
            "sum": total,
            "mean": round(total / count, 2) if count else None,
            "max": max((row[3] for row in rows), default=None),
        },
    }


def attempts(session: Session, principal: Principal, gift_id: UUID) -> Sequence[Attempt]:
    """Every execution of a gift's sends, oldest first. Raises as `get()` does."""
    get(session, principal, gift_id)
    return delivery.attempts(session, Gift, gift_id)


@dataclass(frozen=True)
class SendAnswer:
    gift_id: UUID
    request_id: str
    replayed: bool
    """Whether this key had asked before: then nothing was queued now."""

    status: str = QUEUED


@cache
def _queueing() -> Select[int]:
    return delivery.queueing(
        Gift,
        Gift.id == bindparam("gift"),
        Gift.account_id == bindparam("account"),
        record=_remember,
    )


def request_send(
    session: Session, principal: Principal, gift_id: UUID, request_id: str
) -> SendAnswer:
    """Queue a gift, once: the first key wins, and may ask again for ever.

    Raises:
        NotFound: there is no such gift.
        Forbidden: it belongs to another account.
        Conflict: it was queued under another key.
    """
    queued = delivery.queue(
        session, _queueing(), key=request_id, gift=gift_id, account=principal.account_id
    )
    if queued is not None:
        log.info("gift queued", extra={"gift_id": str(gift_id), "status": QUEUED})
        return SendAnswer(gift_id, request_id, replayed=False)
    # A statement of its own: it sees what the winner of a race has committed meanwhile.
    row = session.execute(
        select(Gift.account_id, Gift.status, SendRequest.request_id)
        .outerjoin(
            SendRequest,
            and_(
                SendRequest.gift_id == Gift.id,
                SendRequest.request_id == request_id,
                SendRequest.send_no == FIRST_SEND,
            ),
        )
        .where(Gift.id == gift_id)
    ).one_or_none()
    require_owner(principal, row.account_id if row else None, "gift")
    assert row is not None  # noqa: S101 - for the types
    if row.request_id is None:
        raise Conflict(
            "the gift was already sent under another Idempotency-Key",
            details={"status": row.status},
        )
    return SendAnswer(gift_id, request_id, replayed=True)


def request_retry(
    session: Session, principal: Principal, gift_id: UUID, request_id: str
) -> SendAnswer:
    """Queue a failed gift of any account again, once a key: for operators.

    Its owner is not asked and nothing of its contents is answered (docs/adr/0007): the caller has
    made sure that the principal is an operator.

    Raises:
        NotFound: there is no such gift.
        Conflict: it has not failed, or another key was first.
        IdempotencyKeyReused: the key is the one under which the owner sent it.
    """
    asked_before = exists().where(
        SendRequest.gift_id == gift_id, SendRequest.request_id == request_id
    )
    send_no = redrive.retry(
        session,
        Gift,
        gift_id,
        ~asked_before,
        command=Command(actor=f"account {principal.account_id}", reason=f"key {request_id}"),
        request_id=request_id,
        record=_remember,
    )
    if send_no is not None:
        log.info("gift queued again", extra={"gift_id": str(gift_id), "status": QUEUED})
        return SendAnswer(gift_id, request_id, replayed=False)
    # A statement of its own, as above.
    row = session.execute(
        select(Gift.status, SendRequest.send_no)
        .outerjoin(
            SendRequest, and_(SendRequest.gift_id == Gift.id, SendRequest.request_id == request_id)
        )
        .where(Gift.id == gift_id)
    ).one_or_none()
    if row is None:
        raise NotFound("gift not found")
    if row.send_no is None:
        raise Conflict("only a failed gift can be sent again", details={"status": row.status})
    if row.send_no == FIRST_SEND:
        raise IdempotencyKeyReused("this Idempotency-Key is the one of the first send")
    return SendAnswer(gift_id, request_id, replayed=True)


def _remember(queued: CTE) -> Insert:
    """Keep the key of what was queued, for ever."""
    return insert(SendRequest).from_select(
        ["gift_id", "request_id", "send_no"],
        select(queued.c.id, queued.c.request_id, queued.c.send_no),
    )


def send(
    gift_id: UUID,
    send_no: int,
    delivery: Delivery,
    sender: Sender,
    interruptions: tuple[type[Exception], ...] = (),
) -> Verdict:
    """Deliver one gift. Raises as `app.delivery.run.deliver()` does."""
    return run.deliver(
        Gift,
        gift_id,
        send_no,
        delivery,
        load=lambda session: _parcel(session.get_one(Gift, gift_id)),
        effect=sender.send,
        interruptions=interruptions,
    )


def _parcel(gift: Gift) -> Parcel:
    assert gift.accepted_at is not None, "a queued gift was accepted"  # noqa: S101 - for the types
    return Parcel(
        gift_id=gift.id,
        code=gift.code,
        amount=gift.amount,
        message=gift.message,
        recipient=gift.recipient,
        accepted_at=gift.accepted_at,
        simulate=gift.simulate or {},
    )
