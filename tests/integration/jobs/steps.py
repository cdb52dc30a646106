"""What happens to a job, a transaction a step, as callers and workers make them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from app import db
from app.accounts.service import Principal
from app.delivery import recovery
from app.delivery import service as delivery
from app.delivery.models import Attempt
from app.delivery.recovery import Letter
from app.delivery.service import Claim, Verdict
from app.jobs import execution, service
from app.jobs.models import Job
from app.jobs.processors import Context
from app.outbox.models import OutboxRow
from tests.factories import jobs
from tests.integration.delivery.steps import Delivery

#: The processors of conftest.py: one for everybody, and one that only operators may ask for.
TYPE, RESERVED = "test.act", "test.reserved"

Act = Callable[[Context, dict[str, Any]], Any]


class Work:
    """What the processor of `TYPE` does: a test sets `act`, and reads what it was called with."""

    def __init__(self) -> None:
        self.act: Act = lambda *_: None
        self.executions: list[int] = []
        self.payloads: list[dict[str, Any]] = []
        self.idempotency_keys: list[str] = []

    def __call__(self, context: Context, payload: dict[str, Any]) -> Any:
        self.executions.append(context.job.execution)
        self.payloads.append(payload)
        self.idempotency_keys.append(context.idempotency_key)
        return self.act(context, payload)

    def raises(self, error: BaseException) -> None:
        def act(*_: Any) -> None:
            raise error

        self.act = act


def enqueue(*, job_type: str = TYPE, **fields: Any) -> Job:
    """A job that is staged. Detached: what becomes of it is read again."""
    with db.transaction() as session:
        job = jobs.enqueued(session, job_type=job_type, **fields)
        session.expunge_all()
    return job


def perform(
    job: Job,
    receive: int = 1,
    *,
    message: str = "m1",
    last: bool = False,
    delay: float = 0.0,
    send_no: int = 1,
    interruptions: tuple[type[Exception], ...] = (),
) -> Verdict:
    """One receive of the job's message."""
    received = Delivery(message, receive, last, retry_delay=delay)
    return execution.perform(job.id, send_no, received, interruptions=interruptions)


def claim(job: Job, receive: int = 1, *, message: str = "m1") -> Claim:
    """What a worker does that is killed afterwards."""
    with db.transaction() as session:
        held = delivery.claim(session, Job, job.id, 1, Delivery(message, receive))
    assert isinstance(held, Claim)
    return held


def cancel(job: Job) -> Job:
    with db.transaction() as session:
        return service.cancel(session, Principal(job.account_id, "user"), job.id)


def retry(job: Job) -> Job:
    with db.transaction() as session:
        return service.retry(session, Principal(job.account_id, "user"), job.id)


def reconcile(job: Job, message: str = "m1", send_no: int = 1) -> str | None:
    letter = Letter(message, "jobs-default", 6, "{}", "jobs.run", job.id, send_no, None)
    with db.transaction() as session:
        return recovery.reconcile(session, letter, Job)


def look(job: Job) -> Job:
    with db.transaction() as session:
        return session.get_one(Job, job.id)


def attempts(job: Job) -> list[Attempt]:
    with db.transaction() as session:
        return list(delivery.attempts(session, Job, job.id))


def outcomes(job: Job) -> list[str | None]:
    return [attempt.outcome for attempt in attempts(job)]


def outbox() -> list[OutboxRow]:
    """What is staged, in the order in which the relay takes it."""
    with db.transaction() as session:
        return list(session.scalars(select(OutboxRow).order_by(OutboxRow.id)))


def staged_ids() -> list[UUID]:
    return [UUID(row.kwargs["job_id"]) for row in outbox()]


def publish_all() -> None:
    """The relay has had its turn."""
    with db.transaction() as session:
        session.execute(text("DELETE FROM outbox"))


def change(job: Job, **values: Any) -> None:
    """Put the row where a test wants it; the database still guards the moves."""
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    with db.transaction() as session:
        session.execute(
            text(f"UPDATE jobs SET {assignments} WHERE id = :job_id"),
            {**values, "job_id": job.id},
        )
