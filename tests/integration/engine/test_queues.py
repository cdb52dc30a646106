"""The queues of the catalogue on a real SQS, and how the publisher fills its calls."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from tasks.engine import publisher, queues
from tasks.engine.publisher import Publisher
from tests.integration.celery_app import receive


def attributes(made: Any, name: str) -> dict[str, str]:
    answer = made.sqs.get_queue_attributes(
        QueueUrl=made.catalogue.url(name), AttributeNames=["All"]
    )
    return dict(answer["Attributes"])


def assert_as_declared(made: Any) -> None:
    for queue in made.catalogue:
        found, letters = (attributes(made, name) for name in (queue.name, queue.dead_letter_queue))
        for each in (found, letters):
            assert each["VisibilityTimeout"] == str(queue.visibility_timeout)
            assert each["MessageRetentionPeriod"] == str(queue.retention_days * 86_400)
        redrive = json.loads(found["RedrivePolicy"])
        assert redrive["deadLetterTargetArn"] == letters["QueueArn"]
        assert int(redrive["maxReceiveCount"]) == queue.max_receive_count
        assert not letters.get("RedrivePolicy"), "a dead letter stays dead"


def test_queues_are_made_as_the_catalogue_declares_them(workers: ModuleType) -> None:
    assert_as_declared(workers.engine)


def test_making_them_again_changes_nothing_and_loses_nothing(workers: ModuleType) -> None:
    made = workers.engine
    made.sqs.send_message(QueueUrl=made.catalogue.url("gifts"), MessageBody="kept")
    queues.create(made.sqs, made.catalogue)
    assert_as_declared(made)
    assert [message["Body"] for message in receive(made)] == ["kept"]


def test_attributes_that_someone_changed_are_repaired(workers: ModuleType) -> None:
    made = workers.engine
    made.sqs.set_queue_attributes(
        QueueUrl=made.catalogue.url("gifts"),
        Attributes={"VisibilityTimeout": "7", "RedrivePolicy": ""},
    )
    made.sqs.set_queue_attributes(
        QueueUrl=made.catalogue.url("gifts-dlq"), Attributes={"MessageRetentionPeriod": "60"}
    )
    queues.create(made.sqs, made.catalogue)
    assert_as_declared(made)


def test_the_visible_depth_counts_what_a_receive_could_get(workers: ModuleType) -> None:
    made = workers.engine
    url = made.catalogue.url("gifts")
    assert queues.visible_depth(made.sqs, url) == 0
    for _ in range(3):
        made.sqs.send_message(QueueUrl=url, MessageBody="x")
    made.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1)
    assert queues.visible_depth(made.sqs, url) == 2


@dataclass(frozen=True)
class Promise:
    kwargs: dict[str, Any]
    queue: str = "gifts"
    task: str = "gifts.send"
    headers: dict[str, Any] = field(default_factory=dict)


def test_large_messages_share_fewer_calls_and_all_arrive(
    workers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = workers.engine
    calls: list[tuple[int, int]] = []
    send = made.sqs.send_message_batch

    def watched(**options: Any) -> Any:
        bodies = [entry["MessageBody"].encode() for entry in options["Entries"]]
        calls.append((len(bodies), sum(map(len, bodies))))
        return send(**options)

    monkeypatch.setattr(made.sqs, "send_message_batch", watched)
    promises = [Promise({"n": n, "text": "x" * 100_000}) for n in range(5)]
    promises += [Promise({"n": n}) for n in range(5, 30)]
    promises += [Promise({"n": n}, queue="maintenance") for n in range(30, 32)]
    handed_over = Publisher(workers.app, made.sqs)
    assert handed_over.publish(promises) == []
    handed_over.close()
    assert all(count <= publisher.MAX_ENTRIES for count, _ in calls)
    assert all(size <= publisher.MAX_BYTES for _, size in calls)
    # 2 + 2 large ones, the fifth with nine small ones, the other sixteen, and the other queue.
    assert sorted(count for count, _ in calls) == [2, 2, 2, 6, 10, 10]
    numbers = Counter(
        json.loads(json.loads(message["Body"])["body"])[1]["n"]
        for name in ("gifts", "maintenance")
        for message in receive(made, name)
    )
    assert numbers == Counter(range(32))


def test_what_a_queue_refuses_whole_does_not_touch_the_others(workers: ModuleType) -> None:
    made = workers.engine
    made.sqs.delete_queue(QueueUrl=made.catalogue.url("gifts"))
    try:
        handed_over = Publisher(workers.app, made.sqs)
        refused = handed_over.publish([Promise({}), Promise({}, queue="maintenance"), Promise({})])
        handed_over.close()
        assert sorted((each.index, each.whole_call) for each in refused) == [(0, True), (2, True)]
        assert len(receive(made, "maintenance")) == 1
    finally:
        queues.create(made.sqs, made.catalogue)
