"""Running a job: its processor, once for each execution, and what becomes of its result."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import marshmallow as ma
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import db
from app.delivery import run
from app.delivery import service as delivery
from app.delivery.errors import CalledOff, PermanentError
from app.delivery.service import Delivery, Verdict
from app.fields import is_storable
from app.jobs import processors
from app.jobs.models import MAX_NOTE, PROCESSING, Job
from app.jobs.processors import JobView, Processor
from app.observability import context, metrics

#: A result is for people and programs that ask for it, not a place for data.
MAX_RESULT_BYTES = 64 * 1024


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
