"""The queues of the catalogue on SQS: makes them locally, compares and measures them anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from tasks.engine.catalogue import Catalogue, Queue

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: How SQS says that there is no such queue, in its two protocols.
MISSING = ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue")

NOTHING = "nothing"

# --- create -------------------------------------------------------------------------------------


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
        "SqsManagedSseEnabled": "true",
    }


# --- compare ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """One thing in which a queue of SQS is not as the catalogue declares it."""

    queue: str
    """As the catalogue calls it, dead-letter queues included."""
    attribute: str
    """As SQS calls it; "QueueUrl" when there is no such queue."""
    declared: str
    found: str

    def __str__(self) -> str:
        return f"{self.queue}: {self.attribute} is {self.found}, should be {self.declared}"


def differences(sqs: SQSClient, catalogue: Catalogue) -> list[Difference]:
    """Compare what SQS has with the catalogue. Changes nothing; two calls a queue.

    Raises:
        One of `SQS_ERRORS`: SQS did not answer, or will not say.
    """
    return [each for queue in catalogue for each in _differences(sqs, catalogue, queue)]


def _differences(sqs: SQSClient, catalogue: Catalogue, queue: Queue) -> Iterator[Difference]:
    live = _attributes(sqs, catalogue.url(queue.name))
    dead = _attributes(sqs, catalogue.url(queue.dead_letter_queue))
    for name, found in ((queue.name, live), (queue.dead_letter_queue, dead)):
        if found is None:
            yield Difference(name, "QueueUrl", catalogue.url(name), "no queue")
            continue
        retention = str(queue.retention_days * 86_400)
        yield from _compare(name, found, "MessageRetentionPeriod", retention)
        if found.get("SqsManagedSseEnabled") != "true" and not found.get("KmsMasterKeyId"):
            declared = "true, or a KmsMasterKeyId"
            yield Difference(
                name, "SqsManagedSseEnabled", declared, found.get("SqsManagedSseEnabled") or NOTHING
            )
    if live is not None:
        yield from _compare(queue.name, live, "VisibilityTimeout", str(queue.visibility_timeout))
        yield from _compare_redrive(queue, live, dead)
    if dead is not None and dead.get("RedrivePolicy"):
        # A dead letter stays dead.
        yield Difference(queue.dead_letter_queue, "RedrivePolicy", NOTHING, dead["RedrivePolicy"])


def _compare_redrive(
    queue: Queue, live: Mapping[str, str], dead: Mapping[str, str] | None
) -> Iterator[Difference]:
    receives = str(queue.max_receive_count)
    policy = _policy(live.get("RedrivePolicy"))
    if policy is None:
        declared = f"to {queue.dead_letter_queue} after {receives} receives"
        yield Difference(
            queue.name, "RedrivePolicy", declared, live.get("RedrivePolicy") or NOTHING
        )
        return
    if dead is not None:
        yield from _compare(queue.name, policy, "deadLetterTargetArn", dead["QueueArn"])
    yield from _compare(queue.name, policy, "maxReceiveCount", receives)


def _policy(text: str | None) -> dict[str, str] | None:
    try:
        policy = json.loads(text or "")
    except ValueError:
        return None
    if not isinstance(policy, dict) or "deadLetterTargetArn" not in policy:
        return None
    return {name: str(value) for name, value in policy.items()}  # AWS takes 5 and "5"


def _compare(
    name: str, found: Mapping[str, str], attribute: str, declared: str
) -> Iterator[Difference]:
    if found.get(attribute) != declared:
        yield Difference(name, attribute, declared, found.get(attribute) or NOTHING)


def _attributes(sqs: SQSClient, url: str) -> dict[str, str] | None:
    """All of a queue's attributes, or None if there is no such queue."""
    try:
        answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return {str(name): value for name, value in answer["Attributes"].items()}
    except ClientError as error:
        if error.response["Error"]["Code"] in MISSING:
            return None
        raise


# --- measure ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Depth:
    """How many messages a queue has. Approximate, as SQS says of it."""

    visible: int
    in_flight: int
    """Received and not yet settled, or hidden for a back-off."""
    delayed: int


def depth(sqs: SQSClient, url: str) -> Depth:
    """
    Raises:
        One of `SQS_ERRORS`: SQS did not answer, or there is no such queue.
    """
    names = [f"ApproximateNumberOfMessages{suffix}" for suffix in ("", "NotVisible", "Delayed")]
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)  # type: ignore[arg-type]
    return Depth(*(int(answer["Attributes"].get(name, 0)) for name in names))  # type: ignore[call-overload]


def visible_depth(sqs: SQSClient, url: str) -> int:
    """Messages that a receive could get now. Approximate, as SQS says of it."""
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])
