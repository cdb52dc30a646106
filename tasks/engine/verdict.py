"""How a task says what becomes of its message."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import ClassVar, Protocol

from celery.exceptions import Reject

from tasks.engine.catalogue import Queue

#: On a kombu message whose task has succeeded: only such a one is deleted.
DONE = "okuru_done"

#: Seconds, before scaling, that a message rests whose database is out of reach.
OUTAGE_DELAY = 30


class Settle(StrEnum):
    """What becomes of a message."""

    DELETE = "delete"
    """Done, or a duplicate."""
    RETRY = "retry"
    """Hidden for the back-off, or for what a provider asked, up to the largest back-off."""
    EXPOSE = "expose"
    """Visible at once: with its receives used up, SQS dead-letters it."""
    LEAVE = "leave"
    """As it is: another delivery of it is at work."""
    OUTAGE = "outage"
    """Hidden until the application's database may be back."""


class Verdict(Protocol):
    """What a task returns to the engine."""

    @property
    def settle(self) -> str:
        """The value of a `Settle`."""

    @property
    def retry_after(self) -> float | None:
        """Seconds that a provider asked to wait, with `retry`."""


class Returned(Reject):
    """Raised in the pool's process, read in the worker's: the message goes back to SQS."""

    #: Where the worker's process keeps it on the kombu message until the reject comes.
    PROPERTY: ClassVar[str] = "okuru_returned"

    def __init__(self, settle: str, retry_after: float | None = None) -> None:
        settle = Settle(settle)
        # requeue=True only spares Celery's failure signals: the transport never requeues.
        super().__init__(settle, requeue=True)
        self.settle = settle
        self.retry_after = retry_after
        self.args = (settle, retry_after)  # what pickle calls __init__ with

    def delay(self, queue: Queue, receive_count: int, scale: float) -> int | None:
        """Seconds to hide the message; None to leave it as it is."""
        match self.settle:
            case Settle.EXPOSE:
                return 0
            case Settle.LEAVE:
                return None
            case Settle.OUTAGE:
                return math.ceil(OUTAGE_DELAY * scale)
        return queue.retry_delay(receive_count, scale=scale, at_least=self.retry_after or 0)
