"""kombu's SQS transport, hardened: outages, bad messages, prefetch by queue, settlement off the
event loop.

What this overrides of kombu's private parts is asserted by tests/unit/engine/test_overrides.py.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

import click
from kombu.asynchronous.aws.connection import AsyncHTTPSConnection
from kombu.asynchronous.aws.sqs.connection import AsyncSQSConnection
from kombu.transport import SQS, virtual
from vine import promise

from tasks.engine import failures, intake
from tasks.engine.application import Cause
from tasks.engine.catalogue import Queue
from tasks.engine.turns import Turns
from tasks.engine.verdict import DONE, Returned, Settle

if TYPE_CHECKING:
    from tasks.engine.engine import Engine

log = logging.getLogger(__name__)

#: Seconds above a poll's wait, or every empty one would end as a timeout.
RECEIVE_MARGIN = 5.0
#: The longest pause between two tries while SQS cannot be reached.
MAX_PAUSE = 30.0
#: Seconds for which a queue of long tasks that had no message is not asked again.
DRY_FOR = 1.0
#: No poll is open as long as this.
LONGEST_POLL = 60.0
#: How often a worker that receives nothing for now looks whether it may again.
ENGINE_PAUSE = 0.5
#: The most messages that SQS gives in one answer.
MAX_MESSAGES = 10


class ReceiveFailed(Exception):
    """What a receive brought instead of messages."""


class Connection(AsyncSQSConnection):
    """Hands failures on. kombu turns some into an empty answer and lets others end the worker."""

    #: Seconds that the next call may take.
    timeout = RECEIVE_MARGIN

    def get_http_connection(self) -> AsyncHTTPSConnection:
        return AsyncHTTPSConnection(http_client=self._httpclient, timeout=self.timeout)

    def _on_list_ready(self, parent: Any, markers: Any, operation: str, response: Any) -> Any:
        if response.status != self.STATUS_CODE_OK:
            return ReceiveFailed(f"HTTP {response.status}")
        if not response.read().lstrip().startswith(b"{"):
            # A proxy's page: botocore would take it for an answer without messages.
            return ReceiveFailed("the answer is not SQS's")
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
        #: When each open poll began, monotonic.
        self._polling: dict[str, float] = {}
        self._holding: Counter[str] = Counter()
        # Of queues of long tasks, which share the processes:
        self._turns = Turns({queue.name: queue.weight for queue in self.engine.catalogue})
        #: What the open short polls ask for. Room is reserved for it.
        self._asked: dict[str, int] = {}
        self._dry_until: dict[str, float] = {}
        #: Queues that failed, until they are tried again.
        self._pausing: set[str] = set()

    @property
    def engine(self) -> Engine:
        engine: Engine = self.transport_options["engine"]
        return engine

    @property
    def open_polls(self) -> int:
        return len(self._polling)

    @property
    def is_consuming(self) -> bool:
        """Whether each queue is polled, or has a good reason not to be."""
        return all(self._is_consumed(queue) for queue in self._active_queues)

    def _is_consumed(self, queue: str) -> bool:
        if (began := self._polling.get(queue)) is not None:
            return time.monotonic() - began < LONGEST_POLL
        if queue in self._waiting_for_slot:
            return self._holding.total() > 0
        return queue in self._pausing or self.engine.is_pausing

    # --- receiving ---

    def asynsqs(self, queue: str | None = None) -> Connection:
        clients: dict[str | None, Connection] = self._predefined_queue_async_clients
        if queue not in clients:
            clients[queue] = Connection(
                sqs_connection=self.sqs(queue=queue),
                region=self.region,
            )
        return clients[queue]

    def _get_from_sqs(
        self,
        queue_name: str,
        queue_url: str,
        connection: Connection,
        count: int = 1,
        callback: Any = None,
    ) -> Any:
        """kombu knows one wait for all polls."""
        wait = 0 if queue_name in self._asked else self.engine.poll_wait
        # A short poll that hangs keeps its room from other queues: not for as long as a long one.
        connection.timeout = wait + RECEIVE_MARGIN
        return connection.receive_message(
            queue_name,
            queue_url,
            number_messages=count,
            wait_time_seconds=wait,
            callback=callback,
        )

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        if no_ack:
            raise ValueError(f"queue {queue}: without acknowledgement a crash loses messages")
        self.engine.channels.add(self)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _schedule_queue(self, queue: str) -> None:
        """Begin a poll, if there is room for what it brings. One at a time for each queue."""
        if queue not in self._active_queues or queue in self._polling or self.engine.is_stopping:
            return
        if self.engine.is_pausing:
            self.hub.call_later(ENGINE_PAUSE, self._schedule_queue, queue)
        elif self._is_shared(queue):
            self._take_turns()
        elif room := self._room(queue):
            self._poll_queue(queue, room)
        else:
            self._waiting_for_slot.add(queue)

    def _poll_queue(self, queue: str, count: int) -> None:
        self._polling[queue] = time.monotonic()
        try:
            self._get_async(queue, count, callback=promise(self._loop1, (queue,)))
        except Exception as error:  # noqa: BLE001 - such as credentials that cannot be had
            self._on_messages_ready(queue, queue, ReceiveFailed(type(error).__name__))
            self._loop1(queue)

    def _room(self, name: str) -> int:
        """How many messages of a queue of short tasks to ask for; 0 while it is not worth a call.

        It is asked when a whole answer fits, or when a process would run dry.
        """
        limit = self._processes * self.engine.catalogue[name].prefetch
        worth_a_call = max(1, min(MAX_MESSAGES, limit - self._processes))
        room = limit - self._holding[name]
        return min(room, MAX_MESSAGES) if room >= worth_a_call else 0

    @property
    def _processes(self) -> int:
        return self.qos.prefetch_count or 1

    # A long task's message must not wait here while another worker is idle: the queues of such
    # tasks share the processes, and no more is asked for than there are free ones.

    def _is_shared(self, name: str) -> bool:
        return self.engine.catalogue[name].prefetch == 1

    def _free_processes(self) -> int:
        """Below 0 when the pool has shrunk, or when several long polls came back at once."""
        held = sum(count for name, count in self._holding.items() if self._is_shared(name))
        return self._processes - held

    def _take_turns(self) -> None:
        """Ask the queues of long tasks, one after the other: short polls, while any may have more.

        Long polls would keep the room reserved for queues that are empty; without a reservation,
        a backlog on several queues would bring more than fits each time a process is free. So
        long polls are for the time when no queue has anything: then they bring the next message
        at once, and rarely several at one moment.
        """
        names = [name for name in self._active_queues if self._is_shared(name)]
        while (room := self._free_processes() - sum(self._asked.values())) > 0:
            room = min(room, MAX_MESSAGES)
            wet = [name for name in names if not self._is_dry(name)]
            if not wet:
                for name in names:
                    if name not in self._polling and name not in self._pausing:
                        self._poll_queue(name, room)
                return
            askable = [name for name in wet if name not in self._polling]
            if not askable:
                break
            chosen = self._turns.next(askable)
            self._asked[chosen] = room
            self._poll_queue(chosen, room)
        self._waiting_for_slot.update(names)

    def _is_dry(self, name: str) -> bool:
        """Whether a short poll would bring nothing, as far as is known.

        An open long poll brings by itself what comes; while a queue pauses, nothing does.
        """
        is_long_polled = name in self._polling and name not in self._asked
        lately = time.monotonic() < self._dry_until.get(name, 0)
        return is_long_polled or name in self._pausing or lately

    def _slot_freed(self) -> None:
        waiting, self._waiting_for_slot = self._waiting_for_slot, set()
        for queue in waiting:
            self.hub.call_soon(self._schedule_queue, queue)

    def _loop1(self, queue: str, messages_fetched: int | None = None) -> None:
        """A poll has ended: when does the next one begin?"""
        self._polling.pop(queue, None)
        if self._asked.pop(queue, 0):
            self._slot_freed()
        failures_so_far = self._failures.get(queue, 0)
        if not failures_so_far:
            self.hub.call_soon(self._schedule_queue, queue)
            return
        pause = min(2.0**failures_so_far, MAX_PAUSE)
        self._pausing.add(queue)
        # Jitter: a fleet of workers must not come back at one moment.
        self.hub.call_later(pause * random.uniform(0.5, 1), self._resume, queue)  # noqa: S311

    def _resume(self, queue: str) -> None:
        """The pause of a queue that failed is over."""
        self._pausing.discard(queue)
        self._schedule_queue(queue)

    def _on_messages_ready(self, queue: str, qname: str, messages: Any) -> int:
        if isinstance(messages, ReceiveFailed):
            if not self._failures.get(qname):
                log.warning("SQS cannot be reached for queue %s: %s", qname, messages)
            self._failures[qname] = self._failures.get(qname, 0) + 1
            return 0
        if self._failures.pop(qname, 0):
            log.info("SQS answers again for queue %s", qname)
        received = (messages or {}).get("Messages") or []
        self._dry_until[qname] = 0 if received else time.monotonic() + DRY_FOR
        for message in received:
            self._take(queue, qname, message)
        return len(received)

    def _take(self, queue_url: str, name: str, message: dict[str, Any]) -> None:
        queue = self.engine.catalogue[name]
        tag = message["ReceiptHandle"]
        full = self._is_shared(name) and self._free_processes() <= 0
        if full or self.engine.is_stopping or name not in self.connection._callbacks:
            # Several long polls came back at once, or one late: another worker may have it now.
            self.engine.settlement.hide(queue_url, tag, 0, within=queue.visibility_timeout)
            return
        self.engine.hold(tag, queue, queue_url)
        self._holding[name] += 1
        try:
            super()._on_messages_ready(queue_url, name, {"Messages": [message]})
        except Exception as error:  # noqa: BLE001 - one bad message must not end the worker
            self._refuse(queue, queue_url, message, error)

    def _message_to_python(
        self, message: dict[str, Any], queue_name: str, q_url: str
    ) -> dict[str, Any]:
        queue = self.engine.catalogue[queue_name]
        if queue.foreign_task:
            envelope = intake.foreign_message(
                message["Body"], queue.foreign_task, message["MessageId"]
            )
        else:
            envelope = intake.celery_message(
                message["Body"], self.engine.application.context_headers
            )
        envelope["properties"] |= {
            "delivery_tag": message["ReceiptHandle"],
            "delivery_info": {
                "exchange": "",
                "routing_key": queue_name,
                "sqs_message": message,
                "sqs_queue": q_url,
            },
        }
        return envelope

    def _refuse(
        self, queue: Queue, queue_url: str, message: dict[str, Any], error: Exception
    ) -> None:
        """A message that cannot become a task: SQS delivers it until it is a dead letter."""
        reason = str(error) if isinstance(error, intake.BadMessage) else type(error).__name__
        log.error(
            "message %s cannot be read",
            message.get("MessageId"),
            extra={"error_code": Cause.BAD_MESSAGE, "error_message": reason},
        )
        tag = message["ReceiptHandle"]
        self._let_go(tag, queue)
        failed = failures.failure(Cause.BAD_MESSAGE, reason, queue, message, self.engine.hostname)
        self.engine.recorder.record(failed, queue, queue_url, tag)

    # --- settling ---

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:
        """Delete a message whose task has succeeded. Whoever else acknowledges one rejects it."""
        message = self.qos.get(delivery_tag)
        if DONE not in message.properties:
            self.basic_reject(delivery_tag)
            return
        queue_url = message.delivery_info["sqs_queue"]
        queue = self.engine.catalogue.by_url(queue_url)
        self.engine.settlement.delete(queue_url, delivery_tag, within=queue.visibility_timeout)
        self._let_go(delivery_tag, queue)

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Neither deletes nor publishes: SQS delivers the message again, or dead-letters it."""
        message = self.qos.get(delivery_tag)
        queue_url = message.delivery_info["sqs_queue"]
        queue = self.engine.catalogue.by_url(queue_url)
        failed = message.properties.get(failures.PROPERTY)
        if failed is not None:
            self.engine.recorder.record(failed, queue, queue_url, delivery_tag)
        else:
            returned = message.properties.get(Returned.PROPERTY) or Returned(Settle.RETRY)
            receive_count = _receive_count(message.delivery_info["sqs_message"])
            seconds = returned.delay(queue, receive_count, self.engine.retry_scale)
            if seconds is None:
                self.engine.settlement.leave(delivery_tag)
            else:
                self.engine.settlement.hide(
                    queue_url, delivery_tag, seconds, within=queue.visibility_timeout
                )
        self._let_go(delivery_tag, queue)

    def _let_go(self, delivery_tag: str, queue: Queue) -> None:
        """It is no longer counted, and its slot is free."""
        if delivery_tag in self.qos._delivered:
            # requeue=False: kombu's requeueing would publish a copy.
            virtual.Channel.basic_reject(self, delivery_tag, requeue=False)
        self._holding[queue.name] -= 1
        self._slot_freed()

    def basic_qos(self, *args: Any, **kwargs: Any) -> None:
        super().basic_qos(*args, **kwargs)
        self._slot_freed()

    def _size(self, queue: str) -> int:
        return 0  # kombu asks SQS when a consumer begins, and would let an outage end the worker

    def _purge(self, queue: str) -> NoReturn:
        raise click.ClickException(
            f"purging {queue} would delete tasks that never ran. Stop their producers, or discard "
            "dead letters one by one"
        )


def _receive_count(sqs_message: dict[str, Any]) -> int:
    return int(sqs_message["Attributes"]["ApproximateReceiveCount"])


class Transport(SQS.Transport):
    Channel = Channel
