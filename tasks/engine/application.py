"""What the engine has to be told about the application that it carries."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from tasks.engine.verdict import Verdict


class Cause(StrEnum):
    """How an execution ended that could not, or did not, say a verdict of its own."""

    BAD_MESSAGE = "BAD_MESSAGE"
    """It never began: the message is no task that this worker can read."""
    UNKNOWN_TASK = "UNKNOWN_TASK"
    """It never began: no task of that name is registered."""
    RAISED = "RAISED"
    """The task raised an exception."""
    TIME_LIMIT = "TIME_LIMIT"
    """It passed its hard time limit and was killed."""
    WORKER_LOST = "WORKER_LOST"
    """Its process died: killed, out of memory, a crash."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One delivery that failed. `task` and `kwargs` are what could be read of the message."""

    cause: Cause
    reason: str
    """Short, and without the contents of the message."""
    queue: str
    message_id: str
    receive_count: int
    last_receive: bool
    """Whether SQS dead-letters the message instead of delivering it once more."""
    worker: str
    task: str | None
    kwargs: Mapping[str, Any]
    retry_delay: float = 0.0
    """Seconds for which it will hide the message, unless `on_failure` says otherwise."""


class Application(Protocol):
    """Given to `Engine(...)`."""

    @property
    def outage_errors(self) -> tuple[type[Exception], ...]:
        """What tasks raise while what they need does not answer."""

    @property
    def context_headers(self) -> tuple[str, ...]:
        """Message headers that log lines carry."""

    def probe(self) -> None:
        """Return if what the tasks need answers; raise one of `outage_errors` if not.

        Called on a thread of its own.
        """

    def bind(self, **fields: Any) -> AbstractContextManager[None]:
        """Add fields to the log lines of a block."""

    def on_progress(self) -> None:
        """Told every few seconds while the worker receives, or has a good reason not to."""

    def on_breaker(self, is_open: bool) -> None:
        """Told True when the worker stops receiving, False when it goes on."""

    def on_failure(self, failure: Failure) -> Verdict | None:
        """Record a failure, in the worker's main process, on a thread of its own.

        Returns:
            What becomes of the message; None hides it for the back-off of its receive count.

        Raises:
            One of `outage_errors`: the message is hidden until the outage may be over.
        """
