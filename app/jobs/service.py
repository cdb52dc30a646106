"""The rules of jobs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import marshmallow as ma
from sqlalchemy import ColumnElement, and_, case, func, or_, select, true, tuple_, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session

from app import db
from app.accounts.ownership import require_owner
from app.accounts.service import SYSTEM_ACCOUNT_ID, Principal
from app.delivery import redrive, run, schedule
from app.delivery import service as delivery
from app.delivery.errors import CalledOff, PermanentError
from app.delivery.models import Attempt
from app.delivery.redrive import Command
from app.delivery.service import Delivery, Verdict
from app.errors import Invalid
from app.fields import is_storable
from app.jobs import processors
from app.jobs.errors import NotCancellable, NotRetryable, ReservedJobType, UnknownJobType
from app.jobs.models import (
    BANDS,
    CANCELLED,
    COMPLETED,
    LIVE,
    MAX_NOTE,
    PENDING,
    PROCESSING,
    RETRY_PENDING,
    UNIQUE_LIVE_KEY,
    Job,
)
from app.jobs.processors import JobView, Processor
from app.observability import context, metrics

log = logging.getLogger(__name__)

#: A result is for people and programs that ask for it, not a place for data.
MAX_RESULT_BYTES = 64 * 1024

#: Minutes over which the throughput is told.
THROUGHPUT = (1, 5, 60)


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


# --- run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    job: JobView
    payload: dict[str, Any]
    lateness: float
    """Seconds from its time, or from its making if that came later, to now."""


class Execution:
    """The `processors.Context` of one execution."""

    def __init__(self, job: JobView, send_no: int, delivered: Delivery) -> None:
        self.job = job
        self.idempotency_key = f"job:{job.id}"
        self._held = (
            Job.id == job.id,
            Job.status == PROCESSING,
            Job.send_no == send_no,
            Job.carrier == delivered.message_id,
            Job.receive == delivered.receive_count,
        )

    def progress(self, percent: int, note: str | None = None) -> None:
        values = {
            "progress": min(max(int(percent), 0), 100),
            "progress_note": delivery.storable(note, MAX_NOTE) if note else None,
        }
        with db.transaction() as session:
            session.execute(delivery.update(Job).where(*self._held).values(values))

    def is_cancelled(self) -> bool:
        with db.transaction() as session:
            asked = session.scalar(
                select(Job.cancel_requested_at.is_not(None)).where(Job.id == self.job.id)
            )
        return bool(asked)

    def stop_if_cancelled(self) -> None:
        if self.is_cancelled():
            raise CalledOff


def perform(
    job_id: UUID,
    send_no: int,
    delivered: Delivery,
    interruptions: tuple[type[Exception], ...] = (),
) -> Verdict:
    """Run one job's processor. Raises as `app.delivery.run.deliver()` does."""
    with context.bound(worker_id=delivered.worker):
        return run.deliver(
            Job,
            job_id,
            send_no,
            delivered,
            load=lambda session: _parcel(session, job_id),
            describe=lambda parcel: {"job_type": parcel.job.job_type},
            effect=lambda parcel, _: _execute(parcel, send_no, delivered),
            record=lambda session, result: _keep(session, job_id, result),
            interruptions=interruptions,
        )


def _parcel(session: Session, job_id: UUID) -> Parcel:
    late = func.extract("epoch", Job.started_at - func.greatest(Job.scheduled_at, Job.created_at))
    job, lateness = session.execute(select(Job, late).where(Job.id == job_id)).one()
    view = JobView(job.id, job.job_type, job.account_id, job.priority, job.executions)
    return Parcel(view, job.payload, float(lateness))


def _execute(parcel: Parcel, send_no: int, delivered: Delivery) -> Any:
    job = parcel.job
    if send_no == 1 and job.execution == 1:  # one that is run again by hand is not late
        metrics.JOB_LATENESS.observe(max(parcel.lateness, 0))
    execution = Execution(job, send_no, delivered)
    status, started = "error", time.perf_counter()
    try:
        result = _process(execution, parcel.payload)
        status = "success"
    except CalledOff:
        status = "cancelled"
        raise
    finally:
        metrics.JOB_DURATION.labels(job.job_type).observe(time.perf_counter() - started)
        metrics.JOBS_PROCESSED.labels(job.job_type, status).inc()
    return result


def _process(execution: Execution, payload: dict[str, Any]) -> Any:
    execution.stop_if_cancelled()
    found = processors.find(execution.job.job_type)
    if found is None:
        raise PermanentError("UNKNOWN_JOB_TYPE", "this worker has no processor for it")
    loaded = _load(found, payload)
    try:
        return _storable(found.process(execution, loaded))
    except (CalledOff, PermanentError, *db.OUTAGE_ERRORS):
        raise
    except Exception:
        if execution.is_cancelled():  # then nobody wants another try
            raise CalledOff from None
        raise


def _load(found: Processor, payload: dict[str, Any]) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = found.schema.load(payload)
    except ma.ValidationError as error:
        raise PermanentError(
            "INVALID_PAYLOAD",
            f"the payload is not valid: {json.dumps(error.normalized_messages())}",  # type: ignore[no-untyped-call]
        ) from None
    return loaded


def _storable(result: Any) -> Any:
    try:
        text = json.dumps(result, allow_nan=False)
        kept = json.loads(text)
        can_be_kept = len(text) <= MAX_RESULT_BYTES and is_storable(kept)
    except (TypeError, ValueError, RecursionError):
        raise PermanentError("INVALID_RESULT", "the processor returned what is no JSON") from None
    if not can_be_kept:
        raise PermanentError(
            "INVALID_RESULT", "the processor returned too much, NUL, or half of a surrogate pair"
        )
    return kept


def _keep(session: Session, job_id: UUID, result: Any) -> None:
    session.execute(
        delivery.update(Job).where(Job.id == job_id).values(result=result, progress=100)
    )


# --- numbers ------------------------------------------------------------------------------------


def stats(session: Session, principal: Principal | None = None) -> dict[str, Any]:
    """Counts by state and type, the age of what waits longest, and the throughput.

    Of the account's jobs; for an operator, and for whoever is on the machine, of all.
    """
    mine = _counted_for(principal)
    counts = session.execute(
        select(Job.job_type, Job.status, func.count())
        .where(mine)
        .group_by(Job.job_type, Job.status)
    ).all()
    by_status: dict[str, int] = {}
    by_type: dict[str, dict[str, int]] = {}
    for job_type, status, count in counts:
        by_status[status] = by_status.get(status, 0) + count
        by_type.setdefault(job_type, {})[status] = count
    waiting = and_(mine, Job.status.in_((PENDING, RETRY_PENDING)), Job.send_no > 0)
    oldest = session.scalar(
        select(func.extract("epoch", func.now() - func.min(Job.accepted_at))).where(waiting)
    )
    return {
        "by_status": by_status,
        "by_type": by_type,
        "oldest_pending_age_seconds": None if oldest is None else round(float(oldest), 3),
        "throughput": {
            f"{minutes}m": session.scalar(
                select(func.count()).where(
                    mine,
                    Job.status == COMPLETED,
                    Job.completed_at > func.now() - timedelta(minutes=minutes),
                )
            )
            for minutes in THROUGHPUT
        },
    }


def _counted_for(principal: Principal | None) -> ColumnElement[bool]:
    if principal is None or principal.role == "operator":
        return true()
    return Job.account_id == principal.account_id


@dataclass(frozen=True)
class Waiting:
    """What waits in one band."""

    band: str
    pending: int
    oldest_age: float
    """Seconds; 0 when nothing waits."""


def waiting(session: Session) -> list[Waiting]:
    """What waits for a worker, by band."""
    age = func.extract("epoch", func.now() - func.min(Job.accepted_at))
    rows = session.execute(
        select(Job.band, func.count(), age)
        .where(Job.status.in_((PENDING, RETRY_PENDING)), Job.send_no > 0)
        .group_by(Job.band)
    )
    found = {band: (count, float(oldest)) for band, count, oldest in rows}
    return [Waiting(band, *found.get(band, (0, 0.0))) for band in BANDS]


def summary(session: Session, account_id: UUID) -> dict[str, Any]:
    """How many jobs an account has, by state."""
    rows = session.execute(
        select(Job.status, func.count()).where(Job.account_id == account_id).group_by(Job.status)
    )
    by_status = dict(rows.tuples().all())
    return {"rows": sum(by_status.values()), "by_status": by_status}


def _named(job: Job) -> dict[str, Any]:
    return {"job_id": str(job.id), "job_type": job.job_type, "status": job.status}
