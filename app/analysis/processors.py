"""The job that sums up what an account has stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import marshmallow as ma
from marshmallow.validate import OneOf
from sqlalchemy.orm import Session

from app import db
from app.gifts import service as gifts
from app.jobs import service as jobs
from app.jobs.processors import Context, processor
from app.notifications import service as notifications

Summary = Callable[[Session, UUID], dict[str, Any]]

#: What can be analysed, each by the service that owns the rows.
DATASETS: dict[str, Summary] = {
    "gifts": gifts.summary,
    "jobs": jobs.summary,
    "notifications": notifications.summary,
}


class DataAnalysis(ma.Schema):
    datasets = ma.fields.List(
        ma.fields.String(validate=OneOf(sorted(DATASETS))),
        load_default=sorted(DATASETS),
        validate=ma.validate.Length(min=1, max=len(DATASETS)),
    )


@processor("data_analysis", DataAnalysis)
def data_analysis(context: Context, payload: dict[str, Any]) -> dict[str, Any]:
    """A summary of the rows of the job's own account: its result."""
    found: dict[str, Any] = {}
    wanted = dict.fromkeys(payload["datasets"])
    for number, name in enumerate(wanted):
        context.stop_if_cancelled()
        context.progress(100 * number // len(wanted), f"analysing {name}")
        with db.transaction() as session:
            found[name] = DATASETS[name](session, context.job.account_id)
    return found
