"""Queue, claim, succeed, fail: every state change of a deliverable is one of these guards.

A guard is a conditional UPDATE whose row count decides. Two workers, two copies of a message or
two callers may arrive at once: one finds its row, the others find none and are told why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Insert,
    Select,
    String,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
)
from sqlalchemy import update as sql_update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import Update

from app.delivery.models import Attempt, Deliverable, is_send_no
from app.outbox import service as outbox

#: Texts from outside are kept short: a provider may answer with a page.
MAX_ERROR_LENGTH = 1000
#: Of an error's code.
MAX_CODE = 80

Model = type[Deliverable]


def update(model: type[Any]) -> Update:
    """An UPDATE that leaves loaded objects alone: nobody reads them after it, and looking them
    through costs more than the statement."""
    return sql_update(model).execution_options(synchronize_session=False)


def storable(text: str, length: int) -> str:
    """Without what PostgreSQL cannot keep: NUL, and half of a surrogate pair."""
    whole = text.encode("utf-8", "replace").decode()
    return whole.replace("\0", "\N{REPLACEMENT CHARACTER}")[:length]


class Delivery(Protocol):
    """One receive of one message, as the engine reports it."""

    @property
    def message_id(self) -> str: ...
    @property
    def receive_count(self) -> int: ...
    @property
    def last_receive(self) -> bool:
        """Whether SQS moves the message to the dead-letter queue instead of delivering it again."""

    @property
    def worker(self) -> str:
        """The process that executes."""

    @property
    def retry_delay(self) -> float:
        """Seconds for which a failure at this receive hides the message."""


@dataclass(frozen=True)
class Claim:
    """The right to run the effect once, fenced by the message and its receive count."""

    subject_id: UUID
    send_no: int
    delivery: Delivery
    execution: int
    is_last: bool
    """Whether the row may have no other execution."""
    attempt_id: int


class Settle(StrEnum):
    """What becomes of the message."""

    DELETE = "delete"
    RETRY = "retry"
    """Hidden for the back-off of its receive count, then delivered again."""
    EXPOSE = "expose"
    """Visible at once, so that SQS moves it to the dead-letter queue at the next receive."""
    LEAVE = "leave"
    """Not ours to decide: another delivery of it is at work."""


@dataclass(frozen=True)
class Verdict:
    settle: Settle
    reason: str
    status: str
    """The row's state, for the log."""
    retry_after: float | None = None
    """Seconds that the provider asked to wait; the engine caps it by its largest back-off."""


@dataclass(frozen=True)
class Failure:
    """Why an execution did not succeed."""

    outcome: str
    code: str
    message: str
    permanent: bool = False
    retry_after: float | None = None
    called_off: bool = False
    """Not a failure: its owner no longer wants it."""


# --- queue --------------------------------------------------------------------------------------


def queueing(
    model: Model, *guards: ColumnElement[bool], record: Callable[[CTE], Insert]
) -> Select[int]:
    """The statement that makes a ready row queued and stages its task: no lock outlives it.

    Building it takes longer than PostgreSQL takes to run it: a domain builds it once, with bind
    parameters in its guards, and gives it to `queue()`.

    Args:
        guards: which row, and under which conditions.
        record: the domain's own insert, from the columns id, send_no, request_id of the queued
            rows.
    """
    states = model.lifecycle
    queued = (
        update(model)
        .where(model.status == states.ready, *guards)
        .values(
            status=states.queued,
            send_no=model.send_no + 1,
            request_id=bindparam("key", type_=String),
            accepted_at=func.now(),
        )
        .returning(*staged_columns(model))
        .cte("queued")
    )
    return select(queued.c.send_no).add_cte(
        record(queued).cte("recorded"), staging(model, queued).cte("staged")
    )


def queue(session: Session, statement: Select[int], *, key: str, **values: Any) -> int | None:
    """Run what `queueing()` made.

    Args:
        key: the Idempotency-Key; travels with the message into every log line.
        values: of the bind parameters in the guards.

    Returns:
        The new send number, or None when the guards found no row.
    """
    return session.execute(statement, {"key": key, **values}).scalar_one_or_none()


def restage(
    session: Session,
    model: Model,
    *guards: ColumnElement[bool],
    by_reconciler: bool = False,
    delay: float = 0,
) -> Sequence[UUID]:
    """Stage open rows again whose message is gone; they keep their send number and executions.

    Args:
        delay: seconds before the new message may be published.

    Returns:
        The ids of the rows that the guards found.
    """
    states = model.lifecycle
    restaged = (
        update(model)
        .where(model.status.in_(states.open), model.send_no > 0, *guards)
        .values(
            status=case((model.executions > 0, states.between), else_=states.queued),
            carrier=None,
            receive=0,
            restages=model.restages + int(by_reconciler),
        )
        .returning(*staged_columns(model))
        .cte("restaged")
    )
    return (
        session.execute(
            select(restaged.c.id).add_cte(staging(model, restaged, delay=delay).cte("staged"))
        )
        .scalars()
        .all()
    )


def staged_columns(model: Model) -> tuple[Any, ...]:
    """What `staging()` needs to know of each row."""
    return (model.id, model.send_no, model.request_id, model.queue().label("queue"))


def staging(
    model: Model, rows: CTE, *order: ColumnElement[Any], delay: float | None = None
) -> Insert:
    """The insert that stages the task of each row of `staged_columns()`, in the given order."""
    states = model.lifecycle
    kwargs = func.jsonb_build_object(
        literal(states.subject), rows.c.id,
        literal("send_no"), rows.c.send_no,
        literal("request_id"), rows.c.request_id,
    )  # fmt: skip
    # The row's own request: a sweep that stages it again has another context.
    headers = func.jsonb_build_object(literal("request_id"), rows.c.request_id)
    return outbox.staging(
        states.task, rows.c.queue, kwargs, headers, select(rows).order_by(*order), delay=delay
    )


# --- claim --------------------------------------------------------------------------------------


def claim(
    session: Session, model: Model, subject_id: UUID, send_no: int, delivery: Delivery
) -> Claim | Verdict:
    """Ask for the right to run the effect. Commit before running it.

    Returns:
        A claim, or a verdict that says what becomes of a message that may not run.

    Raises:
        ValueError: no message of ours has such a send number.
    """
    if not is_send_no(send_no):
        raise ValueError("send_no is no send number")
    states = model.lifecycle
    claimed = session.execute(
        update(model)
        .where(
            model.id == subject_id,
            model.send_no == send_no,
            model.status.in_(states.open),
            model.executions < model.limit(),
            or_(model.carrier.is_(None), model.carrier == delivery.message_id),
            model.receive < delivery.receive_count,
        )
        .values(
            status=states.at_work,
            carrier=delivery.message_id,
            receive=delivery.receive_count,
            executions=model.executions + 1,
        )
        .returning(model.executions, model.limit())
    ).one_or_none()
    if claimed is None:
        return _refuse(session, model, subject_id, send_no, delivery)
    close_open_attempts(session, model, subject_id)
    attempt_id = session.execute(
        insert(Attempt)
        .values(
            kind=states.kind,
            subject_id=subject_id,
            send_no=send_no,
            receive_count=delivery.receive_count,
            message_id=delivery.message_id,
            worker=delivery.worker,
        )
        .returning(Attempt.id)
    ).scalar_one()
    execution, limit = claimed
    return Claim(subject_id, send_no, delivery, execution, execution >= limit, attempt_id)


def _refuse(
    session: Session, model: Model, subject_id: UUID, send_no: int, delivery: Delivery
) -> Verdict:
    """Why the claim found no row, and so what becomes of the message."""
    states = model.lifecycle
    row = session.execute(
        select(
            model.status,
            model.send_no,
            model.carrier,
            model.receive,
            model.failure,
            (model.executions >= model.limit()).label("spent"),
        ).where(model.id == subject_id)
    ).one_or_none()
    if row is None:
        return Verdict(Settle.RETRY, "unknown_subject", "-")
    if row.send_no > send_no:
        return Verdict(Settle.DELETE, "stale", row.status)
    if row.send_no < send_no:
        # The database is older than the message: a failover lost a commit. Nobody may decide that.
        return Verdict(Settle.RETRY, "not_yet_queued", row.status)
    if row.status == states.done:
        close_open_attempts(session, model, subject_id, older_than=delivery)
        return Verdict(Settle.DELETE, "already_done", row.status)
    if row.status == states.cancelled:
        return Verdict(Settle.DELETE, "cancelled", row.status)
    if row.failure == "permanent":
        return Verdict(Settle.DELETE, "already_failed", row.status)
    if row.carrier not in (None, delivery.message_id):
        return Verdict(Settle.DELETE, "another_carrier", row.status)
    if row.status == states.failed or row.spent:
        if states.buries:
            return Verdict(Settle.EXPOSE, "exhausted", row.status)
        if row.receive < delivery.receive_count:
            give_up(session, model, model.id == subject_id, model.send_no == send_no)
            return Verdict(Settle.DELETE, "exhausted", states.failed)
    return Verdict(Settle.LEAVE, "not_newer", row.status)


#: Why a row has failed whose executions did not tell.
NEVER_EXECUTED = "NEVER_EXECUTED: every message of it died before an execution; nothing was sent"
OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN: the last execution ended without recording an outcome"


def give_up(session: Session, model: Model, *guards: ColumnElement[bool]) -> bool:
    """Make an open row failed that no message carries any more. Returns whether there was one."""
    states = model.lifecycle
    failed = session.execute(
        update(model)
        .where(model.status.in_(states.open), *guards)
        .values(
            status=states.failed,
            failure="unknown",
            last_error=case((model.executions == 0, NEVER_EXECUTED), else_=OUTCOME_UNKNOWN),
        )
        .returning(model.id)
    ).scalar_one_or_none()
    if failed is not None:
        close_open_attempts(session, model, failed)
    return failed is not None


def close_open_attempts(
    session: Session, model: Model, subject_id: UUID, older_than: Delivery | None = None
) -> None:
    """An attempt that is open when the next delivery comes has lost its worker."""
    statement = update(Attempt).where(
        Attempt.kind == model.lifecycle.kind,
        Attempt.subject_id == subject_id,
        Attempt.ended_at.is_(None),
    )
    if older_than is not None:
        statement = statement.where(
            Attempt.message_id == older_than.message_id,
            Attempt.receive_count < older_than.receive_count,
        )
    session.execute(
        statement.values(
            ended_at=func.now(),
            outcome="lost",
            error_code="WORKER_LOST",
            error_message="the worker ended without recording an outcome",
        )
    )


# --- outcome ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Success:
    verdict: Verdict
    latency: float | None
    """Seconds from acceptance, or None when another execution had already succeeded."""


def succeed(session: Session, model: Model, claim: Claim) -> Success:
    """Record that the effect happened. Success is a fact: no fence stands before it.

    A row that was given up (failed) in the meantime becomes done all the same: the provider's
    answer came late, and it is the truth (docs/adr/0005).
    """
    states = model.lifecycle
    row = session.execute(
        update(model)
        .where(
            model.id == claim.subject_id,
            model.send_no == claim.send_no,
            model.status.in_((*states.open, states.failed)),
        )
        .values(status=states.done, failure=None, last_error=None)
        .returning(func.extract("epoch", func.now() - model.accepted_at))
    ).scalar_one_or_none()
    if row is None:
        status = session.scalar(select(model.status).where(model.id == claim.subject_id)) or "-"
        code, why = (
            ("ALREADY_DONE", "another execution had succeeded")
            if status == states.done
            else ("TOO_LATE", f"the row was {status} by then")
        )
        _end_attempt(session, claim, Failure("unknown", code, why))
        return Success(Verdict(Settle.DELETE, code.lower(), status), latency=None)
    session.execute(
        # Also one that was closed as lost: the answer came after all.
        update(Attempt)
        .where(Attempt.id == claim.attempt_id)
        .values(ended_at=func.now(), outcome="sent", error_code=None, error_message=None)
    )
    return Success(Verdict(Settle.DELETE, "done", states.done), latency=float(row))


def fail(session: Session, model: Model, claim: Claim, failure: Failure) -> Verdict:
    """Record that an execution failed. Fenced: only the delivery that holds the claim may.

    Returns:
        What becomes of the message; a fifth execution or a permanent failure ends the send.
    """
    states = model.lifecycle
    held = (
        model.id == claim.subject_id,
        model.send_no == claim.send_no,
        model.carrier == claim.delivery.message_id,
        model.receive == claim.delivery.receive_count,
    )
    failure = replace(
        failure,
        code=storable(failure.code, MAX_CODE),
        message=storable(failure.message, MAX_ERROR_LENGTH),
    )
    last_error = f"{failure.code}: {failure.message}"[:MAX_ERROR_LENGTH]
    if failure.called_off:
        found = _change(session, model, held, status=states.cancelled, last_error=None)
        verdict = Verdict(Settle.DELETE, "cancelled", states.cancelled)
    elif failure.permanent or claim.is_last:
        found = _change(
            session, model, held,
            status=states.failed,
            failure="permanent" if failure.permanent else "exhausted",
            last_error=last_error,
        )  # fmt: skip
        buried = states.buries and not failure.permanent
        verdict = Verdict(
            Settle.EXPOSE if buried else Settle.DELETE,
            "permanent" if failure.permanent else "exhausted",
            states.failed,
        )
    elif claim.delivery.last_receive:
        # SQS would dead-letter what still has executions left: an outage has burnt receives, or
        # the row may have more executions than its queue gives receives (docs/adr/0014).
        # At the last receive the back-off is the largest, which also caps what a provider asks.
        found = _change(session, model, held, last_error=last_error) and bool(
            restage(session, model, *held, delay=claim.delivery.retry_delay)
        )
        verdict = Verdict(Settle.DELETE, "restaged", states.between)
    else:
        found = _change(session, model, held, status=states.between, last_error=last_error)
        verdict = Verdict(Settle.RETRY, "transient", states.between, failure.retry_after)
    # After the row, as a claim does it: two that lock in different orders would deadlock.
    _end_attempt(session, claim, failure)
    return verdict if found else Verdict(Settle.LEAVE, "fenced", "-")


def lose(
    session: Session,
    model: Model,
    subject_id: UUID,
    send_no: int,
    delivery: Delivery,
    failure: Failure,
) -> Verdict | None:
    """Record an execution that ended without a word of its own: killed, or a bug of ours.

    Returns:
        As `fail()` does, or None if this delivery had begun no execution.
    """
    begun = session.execute(
        select(Attempt.id, model.executions, (model.executions >= model.limit()).label("is_last"))
        .join(model, model.id == Attempt.subject_id)
        .where(
            Attempt.kind == model.lifecycle.kind,
            Attempt.subject_id == subject_id,
            Attempt.send_no == send_no,
            Attempt.message_id == delivery.message_id,
            Attempt.receive_count == delivery.receive_count,
            Attempt.ended_at.is_(None),
        )
    ).one_or_none()
    if begun is None:
        return None
    claim = Claim(subject_id, send_no, delivery, begun.executions, begun.is_last, begun.id)
    return fail(session, model, claim, failure)


def _change(
    session: Session, model: Model, held: tuple[ColumnElement[bool], ...], **values: Any
) -> bool:
    changed = session.execute(
        update(model)
        .where(model.status.in_(model.lifecycle.open), *held)
        .values(**values)
        .returning(model.id)
    )
    return changed.one_or_none() is not None


def _end_attempt(session: Session, claim: Claim, failure: Failure) -> None:
    session.execute(
        update(Attempt)
        .where(Attempt.id == claim.attempt_id, Attempt.ended_at.is_(None))
        .values(
            ended_at=func.now(),
            outcome=failure.outcome,
            error_code=failure.code,
            error_message=failure.message,
        )
    )


def attempts(session: Session, model: Model, subject_id: UUID) -> Sequence[Attempt]:
    """Every execution of a row, oldest first. At most `MAX_EXECUTIONS` for each send."""
    return session.scalars(
        select(Attempt)
        .where(Attempt.kind == model.lifecycle.kind, Attempt.subject_id == subject_id)
        .order_by(Attempt.id)
    ).all()
