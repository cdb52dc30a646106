"""What can go wrong with jobs, by name."""

from __future__ import annotations

from app.errors import Conflict, Forbidden, Invalid


class UnknownJobType(Invalid):
    """No processor is registered for it."""


class ReservedJobType(Forbidden):
    """Only the service itself and operators may ask for it."""


class NotCancellable(Conflict):
    """It has ended."""


class NotRetryable(Conflict):
    """Only a failed job can be run again, and only without a live one of its unique key."""
