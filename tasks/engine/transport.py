"""kombu's SQS transport, hardened: outages, bad messages, settlement off the event loop.

What this overrides of kombu's private parts is asserted by tests/unit/engine/test_overrides.py.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, Any

from kombu.asynchronous.aws.connection import AsyncHTTPSConnection
from kombu.asynchronous.aws.sqs.connection import AsyncSQSConnection
from kombu.transport import SQS, virtual

from tasks.engine.catalogue import Queue
from tasks.engine.verdict import Returned

if TYPE_CHECKING:
    from tasks.engine.engine import Engine

log = logging.getLogger(__name__)

#: Long polling in full (SQS's maximum): an idle queue costs three calls a minute.
WAIT_SECONDS = 20
#: Above WAIT_SECONDS, or every empty poll would end as a timeout.
RECEIVE_TIMEOUT = 25.0
#: The longest pause between two tries while SQS cannot be reached.
MAX_PAUSE = 30.0
#: How often a worker with an open breaker looks whether it has closed.
BREAKER_PAUSE = 0.5


class ReceiveFailed(Exception):
    """What a receive brought instead of messages."""


class Connection(AsyncSQSConnection):
    """Hands failures on. kombu turns some into an empty answer and lets others end the worker."""

    def get_http_connection(self) -> AsyncHTTPSConnection:
        return AsyncHTTPSConnection(http_client=self._httpclient, timeout=RECEIVE_TIMEOUT)

    def _on_list_ready(self, parent: Any, markers: Any, operation: str, response: Any) -> Any:
        if response.status != self.STATUS_CODE_OK:
            return ReceiveFailed(f"HTTP {response.status}")
        try:
            return super()._on_list_ready(parent, markers, operation, response)
        except Exception as error:  # noqa: BLE001 - handed on, and said by the channel
            return ReceiveFailed(f"unreadable answer: {type(error).__name__}")


class Channel(SQS.Channel):
    """Receives by long polls; settles through the settlement thread."""

    #: Unfinished messages come back when their visibility ends: kombu would publish them again.
    do_restore = False
    #: kombu would wrap each body in base64: a third more bytes, and unreadable in a DLQ.
    body_encoding = "utf-8"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failures: dict[str, int] = {}
        self._waiting_for_slot: set[str] = set()

    @property
    def engine(self) -> Engine:
        engine: Engine = self.transport_options["engine"]
        return engine

    # --- receiving ---

    def asynsqs(self, queue: str | None = None) -> Connection:
        clients: dict[str | None, Connection] = self._predefined_queue_async_clients
        if queue not in clients:
            clients[queue] = Connection(sqs_connection=self.sqs(queue=queue), region=self.region)
        return clients[queue]

    def _schedule_queue(self, queue: str) -> None:
        if queue not in self._active_queues:
            return
        if self.engine.breaker.is_open:
            self.hub.call_later(BREAKER_PAUSE, self._schedule_queue, queue)
        elif not self.qos.can_consume():
            self._waiting_for_slot.add(queue)
        else:
            super()._schedule_queue(queue)

    def _slot_freed(self) -> None:
        waiting, self._waiting_for_slot = self._waiting_for_slot, set()
        for queue in waiting:
            self.hub.call_soon(self._schedule_queue, queue)

    def _loop1(self, queue: str, messages_fetched: int | None = None) -> None:
        """A poll has ended: when does the next one begin?"""
        failures = self._failures.get(queue, 0)
        if not failures:
            self.hub.call_soon(self._schedule_queue, queue)
            return
        pause = min(2.0**failures, MAX_PAUSE)
        # Jitter: a fleet of workers must not come back at one moment.
        self.hub.call_later(pause * random.uniform(0.5, 1), self._schedule_queue, queue)  # noqa: S311

    def _on_messages_ready(self, queue: str, qname: str, messages: Any) -> int:
        if isinstance(messages, ReceiveFailed):
            if not self._failures.get(qname):
                log.warning("SQS cannot be reached for queue %s: %s", qname, messages)
            self._failures[qname] = self._failures.get(qname, 0) + 1
            return 0
        if self._failures.pop(qname, 0):
            log.info("SQS answers again for queue %s", qname)
        received = messages.get("Messages") or []
        for message in received:
            try:
                super()._on_messages_ready(queue, qname, {"Messages": [message]})
            except Exception as error:  # noqa: BLE001 - one bad message must not end the worker
                self._refuse(queue, message, error)
        return len(received)

    def _refuse(self, queue_url: str, message: dict[str, Any], error: Exception) -> None:
        """A message that cannot become a task: SQS delivers it until it is a dead letter."""
        log.error(
            "message %s cannot be read",
            message.get("MessageId"),
            extra={"error_code": "BAD_MESSAGE", "error_message": type(error).__name__},
        )
        tag = message["ReceiptHandle"]
        if tag in self.qos._delivered:
            virtual.Channel.basic_reject(self, tag)
        self._hide(queue_url, tag, _receive_count(message))

    # --- settling ---

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        queue_url = self.qos.get(delivery_tag).delivery_info["sqs_queue"]
        within = self.engine.catalogue.by_url(queue_url).visibility_timeout
        self.engine.settlement.delete(queue_url, delivery_tag, within=within)
        virtual.Channel.basic_ack(self, delivery_tag, multiple)
        self._slot_freed()

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Neither deletes nor publishes: SQS delivers the message again, or dead-letters it."""
        message = self.qos.get(delivery_tag)
        sqs_message = message.delivery_info["sqs_message"]
        self._hide(
            message.delivery_info["sqs_queue"],
            delivery_tag,
            _receive_count(sqs_message),
            message.properties.get(Returned.PROPERTY),
        )
        # requeue=False: kombu's requeueing would publish a copy.
        virtual.Channel.basic_reject(self, delivery_tag, requeue=False)
        self._slot_freed()

    def basic_qos(self, *args: Any, **kwargs: Any) -> None:
        super().basic_qos(*args, **kwargs)
        self._slot_freed()

    def _hide(
        self, queue_url: str, tag: str, receive_count: int, returned: Returned | None = None
    ) -> None:
        queue = self.engine.catalogue.by_url(queue_url)
        seconds = self._delay(queue, receive_count, returned)
        if seconds is not None:
            self.engine.settlement.hide(queue_url, tag, seconds, within=queue.visibility_timeout)

    def _delay(self, queue: Queue, receive_count: int, returned: Returned | None) -> int | None:
        scale = self.engine.retry_scale
        if returned is None:  # it raised, was killed, or passed its hard time limit
            return queue.retry_delay(receive_count, scale=scale)
        return returned.delay(queue, receive_count, scale)


def _receive_count(sqs_message: dict[str, Any]) -> int:
    return int(sqs_message["Attributes"]["ApproximateReceiveCount"])


class Transport(SQS.Transport):
    Channel = Channel
