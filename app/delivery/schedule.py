"""Rows that are to be delivered at a time of their own wait in the database until then.

SQS delays a message by 15 minutes at most, and a worker that holds one loses it when it ends.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from app.delivery.service import staged_columns, staging, update

#: Rows that one look stages; the next look takes the rest.
LIMIT = 500


def stage_due(session: Session, model: Any, *guards: ColumnElement[bool]) -> int:
    """Stage ready rows whose `scheduled_at` has come: the longest due first, then by priority.

    Any number may look at once: each takes rows that no other holds.

    Args:
        model: a deliverable with `scheduled_at` and `priority`, and one name for ready and queued.

    Returns:
        How many were staged.
    """
    due = (
        select(model.id)
        .where(
            model.status == model.lifecycle.ready,
            model.send_no == 0,
            model.scheduled_at <= func.now(),
            *guards,
        )
        .order_by(model.scheduled_at, model.priority.desc())
        .limit(LIMIT)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    queued = (
        update(model)
        .where(model.id.in_(select(due.c.id)), model.send_no == 0)
        .values(status=model.lifecycle.queued, send_no=1, accepted_at=func.now())
        .returning(*staged_columns(model), model.scheduled_at, model.priority)
        .cte("queued")
    )
    order = (queued.c.scheduled_at, queued.c.priority.desc())
    staged = staging(model, queued, *order).cte("staged")
    return int(
        session.execute(select(func.count()).select_from(queued).add_cte(staged)).scalar_one()
    )
