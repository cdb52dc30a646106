"""What a crash or an outage left behind: dead letters are copied, lost rows staged again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.delivery.models import DeadLetter
from app.delivery.service import Model, give_up, restage
from app.outbox import service as outbox

#: How often the reconciler gives a send whose message died another one.
MAX_RESTAGES = 3

#: Rows that one sweep stages again; the next sweep takes the rest.
SWEEP_LIMIT = 500


@dataclass(frozen=True)
class Letter:
    """A message as it lies in a dead-letter queue. What could not be read is None."""

    message_id: str
    queue: str
    receive_count: int
    body: str
    task: str | None
    subject_id: UUID | None
    send_no: int | None
    request_id: str | None
    trace: str | None = None


def reconcile(session: Session, letter: Letter, model: Model | None) -> str | None:
    """Remember a dead letter by its MessageId, and decide the send that it left undecided.

    Only the first sight decides: the letter stays in its queue for an operator, and a row that
    was staged again because of it must not be staged again because of it at every sweep.

    Args:
        model: what the letter's task delivers, if it is known.

    Returns:
        "restaged", "failed", or None when there was nothing to decide.
    """
    is_new: bool = session.execute(
        insert(DeadLetter)
        .values(**vars(letter))
        .on_conflict_do_update(
            index_elements=[DeadLetter.message_id], set_={"last_seen_at": func.now()}
        )
        .returning(literal_column("xmax = 0"))
    ).scalar_one()
    if not is_new or model is None or letter.subject_id is None:
        return None
    return _decide(session, model, letter)


def _decide(session: Session, model: Model, letter: Letter) -> str | None:
    """With executions left: a new message, at most `MAX_RESTAGES` times. Else the row fails."""
    held = (
        model.id == letter.subject_id,
        model.send_no == letter.send_no,
        # No carrier: no delivery of it ever reached the database.
        or_(model.carrier.is_(None), model.carrier == letter.message_id),
    )
    if restage(
        session,
        model,
        *held,
        model.executions < model.limit(),
        model.restages < MAX_RESTAGES,
        by_reconciler=True,
    ):
        return "restaged"
    return "failed" if give_up(session, model, *held) else None


def recover_stalled(
    session: Session, model: Model, queue: str, *, visible_depth: int, untouched_for: timedelta
) -> Sequence[UUID]:
    """Stage open rows again whose message vanished, of those that `queue` carries.

    Only when nothing can still be on its way: the queue shows no message, the outbox holds none
    for it, and the row has been untouched for longer than a message can hide.

    Args:
        visible_depth: messages waiting in the queue.
        untouched_for: longer than a worker may hold a message or a back-off hide it.

    Returns:
        The ids of the rows that were staged again.
    """
    states = model.lifecycle
    if visible_depth > 0 or outbox.waits_for(session, queue):
        return []
    stalled = (
        select(model.id)
        .where(
            model.status.in_(states.open),
            model.send_no > 0,
            model.queue() == queue,
            model.updated_at < func.now() - untouched_for,
            # Its task may be parked there until an operator has looked at it, or wait for its time.
            ~outbox.is_staged(states.task, queue, states.subject, model.id),
        )
        .order_by(model.updated_at)
        .limit(SWEEP_LIMIT)
        .with_for_update(skip_locked=True)
        # Not a subquery: that could be run again for each row, and lock others each time.
        .cte("stalled")
    )
    return restage(session, model, model.id.in_(select(stalled.c.id)))


def longest_untouched(session: Session, model: Model, queue: str) -> float | None:
    """Seconds since the open row of a queue that waits longest was touched; None without one."""
    age = func.extract("epoch", func.now() - func.min(model.updated_at))
    found = session.scalar(
        select(age).where(
            model.status.in_(model.lifecycle.open), model.send_no > 0, model.queue() == queue
        )
    )
    return None if found is None else float(found)
