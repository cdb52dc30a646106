"""Marshmallow fields that refuse what JSON and PostgreSQL disagree about."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from email_validator import EmailNotValidError, validate_email
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
        if not is_storable(text):
            raise self.make_error("unstorable")
        return text


class JsonObject(fields.Dict):
    """Any JSON object that PostgreSQL can store."""

    default_error_messages = {
        "unstorable": "Must not contain NUL characters, lone surrogates or infinite numbers.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keys=fields.String(), **kwargs)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        document: dict[str, Any] = super()._deserialize(value, *args, **kwargs)  # type: ignore[no-untyped-call]
        if not is_storable(document):
            raise self.make_error("unstorable")
        return document


def is_storable(value: Any) -> bool:
    """Whether a JSON value can be kept as JSONB: no NUL, no half of a surrogate pair, no 1e999."""
    if isinstance(value, str):
        return "\x00" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return all(is_storable(name) and is_storable(child) for name, child in value.items())
    if isinstance(value, list):
        return all(map(is_storable, value))
    return not isinstance(value, float) or math.isfinite(value)


class Email(Text):
    """An address by the rules of RFC 5321 and 5322; whether it exists is not asked."""

    default_error_messages = {"invalid_email": "Not an email address: {reason}"}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metadata = {"format": "email", **self.metadata}

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, *args, **kwargs)
        try:
            # strict: the part before the @ has the length that RFC 5321 gives it.
            return validate_email(text, check_deliverability=False, strict=True).normalized
        except EmailNotValidError as error:
            raise self.make_error("invalid_email", reason=str(error)) from None


class Numeric(fields.Integer):
    """A whole number, or a text of its digits; a boolean is neither."""

    def _validated(self, value: Any) -> int:
        is_digits = isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value, re.ASCII)
        if not is_digits and type(value) is not int:
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


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


#: RFC 3339, section 5.6. The offset is required: without it nobody knows which moment is meant.
RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(\.\d+)?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)


class Timestamp(fields.DateTime):
    """RFC 3339: in with any offset, out in UTC with `Z`."""

    default_error_messages = {"invalid_rfc3339": "Not a time of RFC 3339 with an offset."}

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> datetime:
        match = RFC_3339.fullmatch(value) if isinstance(value, str) else None
        try:
            if match is None:
                raise self.make_error("invalid_rfc3339")
            return _moment(*match.groups(default=""))
        except (ValueError, OverflowError):
            raise self.make_error("invalid_rfc3339") from None

    def _serialize(self, value: datetime | None, *_args: Any, **_kwargs: Any) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _moment(date: str, time: str, second: str, fraction: str, offset: str) -> datetime:
    """
    Raises:
        ValueError, OverflowError: there is no such moment.
    """
    is_leap = second == "60"
    text = f"{date}T{time}:{'59' if is_leap else second}{fraction[:7]}{offset.upper()}"
    moment = datetime.fromisoformat(text).astimezone(UTC)
    if not is_leap:
        return moment
    # RFC 3339, section 5.7: at the end of a month only. PostgreSQL too makes it the next second.
    following = moment + timedelta(seconds=1)
    if (following.day, following.hour, following.minute, following.second) != (1, 0, 0, 0):
        raise ValueError("no leap second")
    return following
