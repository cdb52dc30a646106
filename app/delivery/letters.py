"""Reading the dead letters: which lie there, and what each died of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from app.delivery.models import Attempt, DeadLetter
from app.delivery.service import Model

#: Rows fetched at once.
PORTION = 200


def find(
    session: Session, queue: str, *, task: str | None = None, since: datetime | None = None
) -> Iterator[tuple[DeadLetter, str | None]]:
    """The letters that lie in a dead-letter queue, as far as the reconciler knows, oldest first.

    A settled letter that was seen again afterwards lies there still: its deletion failed.

    Returns:
        Each with the error of its message's last recorded attempt, if there is one.
    """
    reason = (
        select(func.concat_ws(": ", Attempt.error_code, Attempt.error_message))
        .where(Attempt.message_id == DeadLetter.message_id, Attempt.error_code.is_not(None))
        .order_by(Attempt.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    lies_there = or_(
        DeadLetter.settled_at.is_(None), DeadLetter.last_seen_at > DeadLetter.settled_at
    )
    query = select(DeadLetter, reason).where(DeadLetter.queue == queue, lies_there)
    if task is not None:
        query = query.where(DeadLetter.task == task)
    if since is not None:
        query = query.where(DeadLetter.first_seen_at >= since)
    found = session.execute(
        query.order_by(DeadLetter.first_seen_at, DeadLetter.message_id),
        execution_options={"yield_per": PORTION},
    )
    return ((letter, error) for letter, error in found)


def history(session: Session, letter: DeadLetter, model: Model | None) -> Sequence[Attempt]:
    """What was tried for a letter, oldest first: by its message, and by others for its send."""
    about = Attempt.message_id == letter.message_id
    if model is not None and letter.subject_id is not None:
        same_send = and_(
            Attempt.kind == model.lifecycle.kind,
            Attempt.subject_id == letter.subject_id,
            Attempt.send_no == letter.send_no,
        )
        about = or_(about, same_send)
    return session.scalars(select(Attempt).where(about).order_by(Attempt.id)).all()


def first_seen(session: Session, message_ids: Sequence[str]) -> dict[str, datetime]:
    """When each of these letters was first seen; those that nobody has seen are left out."""
    found = session.execute(
        select(DeadLetter.message_id, DeadLetter.first_seen_at).where(
            DeadLetter.message_id.in_(message_ids)
        )
    )
    return {row.message_id: row.first_seen_at for row in found}
