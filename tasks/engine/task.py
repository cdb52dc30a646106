"""The base Task: which delivery this is, what its log lines carry, what becomes of its message."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any, NoReturn

from billiard.exceptions import WorkerLostError
from celery import Task as CeleryTask
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

from tasks.engine import failures
from tasks.engine.application import Cause
from tasks.engine.verdict import DONE, Returned, Settle, Verdict

log = logging.getLogger(__name__)

#: What a soft time limit raises inside a task.
INTERRUPTIONS: tuple[type[Exception], ...] = (SoftTimeLimitExceeded,)

#: Options of `apply_async` that publish another message, or delete this one unrun.
NEVER = ("countdown", "eta", "expires", "link", "link_error", "chain")


@dataclass(frozen=True)
class Delivery:
    """One receive of one SQS message."""

    message_id: str
    receive_count: int
    last_receive: bool
    """Whether SQS dead-letters the message instead of delivering it once more."""
    worker: str
    """host:pid of the process that executes."""
    retry_delay: float = 0.0
    """Seconds for which a failure at this receive hides the message."""


class Request(CeleryRequest):
    """The worker's side of an execution."""

    #: Whether a process of the pool has it. What only waits can be given back.
    handed = False
    _unsuccessful = False

    def acknowledge(self) -> None:
        """Delete the message, if its task has succeeded: Celery asks for it in other cases too
        (`Ignore`, `Retry`, revoked and expired tasks)."""
        if self._unsuccessful:
            self.reject(requeue=False)
            return
        self.message.properties[DONE] = True
        super().acknowledge()

    def give_back(self) -> None:
        """Make the message visible at once, unrun, for another worker."""
        self.message.properties[Returned.PROPERTY] = Returned(Settle.EXPOSE)
        self.reject(requeue=False)

    def refuse(self, reason: str) -> None:
        """It cannot be run: SQS delivers it until it is a dead letter, with this reason."""
        self._note(Cause.BAD_MESSAGE, reason)
        self.reject(requeue=False)
        state.task_ready(self)

    def revoked(self) -> bool:
        return False  # a revoked task would be deleted unrun

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        self._unsuccessful = True
        error = exc_info.exception
        error = getattr(error, "exc", error)  # billiard wraps what it carries between processes
        if isinstance(error, Returned):
            self.message.properties[Returned.PROPERTY] = error
            if error.settle == Settle.OUTAGE:
                self.app.engine.breaker.trip()
        elif isinstance(error, MemoryError):  # Celery would end the worker
            self._note(Cause.RAISED, "MemoryError")
            self.reject(requeue=False)
            return None
        elif state.should_terminate:  # it was ended by us, and not by itself
            self.message.properties[Returned.PROPERTY] = Returned(Settle.EXPOSE)
        elif isinstance(error, TimeLimitExceeded):
            self._note(Cause.TIME_LIMIT, str(error))
        elif isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt):
            self._note(Cause.WORKER_LOST, str(error) or type(error).__name__)
        else:
            self._note(Cause.RAISED, type(error).__name__)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_retry(self, exc_info: Any) -> None:
        self._unsuccessful = True
        self._note(Cause.RAISED, "Retry")
        super().on_retry(exc_info)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft:
            self._unsuccessful = True
            self._note(Cause.TIME_LIMIT, f"{TimeLimitExceeded.__name__}: {timeout:g} s")
        super().on_timeout(soft, timeout)

    def _announce_revoked(self, *args: Any, **kwargs: Any) -> None:
        self._unsuccessful = True
        super()._announce_revoked(*args, **kwargs)

    def _note(self, cause: Cause, reason: str) -> None:
        if self.acknowledged:  # killed for its time limit: that was noted
            return
        info = self.message.delivery_info
        self.message.properties[failures.PROPERTY] = failures.failure(
            cause,
            reason,
            self.app.engine.catalogue.by_url(info["sqs_queue"]),
            info["sqs_message"],
            self.hostname,
        )


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
            retry_delay=queue.retry_delay(receive_count, scale=self.app.engine.retry_scale),
        )

    def settle(self, verdict: Verdict) -> None:
        """End the execution as `verdict` says: returning deletes the message."""
        if verdict.settle != Settle.DELETE:
            raise Returned(verdict.settle, verdict.retry_after)

    def retry(self, *_args: Any, **_options: Any) -> NoReturn:
        """Refused: it would publish a new message, whose receives begin again at one."""
        raise RuntimeError("raise an exception instead: the visibility timeout is the retry")

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """Celery's own, without what delays, expires or chains.

        Raises:
            ValueError: one of `NEVER` was asked for.
        """
        asked = [name for name in NEVER if options.get(name)]
        if asked:
            raise ValueError(f"{self.name}: {', '.join(asked)} cannot be kept by SQS's redelivery")
        return super().apply_async(*args, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        engine = self.app.engine
        headers = self.request.headers or {}
        names = engine.application.context_headers
        carried = {name: headers[name] for name in names if name in headers}
        with engine.application.bind(task_id=self.request.id, **carried):
            try:
                return super().__call__(*args, **kwargs)
            except engine.application.outage_errors as error:
                log.warning(
                    "%s put off: the database does not answer",
                    self.name,
                    extra={"error_code": "UNAVAILABLE", "error_message": type(error).__name__},
                )
                raise Returned(Settle.OUTAGE) from None
            except MemoryError:
                # As a MemoryError it would end the whole worker, not this execution.
                raise RuntimeError("out of memory") from None
            except (SystemExit, KeyboardInterrupt):
                raise RuntimeError("the task called exit") from None
