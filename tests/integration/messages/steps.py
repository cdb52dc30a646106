"""Messages as a worker gets them, and their jobs as a worker runs them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from app import db
from app.delivery.models import Attempt
from app.delivery.service import Verdict
from app.jobs import execution
from app.jobs.models import Job
from app.messages import service
from tests.integration.delivery.steps import Delivery

NOON = "2023-01-01T12:00:00Z"


def task(id_: str = "msg-123", **data: Any) -> dict[str, Any]:
    return _message("task", id_, {"taskId": "task-456", **data})


def notification(id_: str = "msg-456", **data: Any) -> dict[str, Any]:
    told = {"recipientId": "user-789", "title": "新着情報", "body": "メッセージが届きました"}
    return _message("notification", id_, {**told, **data})


def data_sync(id_: str = "msg-789", at: str = NOON, **data: Any) -> dict[str, Any]:
    place = {"entityType": "product", "entityId": "prod-123", "operation": "update"}
    return {**_message("data-sync", id_, {**place, **data}), "timestamp": at}


def _message(kind: str, id_: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"id": id_, "type": kind, "data": data, "timestamp": NOON}


def receive(message: dict[str, Any] | str, sqs_id: str = "m1", number: int = 1) -> Verdict:
    body = message if isinstance(message, str) else json.dumps(message)
    return service.receive(body, Delivery(sqs_id, number, last_receive=number == 5))


def all_jobs() -> Sequence[Job]:
    """Oldest first."""
    with db.transaction() as session:
        return session.scalars(select(Job).order_by(Job.created_at)).all()


def job_of(message: dict[str, Any]) -> Job:
    """The job that a message becomes when it is received."""
    receive(message)
    (job_id,) = rows(
        "SELECT job_id FROM inbox_messages WHERE external_id = :external_id",
        external_id=message["id"],
    )[0]
    return look(job_id)


def look(job_id: UUID) -> Job:
    with db.transaction() as session:
        return session.get_one(Job, job_id)


def perform(job: Job, sqs_id: str = "j1", number: int = 1) -> Job:
    """One execution of the job. Returns how it left it."""
    execution.perform(job.id, 1, Delivery(sqs_id, number))
    return look(job.id)


def rows(statement: str, **values: Any) -> list[tuple[Any, ...]]:
    with db.transaction() as session:
        return [tuple(row) for row in session.execute(text(statement), values)]


def refusals() -> list[Attempt]:
    """Attempts of messages that belong to no row, oldest first."""
    with db.transaction() as session:
        return list(
            session.scalars(select(Attempt).where(Attempt.kind == "message").order_by(Attempt.id))
        )
