from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.jobs import service
from app.jobs.models import Job
from tests.factories import accounts


def enqueued(session: Session, *, job_type: str = "data_analysis", **fields: Any) -> Job:
    """A job as its owner asks for it; its task is staged if it is due."""
    owner = fields.pop("owner", None) or accounts.principal(session)
    values = {"payload": {}, **fields}
    return service.enqueue(session, account_id=owner.account_id, job_type=job_type, **values).job


def scheduled(session: Session, *, days: float = 1, **fields: Any) -> Job:
    """A job that is due in some days, and so waits in the database alone."""
    return enqueued(session, scheduled_at=datetime.now(UTC) + timedelta(days=days), **fields)
