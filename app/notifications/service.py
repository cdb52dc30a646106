"""The rules of notifications."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.accounts import service as accounts
from app.accounts.ownership import require_owner
from app.accounts.service import Principal
from app.notifications.models import Notification
from app.observability import metrics

log = logging.getLogger(__name__)


def notify(session: Session, *, recipient: str, title: str, body: str, occasion: str) -> bool:
    """Tell somebody something, once an occasion.

    Args:
        recipient: an account's id; for anybody else the notification is kept and counted.

    Returns:
        Whether it is told now, and was not told before.
    """
    account_id = accounts.known(session, recipient)
    told = session.execute(
        insert(Notification)
        .values(
            account_id=account_id, recipient=recipient, title=title, body=body, occasion=occasion
        )
        .on_conflict_do_nothing(index_elements=[Notification.occasion])
        .returning(Notification.id)
    ).scalar_one_or_none()
    if told is None:
        return False
    known = "known" if account_id else "unknown"
    metrics.NOTIFICATIONS.labels(known).inc()
    log.info("notification stored for a recipient who is %s", known)
    return True


def list_notifications(
    session: Session,
    principal: Principal,
    *,
    limit: int,
    unread: bool = False,
    before: tuple[datetime, UUID] | None = None,
) -> Sequence[Notification]:
    """The account's notifications, newest first.

    Args:
        before: (created_at, id) of the last one that the caller has seen.
    """
    query = select(Notification).where(Notification.account_id == principal.account_id)
    if unread:
        query = query.where(Notification.read_at.is_(None))
    if before is not None:
        query = query.where(tuple_(Notification.created_at, Notification.id) < before)
    return session.scalars(
        query.order_by(Notification.created_at.desc(), Notification.id.desc()).limit(limit)
    ).all()


def mark_read(session: Session, principal: Principal, notification_id: UUID) -> Notification:
    """Reading twice changes nothing.

    Raises:
        NotFound: there is no such notification.
        Forbidden: it belongs to another account.
    """
    notification = session.scalars(
        update(Notification)
        .where(Notification.id == notification_id, Notification.account_id == principal.account_id)
        .values(read_at=func.coalesce(Notification.read_at, func.now()))
        .returning(Notification)
    ).one_or_none()
    if notification is None:
        owner = session.execute(
            select(Notification.account_id).where(Notification.id == notification_id)
        ).one_or_none()
        # One for nobody here is nobody's to read.
        require_owner(principal, owner.account_id if owner else None, "notification")
    assert notification is not None  # noqa: S101 - for the types
    return notification


def summary(session: Session, account_id: UUID) -> dict[str, Any]:
    """How many notifications an account has, and how many of them are unread."""
    rows, unread = session.execute(
        select(func.count(), func.count().filter(Notification.read_at.is_(None))).where(
            Notification.account_id == account_id
        )
    ).one()
    return {"rows": rows, "unread": unread}
