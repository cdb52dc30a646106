"""The tasks of gifts."""

from __future__ import annotations

import logging
from datetime import timedelta
from functools import cache
from uuid import UUID

from app import db
from app.delivery import recovery
from app.gifts import messages, service
from app.gifts.models import Gift
from app.gifts.senders import Sender
from app.gifts.senders.choose import from_settings
from tasks.celery import app, engine, settings
from tasks.engine.queues import visible_depth
from tasks.engine.task import INTERRUPTIONS, Task

log = logging.getLogger(__name__)

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
def send(self: Task, gift_id: str, send_no: int, request_id: str) -> None:  # noqa: ARG001 - logged
    self.settle(
        service.send(UUID(gift_id), send_no, self.delivery, _sender(), interruptions=INTERRUPTIONS)
    )


@app.task(name="gifts.recover_stalled", soft_time_limit=30, time_limit=40)
def recover_stalled() -> None:
    """Stage again what is queued while nothing can be on its way."""
    queue = engine.catalogue[messages.SEND.queue]
    depth = visible_depth(engine.sqs, engine.catalogue.url(queue.name))
    untouched = timedelta(seconds=queue.untouched_limit(scale=engine.retry_scale))
    with db.transaction() as session:
        recovered = recovery.recover_stalled(
            session, Gift, visible_depth=depth, untouched_for=untouched
        )
    for gift_id in recovered:
        log.warning("staged again: its message had vanished", extra={"gift_id": str(gift_id)})
