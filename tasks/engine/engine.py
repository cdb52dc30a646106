"""Puts the engine under a Celery app."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery import Celery, signals
from kombu import Queue as KombuQueue

from tasks.engine import sqs
from tasks.engine.breaker import Breaker
from tasks.engine.catalogue import Catalogue
from tasks.engine.settlement import Settlement
from tasks.engine.transport import WAIT_SECONDS

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds that a stopping worker gives the last deletes. Below ECS's stop timeout.
FLUSH_WITHIN = 10.0


class Engine:
    """What the parts of the engine share, and what it has to be told about the application."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        region: str,
        retry_scale: float,
        probe: Callable[[], None],
        outage_errors: tuple[type[Exception], ...],
        on_breaker: Callable[[bool], None],
        bind: Callable[..., AbstractContextManager[None]],
        context_headers: tuple[str, ...],
    ) -> None:
        """
        Args:
            retry_scale: 1 in production; a local stack shortens every delay by it.
            probe: asks the database; raises one of `outage_errors` while it does not answer.
            on_breaker: told True when the worker stops receiving, False when it goes on.
            bind: adds fields to the log lines of a block.
            context_headers: message headers that are such fields.
        """
        self.catalogue = catalogue
        self.region = region
        self.retry_scale = retry_scale
        self.outage_errors = outage_errors
        self.bind = bind
        self.context_headers = context_headers
        self.breaker = Breaker(probe, outage_errors, on_breaker)
        self.settlement = Settlement(lambda: sqs.client(region))

    @cached_property
    def sqs(self) -> SQSClient:
        """For calls beside the event loop."""
        return sqs.client(self.region)

    def install(self, app: Celery) -> None:
        """Configure `app`. The reasons for each setting are in README.md of this folder."""
        app.engine = self
        app.conf.update(
            broker_url="sqs://",
            broker_transport="tasks.engine.transport:Transport",
            broker_transport_options={
                "engine": self,
                "region": self.region,
                "predefined_queues": self._predefined_queues(),
                "wait_time_seconds": WAIT_SECONDS,
                "sqs_base64_encoding": False,
                "client-config": sqs.CLIENT_CONFIG,
            },
            broker_connection_retry_on_startup=True,
            broker_connection_max_retries=None,
            task_queues=[KombuQueue(queue.name) for queue in self.catalogue],
            task_create_missing_queues=False,
            # The visibility timeout is the retry: only success deletes a message.
            task_acks_late=True,
            task_acks_on_failure=False,
            task_acks_on_timeout=False,
            task_reject_on_worker_lost=True,
            task_ignore_result=True,
            task_serializer="json",
            accept_content=["json"],
            # A producer that finds SQS gone says so; the beat schedule comes round again.
            task_publish_retry=False,
            worker_prefetch_multiplier=1,
            worker_cancel_long_running_tasks_on_connection_loss=False,
            worker_enable_remote_control=False,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
            enable_utc=True,
            timezone="UTC",
        )
        signals.worker_shutdown.connect(self._flush, weak=False)

    def _predefined_queues(self) -> dict[str, dict[str, Any]]:
        return {queue.name: {"url": self.catalogue.url(queue.name)} for queue in self.catalogue}

    def _flush(self, **_: Any) -> None:
        self.settlement.close(FLUSH_WITHIN)
