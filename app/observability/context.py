"""What every log line of the work at hand should carry: ids, never contents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from app.observability import tracing

#: Fields that a staged task carries to its worker, as headers of the message.
CARRIED = ("request_id", "http_request_id", *tracing.HEADERS)

_fields: ContextVar[dict[str, Any]] = ContextVar("okuru_log_fields", default={})  # noqa: B039 - never mutated


def fields() -> dict[str, Any]:
    return _fields.get()


def carried() -> dict[str, Any]:
    """The headers of a task that is staged now."""
    known = {name: value for name, value in _fields.get().items() if name in CARRIED}
    return {**known, **tracing.carried()}


@contextmanager
def bound(**more: Any) -> Iterator[None]:
    """Add fields to every log line written inside the block."""
    token = _fields.set({**_fields.get(), **more})
    try:
        yield
    finally:
        _fields.reset(token)
