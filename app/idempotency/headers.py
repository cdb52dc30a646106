"""The Idempotency-Key header, as routes read it."""

from __future__ import annotations

import marshmallow as ma
from marshmallow.validate import Length, Regexp

#: Printable ASCII with something in it besides spaces. It goes into logs and columns.
_KEY = {
    "data_key": "Idempotency-Key",
    "validate": [
        Length(1, 255),
        Regexp(
            r"^[\x20-\x7e]*[\x21-\x7e][\x20-\x7e]*$", error="Must be printable ASCII and not blank."
        ),
    ],
    "metadata": {
        "description": "A value of the caller's choice, at most 255 printable ASCII characters.",
        "example": "order-2026-0001",
    },
}


class RequiredKey(ma.Schema):
    idempotency_key = ma.fields.String(required=True, **_KEY)  # type: ignore[arg-type]


class OptionalKey(ma.Schema):
    idempotency_key = ma.fields.String(**_KEY)  # type: ignore[arg-type]
