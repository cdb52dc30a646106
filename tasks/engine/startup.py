"""What a worker checks before it takes its first message."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from celery import Celery

from tasks.engine.catalogue import Catalogue, Queue
from tasks.engine.sqs import SQS_ERRORS

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger(__name__)

#: What each task must be, and why.
FLAGS = {
    "acks_late": (True, "a crash would lose its message"),
    "acks_on_failure": (False, "a failure would delete its message"),
    "acks_on_timeout": (False, "a time limit would delete its message"),
    "acks_on_failure_or_timeout": (False, "it is the old name of both"),
    "reject_on_worker_lost": (True, "a killed process would delete its message"),
    "retry_on_worker_lost": (False, "it would publish a new message"),
    "ignore_result": (True, "there is no result backend"),
}


class Refused(Exception):
    """The worker cannot start. The message says what to change."""


def check_tasks(app: Celery) -> None:
    """
    Raises:
        Refused: a task would lose messages.
    """
    # Celery's own could be asked for by any message, and would run tasks of its choice.
    for name in [name for name in app.tasks if name.startswith("celery.")]:
        app.tasks.unregister(name)
    problems = [
        f"  {task.name}: {flag} must be {wanted}: {why}"
        for task in app.tasks.values()
        for flag, (wanted, why) in FLAGS.items()
        if bool(getattr(task, flag, wanted)) is not wanted
    ]
    if problems:
        raise Refused("\n".join(["these tasks would lose messages:", *sorted(problems)]))


def check_queues(sqs: SQSClient, catalogue: Catalogue, names: Any) -> None:
    """Ask SQS whether each queue has its redrive policy: without one, nothing ends.

    An SQS that does not answer, or a queue that is missing, is an outage, and no reason to refuse.

    Raises:
        Refused: SQS says that a queue has none.
    """
    missing = [name for name in names if not _may_redrive(sqs, catalogue, catalogue[name])]
    if missing:
        raise Refused(
            f"these queues have no redrive policy: {', '.join(missing)}. A message that always "
            "fails would be delivered for ever. `okuru queues check` names every difference"
        )


def _may_redrive(sqs: SQSClient, catalogue: Catalogue, queue: Queue) -> bool:
    try:
        answer = sqs.get_queue_attributes(
            QueueUrl=catalogue.url(queue.name), AttributeNames=["QueueArn", "RedrivePolicy"]
        )
        attributes = answer["Attributes"]
        attributes["QueueArn"]  # what every queue has: the answer is one
        return "deadLetterTargetArn" in json.loads(attributes.get("RedrivePolicy", "{}"))
    except (*SQS_ERRORS, KeyError, ValueError) as error:
        log.warning("queue %s could not be checked: %s", queue.name, type(error).__name__)
        return True
