"""Marshmallow fields that refuse what JSON and PostgreSQL disagree about."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from marshmallow import fields


class Text(fields.String):
    """Text that PostgreSQL can store: no NUL, no half of a surrogate pair."""

    default_error_messages = {
        "unstorable": "Must not contain NUL characters or lone surrogates.",
    }

    def __init__(self, **kwargs: Any) -> None:
        documented = {"pattern": r"^[^\u0000]*$", **kwargs.pop("metadata", {})}
        super().__init__(metadata=documented, **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text: str = super()._deserialize(value, *args, **kwargs)
        if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise self.make_error("unstorable")
        return text


class WholeNumber(fields.Integer):
    """A JSON integer: neither true nor 1.0 nor "1" is one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strict=True, **kwargs)


class Digits(fields.Integer):
    """A number in a query string: ASCII digits, not the "1_0", "+5" or "５" that Python takes."""

    def _validated(self, value: Any) -> int:
        if not (value.isascii() and value.isdigit()):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Flag(fields.Boolean):
    """true or false, and nothing that merely looks like it."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Timestamp(fields.DateTime):
    """RFC 3339 in UTC, with `Z`."""

    def _serialize(self, value: datetime | None, *_args: Any, **_kwargs: Any) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
