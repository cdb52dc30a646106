"""Reads a dead-letter queue, and takes out of it only what it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from tasks.engine import intake
from tasks.engine.catalogue import Catalogue, Queue
from tasks.engine.queues import visible_depth

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds that read letters are hidden, so that one reading sees each of them once.
READING = 60
#: Letters of one look at a queue; the next look sees the others too.
MAX_LETTERS = 1_000
#: The most that SQS takes or gives in one call.
BATCH = 10


@dataclass(frozen=True)
class DeadMessage:
    """A message of a dead-letter queue. What cannot be read has neither task nor arguments."""

    message_id: str
    queue: str
    receive_count: int
    body: str
    task: str | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    traceparent: str | None = None


class Reading:
    """A look at a dead-letter queue. What is not deleted by its end is visible again."""

    def __init__(self, sqs: SQSClient, catalogue: Catalogue, queue: Queue) -> None:
        self._sqs = sqs
        self._url = catalogue.url(queue.dead_letter_queue)
        self._queue = queue
        self._handles: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for portion in _portions(list(self._handles.values())):
            self._sqs.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                    for number, handle in enumerate(portion)
                ],
            )

    def receive(self, at_most: int = BATCH, *, wait: int = 0) -> list[DeadMessage]:
        """The next letters, hidden from others for `READING` seconds.

        Args:
            wait: seconds. Without any, SQS asks only some of its servers, and may miss letters.
        """
        answer = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=min(at_most, BATCH),
            VisibilityTimeout=READING,
            WaitTimeSeconds=wait,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        messages = answer.get("Messages", [])
        self._handles |= {each["MessageId"]: each["ReceiptHandle"] for each in messages}
        return [_letter(self._queue, message) for message in messages]

    def delete(self, message_ids: Sequence[str]) -> set[str]:
        """Take letters of this reading out of the queue, for ever. Returns which SQS deleted."""
        deleted: set[str] = set()
        for portion in _portions(message_ids):
            answer = self._sqs.delete_message_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": self._handles[message_id]}
                    for number, message_id in enumerate(portion)
                ],
            )
            deleted |= {portion[int(each["Id"])] for each in answer.get("Successful", [])}
        for message_id in deleted:
            del self._handles[message_id]
        return deleted


def read(sqs: SQSClient, catalogue: Catalogue, queue: Queue) -> Iterator[list[DeadMessage]]:
    """The letters of a queue, ten at a time; an empty one costs one call.

    At the end, also an early one, the letters are visible again for whoever looks after them.
    """
    if visible_depth(sqs, catalogue.url(queue.dead_letter_queue)) == 0:
        return
    seen = 0
    with Reading(sqs, catalogue, queue) as reading:
        while seen < MAX_LETTERS and (messages := reading.receive()):
            seen += len(messages)
            yield messages


def _portions(entries: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(entries), BATCH):
        yield entries[start : start + BATCH]


def _letter(queue: Queue, message: Any) -> DeadMessage:
    said = intake.peek(message["Body"], queue.foreign_task)
    return DeadMessage(
        message_id=message["MessageId"],
        queue=queue.name,
        receive_count=int(message["Attributes"]["ApproximateReceiveCount"]),
        body=message["Body"],
        **(vars(said) if said else {}),
    )
