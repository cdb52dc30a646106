"""The tasks of gifts."""

from __future__ import annotations

from functools import cache
from uuid import UUID

from app.gifts import messages, service
from app.gifts.senders import Sender
from app.gifts.senders.choose import from_settings
from tasks.celery import app, settings
from tasks.engine.task import INTERRUPTIONS, Task

#: Seconds. The sender's timeouts < these < the queue's visibility timeout (queues.json).
SOFT_TIME_LIMIT = 15
TIME_LIMIT = 20


@cache
def _sender() -> Sender:
    """One for each process: it keeps its connections."""
    return from_settings(settings)


@app.task(
    name=messages.SEND.task, bind=True, soft_time_limit=SOFT_TIME_LIMIT, time_limit=TIME_LIMIT
)
def send(self: Task, gift_id: str, send_no: int, request_id: str) -> None:  # noqa: ARG001
    """`request_id` is for whoever reads the message; log lines have it from the headers."""
    self.settle(
        service.send(UUID(gift_id), send_no, self.delivery, _sender(), interruptions=INTERRUPTIONS)
    )
