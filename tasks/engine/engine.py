"""Puts the engine under a Celery app."""

from __future__ import annotations

import atexit
import os
import socket
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from celery import Celery, signals
from kombu import Queue as KombuQueue

from tasks.engine import sqs, startup
from tasks.engine.breaker import Breaker
from tasks.engine.catalogue import Queue
from tasks.engine.failures import Recorder
from tasks.engine.protection import Protection
from tasks.engine.settlement import Settlement
from tasks.engine.stop import Stop
from tasks.engine.visibility import Held

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from tasks.engine.application import Application
    from tasks.engine.catalogue import Catalogue
    from tasks.engine.transport import Channel

#: Seconds between two looks whether this worker gets on with its work.
LOOK_EVERY = 5.0
#: Seconds that a stopping worker gives the last deletes. With the grace, below ECS's 120 s.
FLUSH_WITHIN = 10.0


class Engine:
    """What the parts of the engine share."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        region: str,
        application: Application,
        retry_scale: float = 1.0,
        poll_wait: int = 20,
        grace: float = 100.0,
        ecs_agent_uri: str | None = None,
    ) -> None:
        """
        Args:
            retry_scale: 1 in production; a local stack shortens every back-off by it.
            poll_wait: seconds of a long poll; 20, SQS's maximum, costs an idle queue three calls a
                minute. A worker that stops waits for its open polls.
            grace: seconds that a stopping worker gives what runs.
            ecs_agent_uri: where Amazon ECS takes orders from its containers; None elsewhere.
        """
        self.catalogue = catalogue
        self.region = region
        self.application = application
        self.retry_scale = retry_scale
        self.poll_wait = poll_wait
        self.grace = grace
        self.ecs_agent_uri = ecs_agent_uri
        self.hostname = socket.gethostname()
        self.breaker = Breaker(application.probe, application.outage_errors, application.on_breaker)
        self.held = Held()
        self.settlement = Settlement(lambda: sqs.client(region), self.held)
        self.recorder = Recorder(application, self.settlement, self.breaker.trip, retry_scale)
        self.channels: WeakSet[Channel] = WeakSet()
        #: The workers that this one is of: all, until it knows its queues.
        self.groups = {queue.group for queue in catalogue}
        self._stop: Stop | None = None
        self._protection: Protection | None = None

    @cached_property
    def sqs(self) -> SQSClient:
        """For calls beside the event loop."""
        return sqs.client(self.region)

    @property
    def is_stopping(self) -> bool:
        return self._stop is not None and self._stop.is_asked

    @property
    def is_pausing(self) -> bool:
        """Whether nothing new is to be received for now."""
        return self.breaker.is_open or bool(self._protection and self._protection.is_resting)

    def hold(self, receipt_handle: str, queue: Queue, queue_url: str) -> None:
        """Keep a message invisible until it is settled."""
        self.held.add(receipt_handle, queue, queue_url)
        self.settlement.begin()
        if self._protection:
            self._protection.wake()

    def stop(self) -> None:
        """Stop this worker gently, as TERM does."""
        if self._stop:
            self._stop.ask()

    def install(self, app: Celery) -> None:
        """Configure `app`. The reasons for each setting are in README.md of this folder."""
        app.engine = self
        app.conf.update(
            broker_url="sqs://",
            broker_transport="tasks.engine.transport:Transport",
            broker_transport_options={
                "engine": self,
                "region": self.region,
                "predefined_queues": {
                    queue.name: {"url": self.catalogue.url(queue.name)} for queue in self.catalogue
                },
                "wait_time_seconds": self.poll_wait,
                "sqs_base64_encoding": False,
                "client-config": sqs.CLIENT_CONFIG,
            },
            broker_connection_retry_on_startup=True,
            broker_connection_max_retries=None,
            worker_consumer="tasks.engine.consumer:Consumer",
            task_queues=[KombuQueue(queue.name) for queue in self.catalogue],
            task_create_missing_queues=False,
            # The visibility timeout is the retry: only success deletes a message.
            task_acks_late=True,
            task_acks_on_failure=False,
            task_acks_on_timeout=False,
            task_acks_on_failure_or_timeout=False,
            task_reject_on_worker_lost=True,
            task_ignore_result=True,
            task_serializer="json",
            accept_content=["json"],
            # A producer that finds SQS gone says so; the beat schedule comes round again.
            task_publish_retry=False,
            # The channel counts by queue; this makes its prefetch count that of the processes.
            worker_prefetch_multiplier=1,
            worker_cancel_long_running_tasks_on_connection_loss=False,
            worker_enable_remote_control=False,
            worker_hijack_root_logger=False,
            worker_redirect_stdouts=False,
            enable_utc=True,
            timezone="UTC",
        )
        signals.worker_init.connect(self._check, weak=False)
        signals.worker_process_init.connect(self._forked, weak=False)
        signals.worker_ready.connect(self._ready, weak=False)

    def _check(self, *, sender: Any, **_: Any) -> None:
        self.hostname = sender.hostname
        self._stop = Stop(self, sender)
        # Celery's signal of the shutdown does not come when the worker is terminated.
        atexit.register(self._flush, os.getpid())
        try:
            startup.check_tasks(sender.app)
            consumed = sender.app.amqp.queues.consume_from
            startup.check_queues(self.sqs, self.catalogue, consumed)
            self.groups = {self.catalogue[name].group for name in consumed}
        except startup.Refused as error:
            raise SystemExit(f"this worker does not start: {error}") from None
        longest = max(self.catalogue[name].max_hold for name in consumed)
        # What is done within the grace needs none, and would keep deployments waiting.
        if self.ecs_agent_uri and longest > self.grace:
            self._protection = Protection(self.held, self.ecs_agent_uri, longest)

    def _forked(self, **_: Any) -> None:
        """In a child of the pool: the client's connections are its parent's, and its siblings'."""
        client = self.__dict__.pop("sqs", None)
        if client is not None:
            client.close()

    def _ready(self, *, sender: Any, **_: Any) -> None:
        if self._stop:
            self._stop.install(sender)
        self._look()
        # By the event loop itself: one that hangs says nothing.
        sender.hub.call_repeatedly(LOOK_EVERY, self._look)
        # Not before the pool has forked: these have threads.
        self.breaker.begin()
        if self._protection:
            self._protection.start()

    def _look(self) -> None:
        channels = [channel for channel in self.channels if not channel.closed]
        consuming = all(channel.is_consuming for channel in channels)
        if self.is_stopping or (consuming and not self.held.is_overdue):
            self.application.on_progress()

    def _flush(self, owner: int) -> None:
        """Carry out what is left. The pool has ended: what is still held may go at once."""
        if os.getpid() != owner:
            return  # a child of it
        self.recorder.close()
        for queue_url, receipt_handle in self.held.take_all():
            self.settlement.hide(queue_url, receipt_handle, 0, within=FLUSH_WITHIN)
        self.settlement.close(FLUSH_WITHIN)
