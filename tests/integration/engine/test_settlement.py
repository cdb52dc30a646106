"""The settlement thread against a real SQS, also one that freezes."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from okuru.stack.sqs import Sqs
from tasks.engine import queues, settlement, sqs
from tasks.engine.catalogue import Catalogue
from tasks.engine.settlement import Settlement
from tests.integration.celery_app import running_sqs

REGION = "ap-northeast-1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sqs]:
    with running_sqs(tmp_path_factory.mktemp("sqs")) as server:
        yield server


class Queue:
    """A queue with messages in it, and the thread that settles them."""

    def __init__(self, server: Sqs) -> None:
        # The test's own, as patient as it may be; the thread has the engine's.
        self.client = boto3.client("sqs", region_name=REGION, endpoint_url=server.url)
        self.catalogue = Catalogue.load(server.queue_url_prefix)
        queues.create(self.client, self.catalogue)
        self.url = self.catalogue.url("gifts")
        self.client.purge_queue(QueueUrl=self.url)
        self.calls: list[str] = []
        self.thread = Settlement(self._make_client)

    def _make_client(self) -> Any:
        client = sqs.client(REGION, endpoint_url=self.url.rsplit("/", 2)[0])
        client.meta.events.register(
            "before-call.sqs", lambda model, **_: self.calls.append(model.name)
        )
        return client

    def receive(self, count: int) -> list[str]:
        """Send messages and take them. Returns their receipt handles, oldest first."""
        for number in range(count):
            self.client.send_message(QueueUrl=self.url, MessageBody=str(number))
        handles = {}
        while len(handles) < count:
            answer = self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10)
            handles |= {each["Body"]: each["ReceiptHandle"] for each in answer["Messages"]}
        return [handles[str(number)] for number in range(count)]

    def visible(self) -> list[str]:
        found = []
        while answer := self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            found += [each["Body"] for each in answer]
        return sorted(found, key=int)

    def depth(self) -> tuple[int, int]:
        """(visible, hidden)"""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found: Any = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)
        return (int(found["Attributes"][names[0]]), int(found["Attributes"][names[1]]))


@pytest.fixture
def queue(server: Sqs) -> Iterator[Queue]:
    queue = Queue(server)
    yield queue
    queue.thread.close(5)


def wait_until(true: Callable[[], bool], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_delete_deletes(queue: Queue) -> None:
    [handle] = queue.receive(1)
    assert queue.depth() == (0, 1)
    queue.thread.delete(queue.url, handle, within=30)
    wait_until(lambda: queue.depth() == (0, 0))


def test_hidden_for_nothing_is_visible_at_once(queue: Queue) -> None:
    [handle] = queue.receive(1)
    queue.thread.hide(queue.url, handle, 0, within=30)
    wait_until(lambda: queue.depth() == (1, 0))
    assert queue.visible() == ["0"]


def test_hidden_for_a_while_comes_back_after_it(queue: Queue) -> None:
    """One second, and not the queue's thirty."""
    [handle] = queue.receive(1)
    queue.thread.hide(queue.url, handle, 1, within=30)
    wait_until(lambda: "ChangeMessageVisibilityBatch" in queue.calls)
    assert queue.visible() == []
    wait_until(lambda: queue.visible() == ["0"], within=10)


def test_a_mixed_batch_is_carried_out_in_few_calls(queue: Queue) -> None:
    handles = queue.receive(9)
    for handle in handles[:3]:
        queue.thread.delete(queue.url, handle, within=30)
    for handle, seconds in zip(handles[3:6], (0, 0, 600), strict=True):
        queue.thread.hide(queue.url, handle, seconds, within=30)
    for handle in handles[6:]:
        queue.thread.delete(queue.url, handle, within=30)
    queue.thread.close(10)
    assert queue.depth() == (2, 1)
    assert queue.visible() == ["3", "4"]
    assert queue.calls == [
        "DeleteMessageBatch", "ChangeMessageVisibilityBatch", "DeleteMessageBatch",
    ]  # fmt: skip


def test_orders_of_one_message_keep_their_order(queue: Queue) -> None:
    [handle] = queue.receive(1)
    queue.thread.hide(queue.url, handle, 600, within=30)
    queue.thread.delete(queue.url, handle, within=30)
    queue.thread.close(10)
    assert queue.depth() == (0, 0)


def test_a_call_takes_ten(queue: Queue) -> None:
    handles = queue.receive(25)
    for handle in handles:
        queue.thread.delete(queue.url, handle, within=30)
    queue.thread.close(10)
    assert queue.depth() == (0, 0)
    assert queue.calls == ["DeleteMessageBatch"] * 3


def test_a_handle_that_means_nothing_does_not_stop_the_others(queue: Queue) -> None:
    [handle] = queue.receive(1)
    queue.thread.delete(queue.url, "garbage", within=30)
    queue.thread.delete(queue.url, handle, within=30)
    queue.thread.close(10)
    assert not queue.thread.is_alive()
    assert queue.depth() == (0, 0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calls with the shortest patience."""
    monkeypatch.setitem(sqs.CLIENT_CONFIG, "read_timeout", 0.3)
    monkeypatch.setattr(settlement, "RETRY_EVERY", 0.1)


@pytest.mark.usefixtures("impatient")
def test_what_a_frozen_sqs_did_not_do_is_done_when_it_thaws(
    queue: Queue, server: Sqs, caplog: pytest.LogCaptureFixture
) -> None:
    handles = queue.receive(2)
    server.child.signal(signal.SIGSTOP)
    try:
        with caplog.at_level(logging.INFO):
            queue.thread.delete(queue.url, handles[0], within=60)
            queue.thread.hide(queue.url, handles[1], 0, within=60)
            wait_until(lambda: queue.calls.count("DeleteMessageBatch") >= 3)
            server.child.signal(signal.SIGCONT)
            wait_until(lambda: queue.depth() == (1, 0))
    finally:
        server.child.signal(signal.SIGCONT)
    queue.thread.close(10)
    said = [record.message for record in caplog.records if record.name == settlement.__name__]
    assert said[0].startswith("SQS does not settle messages")
    assert said[1] == "settling messages goes on"
    assert len(said) == 2, "once, and not at every try"


@pytest.mark.usefixtures("impatient")
def test_an_order_is_given_up_when_its_visibility_is_over(queue: Queue, server: Sqs) -> None:
    """SQS delivers the message again: the guards of the database find out."""
    [handle] = queue.receive(1)
    server.child.signal(signal.SIGSTOP)
    try:
        queue.thread.delete(queue.url, handle, within=0.5)
        wait_until(lambda: bool(queue.calls))
        queue.thread.close(10)
        assert not queue.thread.is_alive()
    finally:
        server.child.signal(signal.SIGCONT)


def test_closing_what_never_began_is_nothing() -> None:
    thread = Settlement(lambda: pytest.fail("no client is needed"))
    thread.close(1)
    assert not thread.is_alive()


def test_entries_that_sqs_failed_alone_are_tried_again_alone() -> None:
    """SQS does so only when it is ill itself: a stub says it here."""
    orders = [settlement.Order("url", str(number), None, 0) for number in range(4)]

    class Ill:
        def delete_message_batch(self, **_: object) -> dict[str, Any]:
            return {
                "Successful": [{"Id": "1"}],
                "Failed": [
                    {"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"},
                    {"Id": "2", "SenderFault": False, "Code": "InternalError"},
                ],
            }

    # The fourth stands in neither list: nobody says that it was done.
    assert settlement._call(Ill(), orders) == orders[2:]  # type: ignore[arg-type]
