"""One delivery from claim to verdict: what a task of every deliverable does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from sqlalchemy.orm import Session

from app import db
from app.delivery import failures, service
from app.delivery.errors import CalledOff, PermanentError, TimedOut, TransientError
from app.delivery.service import Claim, Delivery, Failure, Model, Settle, Verdict
from app.observability import context, logs, metrics

log = logging.getLogger(__name__)

Parcel = TypeVar("Parcel")
Result = TypeVar("Result")


def deliver(
    model: Model,
    subject_id: UUID,
    send_no: int,
    delivery: Delivery,
    *,
    load: Callable[[Session], Parcel],
    effect: Callable[[Parcel, int], Result],
    record: Callable[[Session, Result], None] | None = None,
    describe: Callable[[Parcel], dict[str, str]] = lambda _: {},
    interruptions: tuple[type[Exception], ...] = (),
) -> Verdict:
    """Claim, run the effect, record the outcome.

    No transaction is open while the effect runs: a provider may take seconds, and a connection
    is dear (docs/architecture.md).

    Args:
        load: reads what the effect needs, in the transaction of the claim.
        effect: called at most once, with what was loaded and the number of this execution;
            raises when the effect did not happen.
        describe: fields of the log lines, from what was loaded.
        record: keeps what the effect returned, in the transaction that makes the row done.
        interruptions: what the time limit of the task raises inside the effect.

    Raises:
        One of `db.OUTAGE_ERRORS`: nothing was recorded, and the message must come again.
    """
    kind = model.lifecycle.kind
    with context.bound(
        **{model.lifecycle.subject: str(subject_id)}, receive_count=delivery.receive_count
    ):
        started = time.perf_counter()
        with db.transaction() as session:
            claim = service.claim(session, model, subject_id, send_no, delivery)
            if isinstance(claim, Claim):
                parcel = load(session)
            elif claim.settle is Settle.RETRY and delivery.last_receive:
                # What becomes a dead letter now has no attempt that would say why.
                failures.record_message_failure(
                    session,
                    message_id=delivery.message_id,
                    receive_count=delivery.receive_count,
                    worker=delivery.worker,
                    code=claim.reason.upper(),
                    reason=f"the row is {claim.status}" if claim.status != "-" else "no such row",
                )
        if isinstance(claim, Verdict):
            metrics.DUPLICATES.labels(kind, claim.reason).inc()
            log.info("not executed: %s", claim.reason, extra={"status": claim.status})
            return claim
        with context.bound(**describe(parcel)):
            metrics.ATTEMPTS.labels(kind, str(delivery.receive_count)).inc()
            outcome = _run(lambda: effect(parcel, claim.execution), interruptions)
            if isinstance(outcome, Failure):
                failure, verdict = outcome, _record_failure(model, claim, outcome)
            else:
                value = outcome.value
                keep = (lambda session: record(session, value)) if record else None
                failure, verdict = None, _record_success(model, claim, keep)
            _log_outcome(kind, claim, failure, verdict, started)
        return verdict


@dataclass(frozen=True)
class _Done(Generic[Result]):
    value: Result


def _run(
    effect: Callable[[], Result], interruptions: tuple[type[Exception], ...]
) -> _Done[Result] | Failure:
    try:
        return _Done(effect())
    except CalledOff:
        return Failure("cancelled", "CANCELLED", "its owner called it off", called_off=True)
    except TimedOut as error:
        return Failure("timeout", error.code, str(error))
    except TransientError as error:
        return Failure("transient", error.code, str(error), retry_after=error.retry_after)
    except PermanentError as error:
        return Failure("permanent", error.code, str(error), permanent=True)
    except interruptions:
        return Failure("timeout", "TIME_LIMIT", "the execution passed its time limit")
    except Exception as error:
        # Also MemoryError, which would take the whole worker down.
        log.exception("unexpected error in an effect", extra={"error_code": "UNEXPECTED"})
        return Failure("transient", "UNEXPECTED", type(error).__name__)


def _record_failure(model: Model, claim: Claim, failure: Failure) -> Verdict:
    states = model.lifecycle
    with db.transaction() as session:
        verdict = service.fail(session, model, claim, failure)
    metrics.DELIVERIES.labels(states.kind, failure.outcome).inc()
    if verdict.status in (states.failed, states.cancelled):
        metrics.SETTLED.labels(states.kind, verdict.status).inc()
    return verdict


def _record_success(model: Model, claim: Claim, keep: Callable[[Session], None] | None) -> Verdict:
    states = model.lifecycle
    with db.transaction() as session:
        success = service.succeed(session, model, claim)
        if keep and success.latency is not None:
            keep(session)
    if success.latency is None:
        metrics.DELIVERIES.labels(states.kind, "unknown").inc()
    else:
        metrics.DELIVERIES.labels(states.kind, "sent").inc()
        metrics.LATENCY.labels(states.kind).observe(success.latency)
        metrics.SETTLED.labels(states.kind, states.done).inc()
    return success.verdict


def _log_outcome(
    kind: str, claim: Claim, failure: Failure | None, verdict: Verdict, started: float
) -> None:
    errors = {"error_code": failure.code, "error_message": failure.message} if failure else {}
    log.log(
        logging.WARNING if failure else logging.INFO,
        "%s executed: %s",
        kind,
        verdict.reason,
        extra={
            "status": verdict.status,
            "execution": claim.execution,
            "duration_ms": logs.elapsed_ms(started),
            **errors,
        },
    )
