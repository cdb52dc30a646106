"""Numbers of jobs: how many are where, how long they wait, how fast they are done."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, func, select, true
from sqlalchemy.orm import Session

from app.accounts.service import Principal
from app.jobs.models import BANDS, COMPLETED, PENDING, RETRY_PENDING, Job

#: Minutes over which the throughput is told.
THROUGHPUT = (1, 5, 60)


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
