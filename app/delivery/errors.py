"""What an effect may raise. The type says whether to try again, never the text.

Anything else that an effect raises counts as transient: it may be a bug, and a deploy may mend it
while the message waits.
"""

from __future__ import annotations


class TransientError(Exception):
    """The effect did not happen, or nobody knows; another execution may succeed."""

    def __init__(self, code: str, message: str, *, retry_after: float | None = None) -> None:
        """`retry_after`: seconds that the provider asked to wait."""
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class TimedOut(TransientError):
    """The provider did not answer in time: it may or may not have done it."""


class CalledOff(Exception):
    """The effect stopped because the row's owner no longer wants it."""


class PermanentError(Exception):
    """The effect will never happen: the provider refused it for good."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
