"""What the attempts of a deliverable look like in JSON."""

from __future__ import annotations

import marshmallow as ma
from marshmallow.validate import OneOf

from app.delivery.models import OUTCOMES
from app.fields import Timestamp

_MOMENT = {"example": "2026-01-31T09:30:00.123456Z"}


class AttemptOut(ma.Schema):
    receive_count = ma.fields.Integer(
        required=True, metadata={"example": 1, "description": "Which receive of its message."}
    )
    message_id = ma.fields.String(
        required=True, metadata={"example": "219f8380-5770-4cc2-8c3e-5c715e145f5e"}
    )
    worker = ma.fields.String(required=True, metadata={"example": "celery@worker-1"})
    started_at = Timestamp(required=True, metadata=_MOMENT)
    ended_at = Timestamp(required=True, allow_none=True, metadata=_MOMENT)
    outcome = ma.fields.String(
        required=True,
        allow_none=True,
        validate=OneOf([*OUTCOMES, None]),
        metadata={"example": "timeout", "description": "null while the execution runs."},
    )
    error_code = ma.fields.String(
        required=True, allow_none=True, metadata={"example": "PROVIDER_TIMEOUT"}
    )
    error_message = ma.fields.String(
        required=True, allow_none=True, metadata={"example": "the provider did not answer in time"}
    )
