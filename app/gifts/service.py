"""The rules of gifts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, insert, select, tuple_
from sqlalchemy.orm import Session

from app.accounts.ownership import require_owner
from app.accounts.service import Principal
from app.delivery import run
from app.delivery import service as delivery
from app.delivery.models import Attempt
from app.delivery.service import Delivery, Verdict
from app.errors import Conflict, Invalid
from app.gifts.models import QUEUED, Gift, SendRequest
from app.gifts.senders import Parcel, Sender

log = logging.getLogger(__name__)


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
        session,
        Gift,
        Gift.id == gift_id,
        Gift.account_id == principal.account_id,
        request_id=request_id,
        record=lambda queued: insert(SendRequest).from_select(
            ["gift_id", "request_id"], select(queued.c.id, queued.c.request_id)
        ),
    )
    if queued is not None:
        log.info("gift queued", extra={"gift_id": str(gift_id), "status": QUEUED})
        return SendAnswer(gift_id, request_id, replayed=False)
    # A statement of its own: it sees what the winner of a race has committed meanwhile.
    row = session.execute(
        select(Gift.account_id, Gift.status, SendRequest.request_id)
        .outerjoin(
            SendRequest, and_(SendRequest.gift_id == Gift.id, SendRequest.request_id == request_id)
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
