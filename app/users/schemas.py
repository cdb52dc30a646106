"""What users look like in JSON, by VALIDATION_MODE."""

from __future__ import annotations

import re
from typing import Any

import marshmallow as ma
from marshmallow import INCLUDE, RAISE
from marshmallow.validate import Length, Range

from app.accounts.models import MAX_BIO, MAX_EMAIL, MAX_NAME
from app.fields import Email, Flag, JsonObject, Numeric, Text, Timestamp, WholeNumber, is_storable

#: NIST SP 800-63B: eight at least; and a limit, as hashing takes the longer the more there is.
MIN_PASSWORD, MAX_PASSWORD = 8, 128
#: The column is a 32-bit integer.
MAX_AGE = 2**31 - 1
MAX_ADDITIONAL = 50

_SECRET = re.compile("passw|passwd|pwd|secret|token", re.IGNORECASE)

_AGE: dict[str, Any] = {
    "required": True,
    "validate": Range(0, MAX_AGE),
    "metadata": {"example": 30, "description": "A whole number, 0 or above."},
}


class UserIn(ma.Schema):
    """VALIDATION_MODE=strict: unknown fields are refused, and nothing is coerced."""

    email = Email(
        required=True,
        validate=Length(max=MAX_EMAIL),
        metadata={"example": "hanako@example.com"},
    )
    age = WholeNumber(**_AGE)
    name = Text(allow_none=True, validate=Length(max=MAX_NAME), metadata={"example": "花子"})
    bio = Text(allow_none=True, validate=Length(max=MAX_BIO), metadata={"example": "読書が好き"})
    is_active = Flag(load_default=True)
    password = Text(
        load_only=True,
        validate=Length(MIN_PASSWORD, MAX_PASSWORD),
        metadata={
            "format": "password",
            "example": "correct horse battery",
            "description": "Kept as a hash, and never answered.",
        },
    )


class DefaultUserIn(UserIn):
    """VALIDATION_MODE=default: unknown fields are refused; a text of digits is a number."""

    age = Numeric(**_AGE)  # type: ignore[assignment]


class FlexibleUserIn(DefaultUserIn):
    """VALIDATION_MODE=flexible: what is not known is kept in additional_data."""

    class Meta:
        unknown = INCLUDE

    @ma.post_load
    def _collect(self, fields: dict[str, Any], **_: Any) -> dict[str, Any]:
        additional = {name: fields.pop(name) for name in set(fields) - set(self.fields)}
        if len(additional) > MAX_ADDITIONAL:
            raise ma.ValidationError(f"At most {MAX_ADDITIONAL} additional fields.")
        if secrets := [name for name in additional if _SECRET.search(name)]:
            # Such as a misspelt "Password": kept, it would be answered in the clear.
            raise ma.ValidationError({name: ["Not kept: it may be a secret."] for name in secrets})
        if not is_storable(additional):
            raise ma.ValidationError("Additional fields must not hold NUL or lone surrogates.")
        return {**fields, "additional_data": additional}


#: mode -> (schema of the body, what becomes of unknown fields)
BY_MODE: dict[str, tuple[type[UserIn], Any]] = {
    "default": (DefaultUserIn, RAISE),
    "flexible": (FlexibleUserIn, INCLUDE),
    "strict": (UserIn, RAISE),
}

MODES = {
    "default": "unknown fields are refused; a text of digits is taken as a number",
    "flexible": "unknown fields are kept in `additional_data`; a text of digits is a number",
    "strict": "unknown fields are refused, and nothing is coerced",
}


class UserOut(ma.Schema):
    user_id = ma.fields.UUID(
        attribute="id",
        required=True,
        metadata={"example": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"},
    )
    email = ma.fields.String(required=True, metadata={"example": "hanako@example.com"})
    age = ma.fields.Integer(required=True, allow_none=True, metadata={"example": 30})
    name = ma.fields.String(required=True, allow_none=True, metadata={"example": "花子"})
    bio = ma.fields.String(required=True, allow_none=True, metadata={"example": None})
    is_active = ma.fields.Boolean(required=True, metadata={"example": True})
    additional_data = JsonObject(required=True, metadata={"example": {"hobby": "読書"}})
    profile = JsonObject(
        required=True,
        allow_none=True,
        metadata={
            "example": {"interests": ["読書"]},
            "description": "null until the job `user_created` has made it.",
        },
    )
    created_at = Timestamp(required=True, metadata={"example": "2026-01-31T09:30:00.123456Z"})
