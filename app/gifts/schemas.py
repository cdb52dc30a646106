"""What gifts look like in JSON."""

from __future__ import annotations

import marshmallow as ma
from marshmallow.validate import Length, OneOf, Range

from app.delivery.schemas import AttemptOut
from app.fields import Flag, Text, Timestamp, WholeNumber
from app.gifts.models import MAX_MESSAGE, MAX_RECIPIENT, STATUSES
from app.http.pagination import PageQuery

#: Examples for the documentation.
_GIFT_ID = {"example": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"}
_CODE = {
    "example": "9b2f7c1e-6a53-4f0b-8d0e-2c7f5b1f4e90",
    "description": "Random; whoever knows it owns the gift.",
}
_MOMENT = {"example": "2026-01-31T09:30:00.123456Z"}
_MESSAGE = {"example": "お誕生日おめでとう"}
_RECIPIENT = {"example": "hanako@example.com"}

#: The column is a 32-bit integer.
MAX_AMOUNT = 2**31 - 1


class Simulation(ma.Schema):
    """What the simulated sender shall do with this gift: for demonstrations and tests."""

    fail_times = WholeNumber(
        validate=Range(0, 100),
        metadata={"example": 2, "description": "Executions that fail before one succeeds."},
    )
    permanent = Flag(metadata={"description": "Refuse for good once `fail_times` are over."})
    delay_ms = WholeNumber(
        validate=Range(0, 60_000),
        metadata={"example": 100, "description": "Milliseconds that each call takes."},
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
        metadata=_MESSAGE,
    )
    recipient = Text(
        allow_none=True,
        validate=Length(max=MAX_RECIPIENT),
        metadata=_RECIPIENT,
    )
    simulate = ma.fields.Nested(
        Simulation, metadata={"description": "Only where SENDER=simulated; refused elsewhere."}
    )


class GiftCreated(ma.Schema):
    gift_id = ma.fields.UUID(attribute="id", required=True, metadata=_GIFT_ID)
    code = ma.fields.UUID(required=True, metadata=_CODE)
    status = ma.fields.String(required=True, validate=OneOf(STATUSES))
    created_at = Timestamp(required=True, metadata=_MOMENT)


class GiftOut(ma.Schema):
    gift_id = ma.fields.UUID(attribute="id", required=True, metadata=_GIFT_ID)
    code = ma.fields.UUID(required=True, metadata=_CODE)
    amount = ma.fields.Integer(required=True, metadata={"example": 3000})
    message = ma.fields.String(required=True, allow_none=True, metadata=_MESSAGE)
    recipient = ma.fields.String(required=True, allow_none=True, metadata=_RECIPIENT)
    status = ma.fields.String(required=True, validate=OneOf(STATUSES))
    last_error = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={
            "example": None,
            "description": "What the last execution failed with; null if none did.",
        },
    )
    created_at = Timestamp(required=True, metadata=_MOMENT)
    updated_at = Timestamp(required=True, metadata=_MOMENT)


class GiftQuery(PageQuery):
    status = ma.fields.String(validate=OneOf(STATUSES))


class GiftPage(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(GiftOut), required=True)
    next_cursor = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"example": None, "description": "null on the last page."},
    )


class SendOut(ma.Schema):
    gift_id = ma.fields.UUID(required=True, metadata=_GIFT_ID)
    status = ma.fields.String(required=True, metadata={"example": "QUEUED"})
    request_id = ma.fields.String(
        required=True,
        metadata={"example": "order-2026-0001", "description": "The Idempotency-Key of this send."},
    )


class Attempts(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(AttemptOut), required=True)
