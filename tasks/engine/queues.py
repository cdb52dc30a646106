"""Makes the queues of the catalogue where Terraform does not: on a local SQS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tasks.engine.catalogue import Catalogue, Queue

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient


def create(sqs: SQSClient, catalogue: Catalogue) -> None:
    """Make each queue and its dead-letter queue; those that exist get the catalogue's settings."""
    for queue in catalogue:
        dead_letters = _create(sqs, catalogue, queue.dead_letter_queue, _common(queue))
        arn = sqs.get_queue_attributes(QueueUrl=dead_letters, AttributeNames=["QueueArn"])
        redrive = {
            "deadLetterTargetArn": arn["Attributes"]["QueueArn"],
            "maxReceiveCount": queue.max_receive_count,
        }
        _create(
            sqs, catalogue, queue.name, {**_common(queue), "RedrivePolicy": json.dumps(redrive)}
        )


def _create(sqs: SQSClient, catalogue: Catalogue, name: str, attributes: dict[str, str]) -> str:
    # Creating a queue again with other attributes is an error: create it plain, then set them.
    sqs_name = catalogue.url(name).rsplit("/", 1)[-1]
    url = sqs.create_queue(QueueName=sqs_name)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)  # type: ignore[arg-type]
    return url


def _common(queue: Queue) -> dict[str, str]:
    return {
        "VisibilityTimeout": str(queue.visibility_timeout),
        "MessageRetentionPeriod": str(queue.retention_days * 86_400),
    }


def visible_depth(sqs: SQSClient, url: str) -> int:
    """Messages that a receive could get now. Approximate, as SQS says of it."""
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])
