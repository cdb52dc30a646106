"""Failures of messages that belong to no deliverable: what their dead letters died of."""

from __future__ import annotations

from sqlalchemy import func, insert
from sqlalchemy.orm import Session

from app.delivery.models import MESSAGE_KIND, Attempt
from app.delivery.service import MAX_CODE, MAX_ERROR_LENGTH, storable


def record_message_failure(
    session: Session,
    *,
    message_id: str,
    receive_count: int,
    worker: str,
    code: str,
    reason: str,
    permanent: bool = False,
) -> None:
    """Remember that one receive of a message failed. `okuru dlq show` tells it by its MessageId.

    Args:
        code: short and stable, such as "BAD_MESSAGE".
        reason: in words; whatever the message may have put into it is made storable.
        permanent: whether another receive cannot help.
    """
    session.execute(
        insert(Attempt).values(
            kind=MESSAGE_KIND,
            message_id=message_id,
            receive_count=receive_count,
            worker=storable(worker, 200),
            ended_at=func.now(),
            outcome="permanent" if permanent else "transient",
            error_code=storable(code, MAX_CODE),
            error_message=storable(reason, MAX_ERROR_LENGTH),
        )
    )
