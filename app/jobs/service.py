"""The rules of jobs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, case, func, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.accounts.ownership import require_owner
from app.accounts.service import SYSTEM_ACCOUNT_ID, Principal
from app.delivery import redrive, schedule
from app.delivery import service as delivery
from app.delivery.models import Attempt
from app.delivery.redrive import Command
from app.errors import Invalid
from app.jobs import processors
from app.jobs.errors import NotCancellable, NotRetryable, ReservedJobType, UnknownJobType
from app.jobs.models import (
    CANCELLED,
    LIVE,
    PROCESSING,
    UNIQUE_LIVE_KEY,
    Job,
)
from app.observability import context

log = logging.getLogger(__name__)


# --- enqueue ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enqueued:
    job: Job
    is_new: bool
    """Whether it was made now; else it is the live job with the same `unique_key`."""


def request(session: Session, principal: Principal, fields: Mapping[str, Any]) -> Enqueued:
    """`enqueue()` for a caller of the API.

    Raises:
        UnknownJobType, Invalid: as `enqueue()`.
        ReservedJobType: the type is not for everyone.
    """
    found = processors.find(fields["job_type"])
    if found and found.reserved and principal.role != "operator":
        raise ReservedJobType(f"{found.job_type} is enqueued by the service itself")
    return enqueue(session, account_id=principal.account_id, **fields)


def enqueue(
    session: Session,
    *,
    account_id: UUID,
    job_type: str,
    payload: Mapping[str, Any],
    priority: int = 0,
    scheduled_at: datetime | None = None,
    max_retries: int = 3,
    unique_key: str | None = None,
) -> Enqueued:
    """A new job, whose task is published if and only if this transaction commits.

    One that is due is staged at once; the others wait in the database for `stage_due()`.

    Args:
        scheduled_at: not before this moment; None or the past is now.
        unique_key: while a live job of the account has it, that one is the answer.

    Raises:
        UnknownJobType: no processor is registered for `job_type`.
        Invalid: the payload is not what the processor takes.
    """
    found = processors.find(job_type)
    if found is None:
        raise UnknownJobType(
            "no such job type",
            details={"job_type": [f"One of: {', '.join(processors.open_types())}."]},
        )
    if errors := found.schema.validate(dict(payload)):
        raise Invalid("the payload is not valid: see details", details={"payload": errors})
    values = {
        "account_id": account_id,
        "job_type": job_type,
        "payload": dict(payload),
        "priority": priority,
        "max_retries": max_retries,
        "unique_key": unique_key,
        "request_id": context.fields().get("request_id"),
        "scheduled_at": func.now() if scheduled_at is None else scheduled_at,
    }
    while True:
        made = session.scalars(
            pg_insert(Job)
            .values(values)
            .on_conflict_do_nothing(
                index_elements=[Job.account_id, Job.unique_key],
                index_where=and_(Job.unique_key.is_not(None), Job.status.in_(LIVE)),
            )
            .returning(Job)
        ).one_or_none()
        if made is not None:
            break
        live = session.scalars(
            select(Job).where(
                Job.account_id == account_id, Job.unique_key == unique_key, Job.status.in_(LIVE)
            )
        ).one_or_none()
        if live is not None:  # else it has ended meanwhile
            return Enqueued(live, is_new=False)
    schedule.stage_due(session, Job, Job.id == made.id)
    session.refresh(made)
    log.info("job enqueued", extra=_named(made))
    return Enqueued(made, is_new=True)


def stage_due(session: Session) -> int:
    """Stage the jobs whose time has come, the longest due first, then the higher priority.

    Returns:
        How many.
    """
    return schedule.stage_due(session, Job)


# --- watch --------------------------------------------------------------------------------------


def get(session: Session, principal: Principal, job_id: UUID) -> Job:
    """
    Raises:
        NotFound: there is no such job.
        Forbidden: it belongs to another account.
    """
    job = session.get(Job, job_id)
    if job is not None and _is_system_job_for(principal, job.account_id):
        return job
    require_owner(principal, job.account_id if job else None, "job")
    assert job is not None  # noqa: S101 - for the types
    return job


def _is_system_job_for(principal: Principal, account_id: UUID) -> bool:
    """Jobs of messages from other systems are nobody's: operators look after them."""
    return principal.role == "operator" and account_id == SYSTEM_ACCOUNT_ID


def _visible_to(principal: Principal) -> ColumnElement[bool]:
    own = Job.account_id == principal.account_id
    if principal.role == "operator":
        return or_(own, Job.account_id == SYSTEM_ACCOUNT_ID)
    return own


def list_jobs(
    session: Session,
    principal: Principal,
    *,
    limit: int,
    status: str | None = None,
    job_type: str | None = None,
    before: tuple[datetime, UUID] | None = None,
) -> Sequence[Job]:
    """The account's jobs, newest first; for operators also those of no account.

    Args:
        before: (created_at, id) of the last job that the caller has seen.
    """
    query = select(Job).where(_visible_to(principal))
    if status is not None:
        query = query.where(Job.status == status)
    if job_type is not None:
        query = query.where(Job.job_type == job_type)
    if before is not None:
        query = query.where(tuple_(Job.created_at, Job.id) < before)
    return session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)).all()


def attempts(session: Session, principal: Principal, job_id: UUID) -> Sequence[Attempt]:
    """Every execution of a job, oldest first. Raises as `get()` does."""
    get(session, principal, job_id)
    return delivery.attempts(session, Job, job_id)


def status_of(job_id: InstrumentedAttribute[UUID]) -> ColumnElement[str]:
    """The state of a job, for another domain's SELECT or WHERE."""
    return select(Job.status).where(Job.id == job_id).scalar_subquery()


# --- cancel, retry ------------------------------------------------------------------------------


def cancel(session: Session, principal: Principal, job_id: UUID) -> Job:
    """Call a job off: at once if no execution runs, else as soon as its processor looks.

    Asking again changes nothing.

    Raises:
        NotFound, Forbidden: as `get()`.
        NotCancellable: it has completed or failed.
    """
    get(session, principal, job_id)
    job = session.scalars(
        update(Job)
        .where(Job.id == job_id, Job.status.in_((*LIVE, CANCELLED)))
        .values(
            status=case((Job.status == PROCESSING, PROCESSING), else_=CANCELLED),
            cancel_requested_at=func.coalesce(Job.cancel_requested_at, func.now()),
        )
        .returning(Job)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        raise NotCancellable("the job has ended", details={"status": _status(session, job_id)})
    log.info("job is to be cancelled", extra=_named(job))
    return job


def retry(session: Session, principal: Principal, job_id: UUID) -> Job:
    """Run a failed job again, with as many executions as at first.

    Raises:
        NotFound, Forbidden: as `get()`.
        NotRetryable: it has not failed, or another live job has its unique key.
    """
    job = get(session, principal, job_id)
    try:
        with session.begin_nested():
            send_no = redrive.retry(
                session,
                Job,
                job_id,
                command=Command(
                    actor=f"account {principal.account_id}", reason="POST /jobs/{id}/retry"
                ),
                request_id=str(context.fields().get("request_id") or job_id),
            )
    except IntegrityError as error:
        if UNIQUE_LIVE_KEY not in str(error.orig):
            raise
        raise NotRetryable("another live job has its unique_key") from error
    if send_no is None:
        raise NotRetryable(
            "only a failed job can be run again", details={"status": _status(session, job_id)}
        )
    session.refresh(job)
    log.info("job is run again", extra=_named(job))
    return job


def _status(session: Session, job_id: UUID) -> str | None:
    return session.scalar(select(Job.status).where(Job.id == job_id))


def _named(job: Job) -> dict[str, Any]:
    return {"job_id": str(job.id), "job_type": job.job_type, "status": job.status}


# --- for others ---------------------------------------------------------------------------------


def summary(session: Session, account_id: UUID) -> dict[str, Any]:
    """How many jobs an account has, by state."""
    rows = session.execute(
        select(Job.status, func.count()).where(Job.account_id == account_id).group_by(Job.status)
    )
    by_status = dict(rows.all())
    return {"rows": sum(by_status.values()), "by_status": by_status}
