"""The channel by itself: what it does with failed receives, bad messages, acks and rejects."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import click
import pytest
from kombu import Connection as KombuConnection

from tasks.engine.application import Failure
from tasks.engine.catalogue import Catalogue, Queue
from tasks.engine.transport import (
    ENGINE_PAUSE,
    LONGEST_POLL,
    MAX_PAUSE,
    Channel,
    Connection,
    ReceiveFailed,
    Transport,
)
from tasks.engine.verdict import DONE, Returned
from tasks.engine.visibility import Held

CATALOGUE = Catalogue.load("http://127.0.0.1:1/000000000000/unit-")
URL = CATALOGUE.url("gifts")


class Hub:
    """Remembers what it is asked to do, and when."""

    def __init__(self) -> None:
        self.soon: list[tuple[Any, ...]] = []
        self.later: list[tuple[float, Any]] = []

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self.soon.append((callback.__name__, *args))

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        self.later.append((delay, (callback.__name__, *args)))


class Orders:
    """In place of the settlement thread, which has its own tests with a real SQS."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.hidden: list[tuple[str, int]] = []
        self.left: list[str] = []
        self.failed: list[tuple[str, str, int]] = []
        self.queue = URL, 30

    def delete(self, url: str, handle: str, *, within: float) -> None:
        assert (url, within) == self.queue
        self.deleted.append(handle)

    def hide(self, url: str, handle: str, seconds: int, *, within: float) -> None:
        assert (url, within) == self.queue
        self.hidden.append((handle, seconds))

    def leave(self, handle: str) -> None:
        self.left.append(handle)

    def record(self, failed: Failure, _queue: Queue, url: str, handle: str) -> None:
        """In place of the recorder."""
        assert url == URL
        self.failed.append((handle, failed.cause, failed.receive_count))


@pytest.fixture
def orders() -> Orders:
    return Orders()


@pytest.fixture
def received() -> list[Any]:
    return []


@pytest.fixture
def channel(orders: Orders, received: list[Any]) -> Iterator[Channel]:
    """With a consumer of `gifts` in a worker of two processes."""
    channel = make_channel(CATALOGUE, orders)
    channel.polls = []
    channel._get_async = lambda queue, count, callback: channel.polls.append((queue, count))
    channel.basic_qos(0, 2, False)
    channel.basic_consume("gifts", no_ack=False, callback=received.append, consumer_tag="gifts")
    channel.hub.soon.clear()
    yield channel
    channel.close()


def make_channel(catalogue: Catalogue, orders: Orders) -> Channel:
    engine = SimpleNamespace(
        catalogue=catalogue,
        settlement=orders,
        recorder=orders,
        application=SimpleNamespace(context_headers=("request_id",)),
        held=Held(),
        hold=lambda *_: None,
        hostname="celery@host",
        retry_scale=1.0,
        poll_wait=20,
        is_stopping=False,
        channels=WeakSet(),
        is_pausing=False,
    )
    options = {
        "engine": engine,
        "region": "ap-northeast-1",
        "predefined_queues": {
            queue.name: {"url": catalogue.url(queue.name)} for queue in catalogue
        },
        "sqs_base64_encoding": False,
    }
    connection = KombuConnection("sqs://", transport=Transport, transport_options=options)
    channel: Channel = connection.channel()
    channel.hub = Hub()
    return channel


def message(body: str | None = None, *, handle: str = "h1", receive_count: int = 1) -> Any:
    if body is None:
        body = json.dumps(
            {
                "body": "[[], {}, {}]",
                "headers": {"task": "gifts.send", "id": "1"},
                "content-type": "application/json",
                "content-encoding": "utf-8",
                "properties": {
                    "delivery_tag": "x",
                    "body_encoding": "utf-8",
                    "delivery_info": {"exchange": "", "routing_key": "gifts"},
                },
            }
        )
    return {
        "MessageId": f"id-{handle}",
        "ReceiptHandle": handle,
        "Body": body,
        "Attributes": {"ApproximateReceiveCount": str(receive_count)},
    }


def deliver(channel: Channel, *messages: Any) -> int:
    return channel._on_messages_ready(URL, "gifts", {"Messages": list(messages)})


# --- receiving ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 400, 403, 404, 429, 500, 502, 503, 504, 599])
def test_a_failed_receive_is_handed_on_whatever_its_status(status: int) -> None:
    connection = Connection.__new__(Connection)
    answer = connection._on_list_ready(None, None, "ReceiveMessage", SimpleNamespace(status=status))
    assert isinstance(answer, ReceiveFailed)
    assert str(status) in str(answer)


def test_an_answer_that_cannot_be_read_is_a_failed_receive() -> None:
    connection = Connection.__new__(Connection)  # without a client: every reading fails
    for body, said in [(b'{"Messages": []}', "unreadable"), (b"<html>", "not SQS's")]:
        response = SimpleNamespace(status=200, read=lambda body=body: body)
        answer = connection._on_list_ready(None, None, "ReceiveMessage", response)
        assert isinstance(answer, ReceiveFailed)
        assert said in str(answer)


def test_failed_receives_are_said_once_and_come_back_ever_later(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(8):
            assert channel._on_messages_ready(URL, "gifts", ReceiveFailed("HTTP 503")) == 0
            channel._loop1("gifts", 0)
    pauses = [delay for delay, call in channel.hub.later if call == ("_resume", "gifts")]
    wanted = [2, 4, 8, 16, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE, MAX_PAUSE]
    assert len(pauses) == len(wanted)
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, wanted, strict=True))
    assert channel.hub.soon == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_receive_that_cannot_even_be_signed_pauses_its_queue_alone(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no credentials")

    channel._get_async = refuse
    for queue in ("gifts", "maintenance"):  # of short tasks, and of long ones
        channel._active_queues.append(queue)
        channel._schedule_queue(queue)
    paused = {call for _, call in channel.hub.later}
    assert {("_resume", "gifts"), ("_resume", "maintenance")} <= paused
    assert (channel.open_polls, channel._asked) == (0, {})
    assert "RuntimeError" in caplog.text


def test_an_answer_after_failures_ends_the_pauses(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    channel._on_messages_ready(URL, "gifts", ReceiveFailed("HTTP 503"))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert channel._on_messages_ready(URL, "gifts", {}) == 0
    assert [record.message for record in caplog.records] == ["SQS answers again for queue gifts"]
    channel._loop1("gifts", 0)
    assert channel.hub.soon == [("_schedule_queue", "gifts")]


def test_queues_fail_by_themselves(channel: Channel) -> None:
    channel._on_messages_ready(URL, "gifts", ReceiveFailed("HTTP 503"))
    channel._loop1("maintenance", 0)
    assert channel.hub.soon == [("_schedule_queue", "maintenance")]


def test_nothing_is_received_while_the_engine_pauses(channel: Channel) -> None:
    channel.engine.is_pausing = True
    channel._schedule_queue("gifts")
    assert channel.hub.later == [(ENGINE_PAUSE, ("_schedule_queue", "gifts"))]


def test_a_queue_without_consumer_is_not_polled(channel: Channel) -> None:
    channel._schedule_queue("maintenance")
    assert (channel.hub.soon, channel.hub.later) == ([], [])


def test_a_poll_asks_for_what_there_is_room_for(channel: Channel, received: list[Any]) -> None:
    """Two processes, ten messages each: a call must be worth its price, and none runs dry."""
    channel._schedule_queue("gifts")
    assert channel.polls == [("gifts", 10)]
    channel._schedule_queue("gifts")
    assert channel.polls == [("gifts", 10)], "one open poll for a queue"
    channel._loop1("gifts", 0)

    deliver(channel, *(message(handle=f"h{number}") for number in range(11)))
    channel._schedule_queue("gifts")
    assert channel.polls == [("gifts", 10)], "nine would fit: not worth a call yet"
    channel.hub.soon.clear()
    done(received[0])
    channel.basic_ack(received[0].delivery_tag)
    assert channel.hub.soon == [("_schedule_queue", "gifts")]
    channel._schedule_queue("gifts")
    assert channel.polls == [("gifts", 10), ("gifts", 10)]


def test_queues_of_long_tasks_share_the_processes(channel: Channel, orders: Orders) -> None:
    """None waits here while another worker is idle."""
    received: list[Any] = []
    url = CATALOGUE.url("maintenance")
    channel.basic_consume("maintenance", False, received.append, "maintenance")
    channel._schedule_queue("maintenance")
    assert channel.polls == [("maintenance", 2)]
    channel._loop1("maintenance", 0)
    orders.queue = url, 60
    for handle in ("h1", "h2", "h3"):
        channel._on_messages_ready(url, "maintenance", {"Messages": [message(handle=handle)]})
    assert [each.delivery_tag for each in received] == ["h1", "h2"]
    assert orders.hidden == [("h3", 0)], "polls that came back at once brought one too many"
    channel._schedule_queue("maintenance")
    assert channel.polls == [("maintenance", 2)]


def test_a_worker_that_stops_begins_no_poll_and_gives_back_what_an_open_one_brings(
    channel: Channel, orders: Orders, received: list[Any]
) -> None:
    channel._schedule_queue("gifts")
    channel.engine.is_stopping = True
    assert channel.open_polls == 1
    deliver(channel, message())
    channel._loop1("gifts", 1)
    channel._schedule_queue("gifts")
    assert (received, orders.hidden, channel.open_polls) == ([], [("h1", 0)], 0)
    assert len(channel.polls) == 1


def test_a_queue_without_acknowledgement_is_refused(channel: Channel) -> None:
    with pytest.raises(ValueError, match="loses messages"):
        channel.basic_consume("gifts", no_ack=True, callback=print, consumer_tag="x")


def test_purging_is_refused(channel: Channel) -> None:
    with pytest.raises(click.ClickException, match="never ran"):
        channel.queue_purge("gifts")


BAD = {
    "text": "plain text",
    "null": "null",
    "list": "[1, 2]",
    "string": '"str"',
    "number": "7",
    "no envelope": "{}",
    "properties are a number": '{"properties": 5}',
    "properties are empty": '{"properties": {}}',
    "half of base64": "eyJib2R5IjogMX0==",
    "base64 of garbage": base64.b64encode(b"\xff\xfe").decode(),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_bad_message_is_recorded_and_holds_nothing(
    channel: Channel, orders: Orders, received: list[Any], body: str
) -> None:
    """Its neighbours in the same answer run; it takes no slot, and nothing deletes it."""
    bad = message(body, handle="bad", receive_count=2)
    assert deliver(channel, message(handle="a"), bad) == 2
    assert [each.delivery_tag for each in received] == ["a"]
    assert orders.failed == [("bad", "BAD_MESSAGE", 2)]
    assert orders.deleted == []
    assert channel._holding["gifts"] == 1, "only its neighbour has a slot"


def test_a_consumer_that_raises_frees_the_slot(channel: Channel, orders: Orders) -> None:
    def raises(_message: Any) -> None:
        raise KeyError("id")

    channel.basic_consume("gifts", no_ack=False, callback=raises, consumer_tag="again")
    deliver(channel, message(handle="h1"), message(handle="h2"))
    assert [handle for handle, *_ in orders.failed] == ["h1", "h2"]
    assert orders.deleted == []
    assert channel._holding["gifts"] == 0
    assert not channel.qos._delivered.keys() - channel.qos._dirty


def test_a_bad_message_is_named_and_not_quoted(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(channel, message('{"properties": "secret"}', handle="bad"))
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert record.message == "message id-bad cannot be read"
    assert record.error_code == "BAD_MESSAGE"
    assert "secret" not in str(vars(record))


# --- settling -----------------------------------------------------------------------------------


def done(received: Any) -> None:
    """What a request notes when its task has succeeded."""
    received.properties[DONE] = True


def test_an_ack_orders_the_deletion_and_frees_the_slot(
    channel: Channel, orders: Orders, received: list[Any]
) -> None:
    deliver(channel, message())
    done(received[0])
    channel.basic_ack(received[0].delivery_tag)
    assert (orders.deleted, orders.hidden) == (["h1"], [])
    assert channel._holding["gifts"] == 0


def test_an_ack_without_success_deletes_nothing(
    channel: Channel, orders: Orders, received: list[Any]
) -> None:
    deliver(channel, message())
    received[0].ack()
    assert (orders.deleted, orders.hidden) == ([], [("h1", 10)])


@pytest.mark.parametrize("requeue", [False, True])
@pytest.mark.parametrize(
    ("returned", "receive_count", "hidden"),
    [
        (None, 1, 10),
        (None, 4, 120),
        (None, 9, 120),
        (Returned("retry"), 2, 30),
        (Returned("retry", 50), 1, 50),
        (Returned("expose"), 5, 0),
        (Returned("outage"), 1, 30),
        (Returned("leave"), 1, None),
    ],
)
def test_a_reject_hides_and_never_deletes_or_publishes(
    channel: Channel,
    orders: Orders,
    received: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    returned: Returned | None,
    receive_count: int,
    hidden: int | None,
    requeue: bool,
) -> None:
    monkeypatch.setattr(channel, "_put", lambda *_, **__: pytest.fail("published a copy"))
    monkeypatch.setattr(channel, "_delete_rejected_message", lambda *_: pytest.fail("deleted"))
    deliver(channel, message(receive_count=receive_count))
    if returned:
        channel.qos.get("h1").properties[Returned.PROPERTY] = returned
    channel.basic_reject("h1", requeue=requeue)
    assert orders.deleted == []
    assert orders.hidden == ([] if hidden is None else [("h1", hidden)])
    assert orders.left == (["h1"] if hidden is None else [])
    assert channel._holding["gifts"] == 0


def test_a_local_stack_shortens_the_backoff(channel: Channel, orders: Orders) -> None:
    channel.engine.retry_scale = 0.1
    deliver(channel, message(receive_count=4))
    channel.basic_reject("h1")
    assert orders.hidden == [("h1", 12)]


def test_closing_gives_nothing_back_by_publishing_it(
    channel: Channel, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[object] = []  # kombu swallows what is raised while it closes
    monkeypatch.setattr(channel, "_put", lambda *each, **_: published.append(each))
    deliver(channel, message())
    channel.close()
    assert (orders.deleted, orders.hidden, published) == ([], [], [])


# --- whether it gets on with its work ------------------------------------------------------------


def test_a_queue_that_is_polled_is_consumed_unless_its_poll_never_ends(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not channel.is_consuming  # nothing has been asked yet
    channel._schedule_queue("gifts")
    assert channel.polls
    assert channel.is_consuming
    now = time.monotonic()
    monkeypatch.setattr("tasks.engine.transport.time.monotonic", lambda: now + LONGEST_POLL + 1)
    assert not channel.is_consuming


def test_a_queue_whose_poll_was_forgotten_is_not_consumed(channel: Channel) -> None:
    channel._schedule_queue("gifts")
    channel._polling.clear()
    assert not channel.is_consuming


def test_a_full_worker_has_a_reason_not_to_poll_and_an_empty_one_has_none(
    channel: Channel,
) -> None:
    for number in range(20):
        channel._on_messages_ready(URL, "gifts", {"Messages": [message(handle=f"h{number}")]})
    channel._schedule_queue("gifts")
    assert not channel.polls
    assert channel.is_consuming
    channel._holding.clear()
    assert not channel.is_consuming


def test_an_outage_is_a_reason_not_to_poll(channel: Channel) -> None:
    channel._schedule_queue("gifts")
    channel._on_messages_ready(URL, "gifts", ReceiveFailed("HTTP 503"))
    channel._loop1("gifts")
    assert channel.is_consuming  # it pauses
    channel._resume("gifts")
    channel._polling.clear()
    channel.engine.is_pausing = True
    assert channel.is_consuming
