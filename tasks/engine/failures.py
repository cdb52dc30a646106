"""Tells the application of deliveries that failed without their task's own word."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tasks.engine import intake
from tasks.engine.application import Application, Cause, Failure
from tasks.engine.catalogue import Queue
from tasks.engine.settlement import Settlement
from tasks.engine.verdict import Returned, Settle

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

#: Where a kombu message keeps its failure until its reject comes.
PROPERTY = "okuru_failure"
#: Reasons go into columns and terminals.
MAX_REASON = 500


def failure(
    cause: Cause, reason: str, queue: Queue, sqs_message: dict[str, Any], hostname: str
) -> Failure:
    receive_count = int(sqs_message["Attributes"]["ApproximateReceiveCount"])
    said = intake.peek(sqs_message["Body"], queue.foreign_task)
    return Failure(
        cause=cause,
        reason=reason[:MAX_REASON],
        queue=queue.name,
        message_id=sqs_message["MessageId"],
        receive_count=receive_count,
        last_receive=receive_count >= queue.max_receive_count,
        worker=f"{hostname}:{os.getpid()}",
        task=said.task if said else None,
        kwargs=said.kwargs if said else {},
    )


class Recorder:
    """Records failures and then settles their messages, on a thread of its own.

    The pool's process may be dead, and the event loop must not wait for a database.
    """

    def __init__(
        self,
        application: Application,
        settlement: Settlement,
        on_outage: Callable[[], None],
        scale: float,
    ) -> None:
        self._application = application
        self._settlement = settlement
        self._on_outage = on_outage
        self._scale = scale
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="failures")

    def record(self, failed: Failure, queue: Queue, queue_url: str, receipt_handle: str) -> None:
        self._thread.submit(self._record, failed, queue, queue_url, receipt_handle)

    def close(self) -> None:
        """Finish what was given."""
        self._thread.shutdown()

    def _record(self, failed: Failure, queue: Queue, queue_url: str, receipt_handle: str) -> None:
        delay = queue.retry_delay(failed.receive_count, scale=self._scale)
        returned = self._ask(replace(failed, retry_delay=delay))
        within = queue.visibility_timeout
        if returned.settle == Settle.DELETE:
            self._settlement.delete(queue_url, receipt_handle, within=within)
            return
        seconds = returned.delay(queue, failed.receive_count, self._scale)
        if seconds is None:
            self._settlement.leave(receipt_handle)
        else:
            self._settlement.hide(queue_url, receipt_handle, seconds, within=within)

    def _ask(self, failed: Failure) -> Returned:
        try:
            verdict = self._application.on_failure(failed)
        except self._application.outage_errors:
            self._on_outage()
            return Returned(Settle.OUTAGE)
        except Exception:
            log.exception("a failure could not be recorded", extra={"error_code": failed.cause})
            return Returned(Settle.RETRY)
        return Returned(verdict.settle, verdict.retry_after) if verdict else Returned(Settle.RETRY)
