"""Publishes many tasks in few calls, each encoded by Celery and kombu themselves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from celery import Celery
from kombu import Connection, Producer
from kombu.utils.json import dumps

from tasks.engine.sqs import SQS_ERRORS
from tasks.engine.transport import Channel, Transport

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

    from tasks.engine.engine import Engine

#: What SQS takes in one call: entries, and bytes of all bodies together.
MAX_ENTRIES = 10
MAX_BYTES = 256 * 1024
#: Calls at once.
PARALLEL = 8


class Promise(Protocol):
    """A task to be published."""

    @property
    def queue(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def kwargs(self) -> Mapping[str, Any]: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Refused:
    """A promise that SQS did not take, or may not have taken."""

    index: int
    error: str
    whole_call: bool
    """Whether the call failed, and not this entry of it: the queue needs a rest."""


class Publisher:
    def __init__(self, app: Celery, sqs: SQSClient) -> None:
        self._app = app
        self._sqs = sqs
        self._engine: Engine = app.engine
        self._pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="publish")
        self._encoder = _Encoder(app)

    def publish(self, promises: Sequence[Promise]) -> list[Refused]:
        """Send every promise to its queue. Returns those that SQS did not take."""
        refused: list[Refused] = []
        bodies: dict[int, str] = {}
        for index, promise in enumerate(promises):
            try:
                bodies[index] = self._encoder.encode(promise)
            except Exception as error:  # noqa: BLE001 - one bad row must not stop those behind it
                refused.append(Refused(index, type(error).__name__, False))
        calls = list(_calls(promises, bodies))
        refused += [each for answer in self._pool.map(self._send, calls) for each in answer]
        return refused

    def close(self) -> None:
        self._pool.shutdown()

    def _send(self, call: _Call) -> list[Refused]:
        entries: list[Any] = [
            {"Id": str(index), "MessageBody": body} for index, body in call.entries
        ]
        try:
            answer = self._sqs.send_message_batch(
                QueueUrl=self._engine.catalogue.url(call.queue), Entries=entries
            )
        except SQS_ERRORS as error:
            return [Refused(index, type(error).__name__, True) for index, _ in call.entries]
        taken = {int(each["Id"]) for each in answer.get("Successful", [])}
        failed = {int(each["Id"]): each["Code"] for each in answer.get("Failed", [])}
        return [
            Refused(index, failed.get(index, "NoAnswer"), index not in failed)
            for index, _ in call.entries
            if index not in taken
        ]


@dataclass
class _Call:
    queue: str
    entries: list[tuple[int, str]]
    size: int


def _calls(promises: Sequence[Promise], bodies: Mapping[int, str]) -> Iterator[_Call]:
    """As few calls as SQS's limits allow."""
    filling: dict[str, _Call] = {}
    for index, body in bodies.items():
        queue = promises[index].queue
        size = len(body.encode())
        call = filling.get(queue)
        if call and (len(call.entries) == MAX_ENTRIES or call.size + size > MAX_BYTES):
            yield filling.pop(queue)
            call = None
        if call is None:
            call = filling[queue] = _Call(queue, [], 0)
        call.entries.append((index, body))
        call.size += size
    yield from filling.values()


class _CapturingChannel(Channel):
    """Keeps the message that kombu would have sent."""

    captured: str

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        self.captured = dumps(message)


class _CapturingTransport(Transport):
    Channel = _CapturingChannel


class _Encoder:
    """A task as Celery's producer would have written it, without its calls to SQS."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        connection = Connection(
            "sqs://",
            transport=_CapturingTransport,
            transport_options=app.conf.broker_transport_options,
        )
        self._channel: _CapturingChannel = connection.channel()
        self._producer = Producer(self._channel, auto_declare=False)

    def encode(self, promise: Promise) -> str:
        message = self._app.amqp.as_task_v2(
            str(uuid.uuid4()),
            promise.task,
            kwargs=promise.kwargs,
            ignore_result=True,
            # Only for people who look at a worker: the arguments, a second time, in each message.
            argsrepr="",
            kwargsrepr="",
        )
        self._producer.publish(
            message.body,
            exchange="",
            routing_key=promise.queue,
            headers={**message.headers, **promise.headers},
            serializer="json",
            delivery_mode=2,
            **message.properties,
        )
        return self._channel.captured
