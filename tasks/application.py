"""What the engine is told about Okuru."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

from app import db
from app.delivery import service as delivery
from app.delivery.failures import record_message_failure
from app.delivery.models import deliverables, is_send_no
from app.observability import context, metrics
from tasks.engine.application import Cause, Failure

#: What the record of an attempt says.
OUTCOMES = {Cause.TIME_LIMIT: "timeout", Cause.WORKER_LOST: "lost", Cause.RAISED: "lost"}

#: No other receive of such a message can help.
HOPELESS = (Cause.BAD_MESSAGE, Cause.UNKNOWN_TASK)


class Okuru:
    outage_errors = db.OUTAGE_ERRORS
    context_headers = context.CARRIED

    def probe(self) -> None:
        db.require_ready()

    def bind(self, **fields: Any) -> AbstractContextManager[None]:
        return context.bound(**fields)

    def on_progress(self) -> None:
        metrics.PROGRESS.labels("receive").set_to_current_time()

    def on_breaker(self, is_open: bool) -> None:
        metrics.BREAKER_OPEN.set(is_open)

    def on_failure(self, failure: Failure) -> delivery.Verdict | None:
        """An execution of a deliverable ends by the rules of deliveries; anything else is noted."""
        verdict = self._lose(failure)
        if verdict is None:
            with db.transaction() as session:
                record_message_failure(
                    session,
                    message_id=failure.message_id,
                    receive_count=failure.receive_count,
                    worker=failure.worker,
                    code=failure.cause,
                    reason=failure.reason,
                    permanent=failure.cause in HOPELESS,
                )
        return verdict

    def _lose(self, failure: Failure) -> delivery.Verdict | None:
        model = deliverables().get(failure.task or "")
        outcome = OUTCOMES.get(failure.cause)
        if model is None or outcome is None:
            return None
        subject = model.lifecycle.subject
        try:
            subject_id, send_no = UUID(failure.kwargs[subject]), failure.kwargs["send_no"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        if not is_send_no(send_no):
            return None
        with (
            context.bound(**{subject: str(subject_id)}, receive_count=failure.receive_count),
            db.transaction() as session,
        ):
            verdict = delivery.lose(
                session,
                model,
                subject_id,
                send_no,
                failure,  # it says which delivery it was, as app.delivery knows one
                delivery.Failure(outcome, failure.cause, failure.reason),
            )
        if verdict is not None:
            metrics.DELIVERIES.labels(model.lifecycle.kind, outcome).inc()
            if verdict.status == model.lifecycle.failed:
                metrics.SETTLED.labels(model.lifecycle.kind, verdict.status).inc()
        return verdict
