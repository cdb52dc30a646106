"""What beat asks for: looks after what died or vanished, for every kind of deliverable."""

from __future__ import annotations

import logging
from datetime import timedelta

from app import db
from app.delivery import recovery
from app.delivery.models import deliverables
from app.delivery.service import Model
from app.observability import metrics
from tasks.celery import app, engine
from tasks.engine import dead_letters
from tasks.engine.catalogue import Queue
from tasks.engine.dead_letters import DeadMessage
from tasks.engine.queues import visible_depth
from tasks.letters import letter_of

log = logging.getLogger(__name__)


@app.task(name="delivery.reconcile", soft_time_limit=45, time_limit=55)
def reconcile() -> None:
    """Copy dead letters into the database and decide the sends that they left undecided.

    Deletes nothing: the letters stay for an operator.
    """
    for queue in engine.catalogue:
        for batch in dead_letters.read(engine.sqs, engine.catalogue, queue):
            for message in batch:
                _reconcile(message)


@app.task(name="delivery.recover_stalled", soft_time_limit=45, time_limit=55)
def recover_stalled() -> None:
    """Stage again what is open while nothing can be on its way."""
    for model in deliverables().values():
        for name in model.lifecycle.queues:
            _recover_stalled(model, engine.catalogue[name])


def _recover_stalled(model: Model, queue: Queue) -> None:
    depth = visible_depth(engine.sqs, engine.catalogue.url(queue.name))
    untouched = timedelta(seconds=queue.untouched_limit(scale=engine.retry_scale))
    with db.transaction() as session:
        recovered = recovery.recover_stalled(
            session, model, queue.name, visible_depth=depth, untouched_for=untouched
        )
    for subject_id in recovered:
        log.warning(
            "staged again: its message had vanished",
            extra={model.lifecycle.subject: str(subject_id)},
        )


def _reconcile(message: DeadMessage) -> None:
    model = deliverables().get(message.task or "")
    letter = letter_of(message, model)
    with db.transaction() as session:
        decision = recovery.reconcile(session, letter, model)
    if decision and model:
        if decision == "failed":
            metrics.SETTLED.labels(model.lifecycle.kind, model.lifecycle.failed).inc()
        log.warning(
            "dead letter: %s",
            decision,
            extra={
                "message_id": letter.message_id,
                "request_id": letter.request_id,
                model.lifecycle.subject: str(letter.subject_id),
            },
        )
