"""The bare loop doing the real work: the same service, the same database, no Celery."""

import json
import os
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import boto3

from app import db
from app.config import Settings
from app.gifts import service
from app.gifts.senders.choose import from_settings
from app.observability import context, logs
from tests.load.contenders import asked


@dataclass(frozen=True)
class Delivery:
    message_id: str
    receive_count: int
    last_receive: bool
    worker: str
    retry_delay: float = 0.0


def work() -> None:
    for _ in range(asked.PROCESSES - 1):
        if os.fork() == 0:
            break
    settings = Settings.from_env()
    logs.configure(service="worker", level=settings.log_level, style=settings.log_format)
    db.configure(settings, db.WORKER)
    sender = from_settings(settings)
    sqs = boto3.client("sqs", region_name=asked.REGION)
    while True:
        answer = sqs.receive_message(
            QueueUrl=asked.QUEUE_URL,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        done = [message for message in answer.get("Messages", []) if _send(message, sender)]
        if done:
            sqs.delete_message_batch(
                QueueUrl=asked.QUEUE_URL,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(done)
                ],
            )


def _send(message: Any, sender: Any) -> bool:
    """Whether the message is to be deleted."""
    envelope = json.loads(message["Body"])
    _args, kwargs, _embed = json.loads(envelope["body"])
    receive_count = int(message["Attributes"]["ApproximateReceiveCount"])
    delivery = Delivery(
        message["MessageId"], receive_count, receive_count >= 5, f"loop:{os.getpid()}"
    )
    with context.bound(task_id=envelope["headers"]["id"], request_id=kwargs["request_id"]):
        verdict = service.send(UUID(kwargs["gift_id"]), kwargs["send_no"], delivery, sender)
    return verdict.settle == service.delivery.Settle.DELETE


if __name__ == "__main__":
    work()
