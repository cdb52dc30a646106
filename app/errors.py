"""What can go wrong in the rules, as families. `app/http/errors.py` says what each is in HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class OkuruError(Exception):
    """A refusal that its caller is told about: the message and the details are public."""

    code = "INTERNAL_ERROR"

    def __init__(self, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or {}


class Invalid(OkuruError):
    code = "VALIDATION_ERROR"


class Unauthenticated(OkuruError):
    code = "UNAUTHENTICATED"


class Forbidden(OkuruError):
    code = "FORBIDDEN"


class NotFound(OkuruError):
    code = "NOT_FOUND"


class Conflict(OkuruError):
    code = "CONFLICT"


class IdempotencyKeyReused(OkuruError):
    code = "IDEMPOTENCY_KEY_REUSED"


class TooLarge(OkuruError):
    code = "PAYLOAD_TOO_LARGE"


class UnsupportedMediaType(OkuruError):
    code = "UNSUPPORTED_MEDIA_TYPE"
