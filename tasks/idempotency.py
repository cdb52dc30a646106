"""The tasks of idempotency."""

from __future__ import annotations

from app import db
from app.idempotency import service
from tasks.celery import app


@app.task(name="idempotency.expire", soft_time_limit=30, time_limit=40)
def expire() -> None:
    """Delete keys past their lifetime, in portions that hold no lock for long."""
    while True:
        with db.transaction() as session:
            if not service.forget_expired(session):
                return
