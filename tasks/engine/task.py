"""The base Task: which delivery this is, what its log lines carry, what becomes of its message."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from celery import Task as CeleryTask
from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.request import Request as CeleryRequest

from tasks.engine.verdict import Returned, Settle, Verdict

log = logging.getLogger(__name__)

#: What a soft time limit raises inside a task.
INTERRUPTIONS: tuple[type[Exception], ...] = (SoftTimeLimitExceeded,)


#: Headers by which a message would steer the worker.
UNTRUSTED = frozenset({"timelimit", "eta", "expires", "stamped_headers", "stamps", "shadow"})


@dataclass(frozen=True)
class Delivery:
    """One receive of one SQS message."""

    message_id: str
    receive_count: int
    last_receive: bool
    """Whether SQS dead-letters the message instead of delivering it once more."""
    worker: str
    """host:pid of the process that executes."""


class Request(CeleryRequest):
    """The worker's side of an execution."""

    def __init__(self, message: Any, *args: Any, headers: Any = None, **options: Any) -> None:
        """Limits are the task's own and times are the queue's: a message may set neither.

        Celery believes these headers, and a malformed one ends the worker.
        """
        headers = message.headers if headers is None else headers
        believed = {name: value for name, value in headers.items() if name not in UNTRUSTED}
        super().__init__(message, *args, headers=believed, **options)

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        error = exc_info.exception
        error = getattr(error, "exc", error)  # billiard wraps what it carries between processes
        if isinstance(error, Returned):
            self.message.properties[Returned.PROPERTY] = error
            if error.settle == Settle.OUTAGE:
                self.app.engine.breaker.trip()
        return super().on_failure(exc_info, send_failed_event, return_ok)


class Task(CeleryTask):
    """For every task: the Celery app names it as its `task_cls`."""

    abstract = True
    Request = Request

    @property
    def delivery(self) -> Delivery:
        """Where the SQS message is: `request.delivery_info` is trimmed before it gets here."""
        info = self.request.properties["delivery_info"]
        message = info["sqs_message"]
        receive_count = int(message["Attributes"]["ApproximateReceiveCount"])
        queue = self.app.engine.catalogue.by_url(info["sqs_queue"])
        return Delivery(
            message_id=message["MessageId"],
            receive_count=receive_count,
            last_receive=receive_count >= queue.max_receive_count,
            worker=f"{self.request.hostname}:{os.getpid()}",
        )

    def settle(self, verdict: Verdict) -> None:
        """End the execution as `verdict` says: returning deletes the message."""
        if verdict.settle != Settle.DELETE:
            raise Returned(verdict.settle, verdict.retry_after)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        engine = self.app.engine
        headers = self.request.headers or {}
        carried = {name: headers[name] for name in engine.context_headers if name in headers}
        with engine.bind(task_id=self.request.id, **carried):
            try:
                return super().__call__(*args, **kwargs)
            except engine.outage_errors as error:
                log.warning(
                    "%s put off: the database does not answer",
                    self.name,
                    extra={"error_code": "UNAVAILABLE", "error_message": type(error).__name__},
                )
                raise Returned(Settle.OUTAGE) from None
            except MemoryError:
                # As a MemoryError it would end the whole worker, not this execution.
                raise RuntimeError("out of memory") from None
