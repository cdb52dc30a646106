"""Celery's consumer, which acknowledges nothing that did not run."""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

from tasks.engine import failures
from tasks.engine.application import Cause

log = logging.getLogger(__name__)


class Consumer(CeleryConsumer):
    """Named by the setting `worker_consumer`. Celery's own deletes what it cannot decode."""

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self._refuse(message, Cause.BAD_MESSAGE, type(exc).__name__)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        self._refuse(message, Cause.BAD_MESSAGE, "it names no task")

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        self._refuse(message, Cause.BAD_MESSAGE, type(exc).__name__)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        name = message.headers.get("task")
        self._refuse(message, Cause.UNKNOWN_TASK, f"no task {name} is registered")

    def _refuse(self, message: Any, cause: Cause, reason: str) -> None:
        info = message.delivery_info
        queue = self.app.engine.catalogue.by_url(info["sqs_queue"])
        log.error(
            "message %s was refused",
            info["sqs_message"]["MessageId"],
            extra={"error_code": cause, "error_message": reason},
        )
        message.properties[failures.PROPERTY] = failures.failure(
            cause, reason, queue, info["sqs_message"], self.hostname
        )
        message.reject()
