"""What jobs look like in JSON."""

from __future__ import annotations

import marshmallow as ma
from marshmallow.validate import Length, OneOf, Range

from app.delivery.schemas import AttemptOut
from app.fields import JsonObject, Text, Timestamp, WholeNumber
from app.http.pagination import PageQuery
from app.jobs.models import (
    MAX_PRIORITY,
    MAX_RETRIES,
    MAX_TYPE,
    MAX_UNIQUE_KEY,
    MIN_PRIORITY,
    STATUSES,
)

_MOMENT = {"example": "2026-01-31T09:30:00.123456Z"}
_ID = {"example": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"}
_TYPE = {"example": "data_analysis"}


class JobIn(ma.Schema):
    job_type = Text(required=True, validate=Length(1, MAX_TYPE), metadata=_TYPE)
    payload = JsonObject(
        required=True, metadata={"example": {}, "description": "What the job type asks for."}
    )
    priority = WholeNumber(
        load_default=0,
        validate=Range(MIN_PRIORITY, MAX_PRIORITY),
        metadata={"example": 5, "description": "Higher first: below 0 low, from 5 high."},
    )
    scheduled_at = Timestamp(
        load_default=None,
        allow_none=True,
        metadata={
            **_MOMENT,
            "format": "date-time",
            "description": "Not before; the past and null are now.",
        },
    )
    max_retries = WholeNumber(
        load_default=3, validate=Range(0, MAX_RETRIES), metadata={"example": 3}
    )
    unique_key = Text(
        load_default=None,
        allow_none=True,
        validate=Length(1, MAX_UNIQUE_KEY),
        metadata={
            "example": "report-2026-01",
            "description": "While a live job of yours has it, that one is the answer.",
        },
    )


class JobOut(ma.Schema):
    job_id = ma.fields.UUID(attribute="id", required=True, metadata=_ID)
    job_type = ma.fields.String(required=True, metadata=_TYPE)
    payload = JsonObject(required=True, metadata={"example": {}})
    status = ma.fields.String(
        required=True, validate=OneOf(STATUSES), metadata={"example": "PROCESSING"}
    )
    priority = ma.fields.Integer(required=True, metadata={"example": 0})
    max_retries = ma.fields.Integer(required=True, metadata={"example": 3})
    retry_count = ma.fields.Integer(required=True, metadata={"example": 0})
    error_message = ma.fields.String(
        attribute="last_error", required=True, allow_none=True, metadata={"example": None}
    )
    unique_key = ma.fields.String(required=True, allow_none=True, metadata={"example": None})
    progress = ma.fields.Integer(
        required=True, validate=Range(0, 100), metadata={"example": 50, "description": "Per cent."}
    )
    progress_note = ma.fields.String(
        required=True, allow_none=True, metadata={"example": "analysing gifts"}
    )
    result = ma.fields.Raw(
        required=True,
        allow_none=True,
        metadata={"example": None, "description": "What its processor returned."},
    )
    cancel_requested = ma.fields.Boolean(required=True, metadata={"example": False})
    scheduled_at = Timestamp(required=True, metadata=_MOMENT)
    started_at = Timestamp(required=True, allow_none=True, metadata=_MOMENT)
    completed_at = Timestamp(required=True, allow_none=True, metadata=_MOMENT)
    created_at = Timestamp(required=True, metadata=_MOMENT)


class JobQuery(PageQuery):
    status = ma.fields.String(validate=OneOf(STATUSES))
    job_type = Text(validate=Length(1, MAX_TYPE))


class JobPage(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(JobOut), required=True)
    next_cursor = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"example": None, "description": "null on the last page."},
    )


class JobAttempts(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(AttemptOut), required=True)


_COUNTS = {"example": {"PENDING": 2, "COMPLETED": 40}}


class JobStats(ma.Schema):
    by_status = ma.fields.Dict(
        keys=ma.fields.String(), values=ma.fields.Integer(), required=True, metadata=_COUNTS
    )
    by_type = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer()),
        required=True,
        metadata={"example": {"data_analysis": _COUNTS["example"]}},
    )
    oldest_pending_age_seconds = ma.fields.Float(
        required=True, allow_none=True, metadata={"example": 1.5}
    )
    throughput = ma.fields.Dict(
        keys=ma.fields.String(),
        values=ma.fields.Integer(),
        required=True,
        metadata={
            "example": {"1m": 4, "5m": 20, "60m": 40},
            "description": "Jobs completed in the last 1, 5 and 60 minutes.",
        },
    )
