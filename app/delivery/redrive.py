"""An operator's answers to what failed: redrive or discard a dead letter, retry a failed row.

A redrive is a new send and never the old message (docs/adr/0010): one transaction raises the send
number, stages a new task and writes down who asked; the letter is deleted after it. Whoever is
killed between the two runs it again: the letter is settled by then, and is only deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import CTE, ColumnElement, Insert, func, insert, select, update
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from app.delivery import recovery
from app.delivery.models import DeadLetter, Redrive
from app.delivery.recovery import Letter
from app.delivery.service import Model, staged_columns, staging
from app.observability import context
from app.outbox import service as outbox
from app.outbox.service import Message


class Outcome(StrEnum):
    """What became of a letter or a row. Every letter but a refused one may be deleted."""

    REDRIVEN = "redriven"
    """The row is queued again: a new send number, a new message, five new executions."""
    STAGED = "staged"
    """A task that delivers nothing is staged again, with the same arguments."""
    DISCARDED = "discarded"
    SETTLED = "settled"
    """It was decided before; only its deletion was missing."""
    STALE = "stale"
    """Its row has been sent again since: the letter has an older send number."""
    DONE = "done"
    """Its row has had its effect, or was called off."""
    ON_ITS_WAY = "on_its_way"
    """Its row is queued: another message carries the send."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Decision:
    outcome: Outcome
    why: str = ""
    send_no: int | None = None
    """The new one, where there is a new send."""

    @property
    def may_be_deleted(self) -> bool:
        return self.outcome is not Outcome.REFUSED


@dataclass(frozen=True)
class Command:
    """Who asks, and why. All that is done because of it has its `batch`."""

    actor: str
    reason: str
    batch: UUID = field(default_factory=uuid4)


def redrive(
    session: Session,
    letter: Letter,
    model: Model | None,
    command: Command,
    *,
    message: Message | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Decision:
    """Send again what a dead letter stands for. Commit, then delete the letter if it may be.

    Args:
        model: what the letter's task delivers, if it is known.
        message: a registered task that delivers nothing, and its queue; None if it is no such.
        kwargs: its arguments.
    """
    if _is_settled(session, letter, model):
        return Decision(Outcome.SETTLED)
    if model is not None:
        decision = _send_again(session, letter, model)
    elif message is not None:
        decision = _stage_again(session, letter, message, kwargs or {})
    else:
        decision = _refused("no known task, or arguments that cannot be read")
    if decision.may_be_deleted:
        _settle(session, letter, "redrive", decision, command)
    return decision


def discard(session: Session, letter: Letter, model: Model | None, command: Command) -> Decision:
    """Give a dead letter up. Its row stays as it is; commit, then delete the letter.

    A row that the letter left undecided is decided first, as the reconciler would: discarding must
    not leave it queued for ever.
    """
    if _is_settled(session, letter, model):
        return Decision(Outcome.SETTLED)
    decision = Decision(Outcome.DISCARDED)
    _settle(session, letter, "discard", decision, command)
    return decision


def retry(
    session: Session,
    model: Model,
    subject_id: UUID,
    *guards: ColumnElement[bool],
    command: Command,
    request_id: str,
    record: Callable[[CTE], Insert] | None = None,
) -> int | None:
    """Queue a failed row again, under a key of its own. Its dead letter becomes stale.

    Args:
        record: the domain's own insert, as for `service.queue()`.

    Returns:
        The new send number, or None when the guards found no failed row.
    """
    send_no = requeue(
        session, model, model.id == subject_id, *guards, request_id=request_id, record=record
    )
    if send_no is not None:
        queue = session.execute(select(model.queue()).where(model.id == subject_id)).scalar_one()
        _audit(
            session, "retry", Decision(Outcome.REDRIVEN, send_no=send_no), command,
            queue=queue, task=model.lifecycle.task, subject_id=subject_id,
        )  # fmt: skip
    return send_no


def requeue(
    session: Session,
    model: Model,
    *guards: ColumnElement[bool],
    request_id: str | None = None,
    record: Callable[[CTE], Insert] | None = None,
) -> int | None:
    """Make a failed row queued under a new send number and stage its task, in one statement.

    `accepted_at` stays: the recipient has waited since then.

    Args:
        request_id: the key of a retry; without one the row keeps the key of its last send.

    Returns:
        The new send number, or None when the guards found no failed row.
    """
    states = model.lifecycle
    changed: dict[str, Any] = {
        "status": states.queued,
        "send_no": model.send_no + 1,
        "carrier": None,
        "receive": 0,
        "executions": 0,
        "restages": 0,
        "failure": None,
        "last_error": None,
    }
    if request_id is not None:
        changed["request_id"] = request_id
    requeued = (
        update(model)
        .where(model.status == states.failed, *guards)
        .values(changed)
        .returning(*staged_columns(model))
        .cte("requeued")
    )
    statement = select(requeued.c.send_no).add_cte(staging(model, requeued).cte("staged"))
    if record is not None:
        statement = statement.add_cte(record(requeued).cte("recorded"))
    return session.execute(statement).scalar_one_or_none()


def _is_settled(session: Session, letter: Letter, model: Model | None) -> bool:
    """Look at the letter as the reconciler does, and lock its record until the commit."""
    recovery.reconcile(session, letter, model)
    settled = select(DeadLetter.settled_at).where(DeadLetter.message_id == letter.message_id)
    return session.execute(settled).scalar_one() is not None


def _send_again(session: Session, letter: Letter, model: Model) -> Decision:
    if letter.subject_id is None or letter.send_no is None:
        return _refused("its arguments name no row")
    held = (model.id == letter.subject_id, model.send_no == letter.send_no)
    try:
        with session.begin_nested():
            send_no = requeue(session, model, *held)
    except IntegrityError:  # such as a unique_key that another row has by now
        return _refused("its row cannot be open beside those that are")
    if send_no is not None:
        return Decision(Outcome.REDRIVEN, send_no=send_no)
    states = model.lifecycle
    row = session.execute(
        select(model.status, model.send_no).where(model.id == letter.subject_id)
    ).one_or_none()
    if row is None:
        return _refused("its row does not exist")
    if row.send_no > letter.send_no:
        return Decision(Outcome.STALE)
    if row.send_no < letter.send_no:
        return Decision(
            Outcome.REFUSED, "its row is older than the letter: the database lost a commit"
        )
    return Decision(Outcome.ON_ITS_WAY if row.status in states.open else Outcome.DONE)


def _stage_again(
    session: Session, letter: Letter, message: Message, kwargs: Mapping[str, Any]
) -> Decision:
    origin = {"request_id": letter.request_id, "traceparent": letter.trace}
    known = {name: value for name, value in origin.items() if value is not None}
    try:
        with session.begin_nested(), context.bound(**known):
            outbox.stage(session, message, kwargs)
    except (ValueError, DataError):  # too large, or what JSONB cannot keep
        return _refused("its arguments cannot be staged")
    return Decision(Outcome.STAGED)


def _refused(why: str) -> Decision:
    return Decision(Outcome.REFUSED, f"{why}: it can only be discarded")


def _settle(
    session: Session, letter: Letter, action: str, decision: Decision, command: Command
) -> None:
    session.execute(
        update(DeadLetter)
        .where(DeadLetter.message_id == letter.message_id)
        .values(settled_at=func.now())
    )
    _audit(
        session, action, decision, command,
        queue=letter.queue, task=letter.task, subject_id=letter.subject_id,
        message_id=letter.message_id,
    )  # fmt: skip


def _audit(
    session: Session, action: str, decision: Decision, command: Command, **about: Any
) -> None:
    session.execute(
        insert(Redrive).values(
            **vars(command),
            action=action,
            outcome=decision.outcome,
            send_no=decision.send_no,
            **about,
        )
    )
