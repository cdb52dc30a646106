"""What gifts look like in JSON."""

from __future__ import annotations

import marshmallow as ma
from marshmallow.validate import Length, OneOf, Range

from app.delivery.models import OUTCOMES
from app.gifts.models import MAX_MESSAGE, MAX_RECIPIENT, STATUSES
from app.http.fields import Flag, Text, Timestamp, WholeNumber
from app.http.pagination import PageQuery

#: The column is a 32-bit integer.
MAX_AMOUNT = 2**31 - 1


class Simulation(ma.Schema):
    """What the simulated sender shall do with this gift: for demonstrations and tests."""

    fail_times = WholeNumber(
        validate=Range(0, 100),
        metadata={"description": "Executions that fail before one succeeds."},
    )
    permanent = Flag(metadata={"description": "Refuse for good once `fail_times` are over."})
    delay_ms = WholeNumber(
        validate=Range(0, 60_000), metadata={"description": "Milliseconds that each call takes."}
    )


class GiftIn(ma.Schema):
    amount = WholeNumber(
        required=True,
        validate=Range(1, MAX_AMOUNT),
        metadata={"example": 3000, "description": "A whole number above 0."},
    )
    message = Text(
        allow_none=True,
        validate=Length(max=MAX_MESSAGE),
        metadata={"example": "お誕生日おめでとう"},
    )
    recipient = Text(
        allow_none=True,
        validate=Length(max=MAX_RECIPIENT),
        metadata={"example": "hanako@example.com"},
    )
    simulate = ma.fields.Nested(
        Simulation, metadata={"description": "Only where SENDER=simulated; refused elsewhere."}
    )


class GiftCreated(ma.Schema):
    gift_id = ma.fields.UUID(attribute="id", required=True)
    code = ma.fields.UUID(
        required=True, metadata={"description": "Random; whoever knows it owns the gift."}
    )
    status = ma.fields.String(required=True, validate=OneOf(STATUSES))
    created_at = Timestamp(required=True)


class GiftOut(ma.Schema):
    gift_id = ma.fields.UUID(attribute="id", required=True)
    code = ma.fields.UUID(required=True)
    amount = ma.fields.Integer(required=True)
    message = ma.fields.String(required=True, allow_none=True)
    recipient = ma.fields.String(required=True, allow_none=True)
    status = ma.fields.String(required=True, validate=OneOf(STATUSES))
    last_error = ma.fields.String(required=True, allow_none=True)
    created_at = Timestamp(required=True)
    updated_at = Timestamp(required=True)


class GiftQuery(PageQuery):
    status = ma.fields.String(load_default=None, validate=OneOf(STATUSES))


class GiftPage(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(GiftOut), required=True)
    next_cursor = ma.fields.String(
        required=True, allow_none=True, metadata={"description": "null on the last page."}
    )


class SendOut(ma.Schema):
    gift_id = ma.fields.UUID(required=True)
    status = ma.fields.String(required=True, metadata={"example": "QUEUED"})
    request_id = ma.fields.String(
        required=True, metadata={"description": "The Idempotency-Key of this send."}
    )


class AttemptOut(ma.Schema):
    receive_count = ma.fields.Integer(required=True)
    message_id = ma.fields.String(required=True)
    worker = ma.fields.String(required=True)
    started_at = Timestamp(required=True)
    ended_at = Timestamp(required=True, allow_none=True)
    outcome = ma.fields.String(
        required=True,
        allow_none=True,
        validate=OneOf([*OUTCOMES, None]),
        metadata={"description": "null while the execution runs."},
    )
    error_code = ma.fields.String(required=True, allow_none=True)
    error_message = ma.fields.String(required=True, allow_none=True)


class Attempts(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(AttemptOut), required=True)
