"""The queues of the catalogue on a real SQS, and how the publisher fills its calls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from tasks.engine import publisher, queues, sqs
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
            assert each["SqsManagedSseEnabled"] == "true"
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


# --- differences --------------------------------------------------------------------------------


def test_what_create_made_has_no_differences(workers: ModuleType) -> None:
    made = workers.engine
    assert queues.differences(made.sqs, made.catalogue) == []


def arn(made: Any, name: str) -> str:
    return attributes(made, name)["QueueArn"]


#: (queue, what somebody set, what is named)
CHANGES = [
    ("gifts", {"VisibilityTimeout": "7"}, ("VisibilityTimeout", "30", "7")),
    ("gifts", {"MessageRetentionPeriod": "60"}, ("MessageRetentionPeriod", "1209600", "60")),
    ("gifts-dlq", {"MessageRetentionPeriod": "60"}, ("MessageRetentionPeriod", "1209600", "60")),
    (
        "gifts",
        {"RedrivePolicy": ""},
        ("RedrivePolicy", "to gifts-dlq after 5 receives", "nothing"),
    ),
    (
        "gifts",
        {"SqsManagedSseEnabled": "false"},
        ("SqsManagedSseEnabled", "true, or a KmsMasterKeyId", "false"),
    ),
    (
        "maintenance-dlq",
        {"SqsManagedSseEnabled": "false"},
        ("SqsManagedSseEnabled", "true, or a KmsMasterKeyId", "false"),
    ),
]


@pytest.fixture
def repaired(workers: ModuleType) -> Iterator[Any]:
    """The engine; its queues are as declared again afterwards."""
    made = workers.engine
    yield made
    for queue in made.catalogue:
        for name in (queue.name, queue.dead_letter_queue):
            made.sqs.delete_queue(QueueUrl=made.catalogue.url(name))
    queues.create(made.sqs, made.catalogue)


def change(made: Any, name: str, values: dict[str, str]) -> None:
    made.sqs.set_queue_attributes(QueueUrl=made.catalogue.url(name), Attributes=values)


@pytest.mark.parametrize(("name", "values", "named"), CHANGES)
def test_each_difference_is_named(
    repaired: Any, name: str, values: dict[str, str], named: tuple[str, str, str]
) -> None:
    change(repaired, name, values)
    [found] = queues.differences(repaired.sqs, repaired.catalogue)
    assert (found.queue, found.attribute, found.declared, found.found) == (name, *named)
    assert str(found) == f"{name}: {named[0]} is {named[2]}, should be {named[1]}"


def test_all_differences_are_named_at_once(repaired: Any) -> None:
    for name, values, _ in CHANGES:
        change(repaired, name, values)
    found = queues.differences(repaired.sqs, repaired.catalogue)
    assert {(each.queue, each.attribute) for each in found} == {
        (name, named[0]) for name, _, named in CHANGES
    }


def test_a_redrive_policy_is_compared_by_what_it_says(repaired: Any) -> None:
    """AWS answers with numbers or their text, as they were set."""
    policy = {"deadLetterTargetArn": arn(repaired, "gifts-dlq"), "maxReceiveCount": "5"}
    change(repaired, "gifts", {"RedrivePolicy": json.dumps(policy)})
    assert queues.differences(repaired.sqs, repaired.catalogue) == []

    policy = {"deadLetterTargetArn": arn(repaired, "maintenance-dlq"), "maxReceiveCount": 3}
    change(repaired, "gifts", {"RedrivePolicy": json.dumps(policy)})
    found = queues.differences(repaired.sqs, repaired.catalogue)
    assert {(each.attribute, each.declared, each.found) for each in found} == {
        ("deadLetterTargetArn", arn(repaired, "gifts-dlq"), arn(repaired, "maintenance-dlq")),
        ("maxReceiveCount", "5", "3"),
    }


def test_a_key_of_ones_own_encrypts_too(repaired: Any) -> None:
    change(repaired, "gifts", {"SqsManagedSseEnabled": "false", "KmsMasterKeyId": "alias/aws/sqs"})
    assert queues.differences(repaired.sqs, repaired.catalogue) == []


def test_a_dead_letter_queue_has_no_redrive_policy_of_its_own(repaired: Any) -> None:
    policy = {"deadLetterTargetArn": arn(repaired, "maintenance-dlq"), "maxReceiveCount": 3}
    change(repaired, "gifts-dlq", {"RedrivePolicy": json.dumps(policy)})
    [found] = queues.differences(repaired.sqs, repaired.catalogue)
    assert (found.queue, found.attribute) == ("gifts-dlq", "RedrivePolicy")


@pytest.mark.parametrize("name", ["gifts", "gifts-dlq"])
def test_a_queue_that_is_missing_is_a_difference(repaired: Any, name: str) -> None:
    repaired.sqs.delete_queue(QueueUrl=repaired.catalogue.url(name))
    try:
        [found] = queues.differences(repaired.sqs, repaired.catalogue)
        assert (found.queue, found.attribute, found.found) == (name, "QueueUrl", "no queue")
    finally:
        queues.create(repaired.sqs, repaired.catalogue)


def test_an_sqs_that_does_not_answer_is_no_difference(workers: ModuleType) -> None:
    nowhere = sqs.client("ap-northeast-1", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(sqs.SQS_ERRORS):
        queues.differences(nowhere, workers.engine.catalogue)


# --- depth --------------------------------------------------------------------------------------


def test_the_depth_tells_the_visible_from_the_hidden(workers: ModuleType) -> None:
    made = workers.engine
    url = made.catalogue.url("gifts")
    for _ in range(4):
        made.sqs.send_message(QueueUrl=url, MessageBody="x")
    made.sqs.send_message(QueueUrl=url, MessageBody="x", DelaySeconds=900)
    made.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1)
    assert queues.depth(made.sqs, url) == queues.Depth(visible=3, in_flight=1, delayed=1)


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
