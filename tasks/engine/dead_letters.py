"""Reads a dead-letter queue without taking anything out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tasks.engine.catalogue import Catalogue, Queue
from tasks.engine.queues import visible_depth

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: Seconds that read letters are hidden, so that one reading sees each of them once.
READING = 60
#: Letters of one reading; the next one sees the others too.
MAX_LETTERS = 1_000


@dataclass(frozen=True)
class DeadMessage:
    """A message of a dead-letter queue. What is not Celery's has neither task nor kwargs."""

    message_id: str
    queue: str
    receive_count: int
    body: str
    task: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


def read(sqs: SQSClient, catalogue: Catalogue, queue: Queue) -> Iterator[list[DeadMessage]]:
    """The letters of a queue, ten at a time; an empty one costs one call.

    At the end, also an early one, the letters are visible again for whoever looks after them.
    """
    url = catalogue.url(queue.dead_letter_queue)
    if visible_depth(sqs, url) == 0:
        return
    handles: list[str] = []
    try:
        while len(handles) < MAX_LETTERS:
            answer = sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=10,
                VisibilityTimeout=READING,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
            messages = answer.get("Messages", [])
            if not messages:
                return
            handles += [message["ReceiptHandle"] for message in messages]
            yield [_parse(queue.name, message) for message in messages]
    finally:
        for start in range(0, len(handles), 10):
            sqs.change_message_visibility_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                    for number, handle in enumerate(handles[start : start + 10])
                ],
            )


def _parse(queue: str, message: Any) -> DeadMessage:
    known = {
        "message_id": message["MessageId"],
        "queue": queue,
        "receive_count": int(message["Attributes"]["ApproximateReceiveCount"]),
        "body": message["Body"],
    }
    try:
        envelope = json.loads(message["Body"])
        _args, kwargs, _embed = json.loads(envelope["body"])
        task = envelope["headers"]["task"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return DeadMessage(**known)
    # JSON may escape what no database keeps as text: NUL, half a surrogate pair.
    if not isinstance(kwargs, dict) or not isinstance(task, str) or not task.isprintable():
        return DeadMessage(**known)
    return DeadMessage(**known, task=task[:200], kwargs=kwargs)
