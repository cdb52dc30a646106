"""The Idempotency-Key header, as routes read it."""

from __future__ import annotations

import marshmallow as ma
from flask import Response
from marshmallow.validate import And, Length, Regexp

from app.http.context import PRINTABLE


def _not_blank(key: str) -> None:
    if not key.strip():
        raise ma.ValidationError("Must not be blank.")


#: It goes into logs and columns. No pattern here repeats itself: each is linear in its text.
_KEY = {
    "data_key": "Idempotency-Key",
    "validate": And(
        Length(1, 255),
        Regexp(f"^{PRINTABLE.pattern}$", error="Must be printable ASCII."),
        _not_blank,
    ),
    "metadata": {
        "description": "A value of the caller's choice, at most 255 printable ASCII characters.",
        "example": "order-2026-0001",
        "minLength": 1,
        "maxLength": 255,
        "pattern": "^[!-~]([ -~]*[!-~])?$",
    },
}


#: For the documentation of a route that takes a key.
REPLAYED = {
    "Idempotent-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "Present when this key had been answered before.",
    }
}


def mark(response: Response, *, replayed: bool) -> Response:
    """Tell the caller of a key that it had been answered before."""
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


class RequiredKey(ma.Schema):
    idempotency_key = ma.fields.String(required=True, **_KEY)  # type: ignore[arg-type]


class OptionalKey(ma.Schema):
    idempotency_key = ma.fields.String(**_KEY)  # type: ignore[arg-type]
