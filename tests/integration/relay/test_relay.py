"""The relay between a real outbox and a real SQS."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from celery import Celery
from kombu import Connection
from kombu.serialization import prepare_accept_content
from sqlalchemy import func, select, text

from app import db
from app.observability import context, metrics
from app.outbox import service as outbox
from app.outbox.models import OutboxRow
from app.outbox.service import Message
from tasks import relay as relay_module
from tasks.engine import publisher, queues, sqs
from tasks.engine.publisher import Publisher
from tasks.engine.transport import Transport
from tasks.relay import BATCH, Relay
from tests.factories import gifts
from tests.integration.api import Events, eventually
from tests.integration.celery_app import receive, running_sqs
from tests.integration.outage import Outage

SEND = Message("gifts.send", "gifts")


@pytest.fixture
def relay(workers: ModuleType) -> Iterator[Relay]:
    made = Publisher(workers.app, workers.engine.sqs)
    yield Relay(made)
    made.close()


def stage(count: int, message: Message = SEND) -> None:
    with db.transaction() as session:
        for number in range(count):
            outbox.stage(session, message, {"gift_id": str(number), "send_no": 1})


def waiting() -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


def bodies(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(json.loads(message["Body"])["body"])[1] for message in messages]


def test_a_send_becomes_a_task_message_that_celery_understands(
    relay: Relay, workers: ModuleType, events: Events
) -> None:
    with db.transaction() as session, context.bound(http_request_id="h-1", traceparent="00-2"):
        gift = gifts.queued(session, request_id="key-7", message="secret words")
    assert relay.run_once() == 1
    [event] = [event for event in events() if event["message"] == "published gifts.send"]
    assert (event["gift_id"], event["request_id"]) == (str(gift.id), "key-7")
    assert "send_no" not in event
    [raw] = receive(workers.engine)
    assert str(gift.code) not in raw["Body"]
    assert "secret words" not in raw["Body"]
    message = decoded(workers.app, raw)
    assert message.headers["task"] == "gifts.send"
    assert message.headers["lang"] == "py"
    assert message.headers["http_request_id"] == "h-1"
    assert message.headers["traceparent"] == "00-2"
    assert message.headers["argsrepr"] == message.headers["kwargsrepr"] == ""
    assert message.properties["correlation_id"] == message.headers["id"]
    assert message.delivery_info["routing_key"] == "gifts"
    args, kwargs, embed = message.decode()
    assert args == []
    assert kwargs == {"gift_id": str(gift.id), "send_no": 1, "request_id": "key-7"}
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def decoded(app: Celery, raw: dict[str, Any]) -> Any:
    """Through kombu's own channel, as a worker's consumer gets it."""
    connection = Connection(
        "sqs://", transport=Transport, transport_options=app.conf.broker_transport_options
    )
    channel = connection.channel()
    payload = channel._message_to_python(raw, "gifts", app.engine.catalogue.url("gifts"))
    return channel.Message(payload, channel=channel, accept=prepare_accept_content(["json"]))


def test_everything_is_published_once_and_the_outbox_is_empty(
    relay: Relay, workers: ModuleType
) -> None:
    stage(BATCH + 7)
    stage(1, Message("delivery.reconcile", "maintenance"))
    assert [relay.run_once() for _ in range(3)] == [BATCH, 8, 0]
    published = Counter(body["gift_id"] for body in bodies(receive(workers.engine)))
    assert published == Counter(str(number) for number in range(BATCH + 7))
    assert len(receive(workers.engine, "maintenance")) == 1
    assert waiting() == 0


def test_a_relay_that_dies_before_its_commit_publishes_twice_and_never_not_at_all(
    relay: Relay, workers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(3)
    with monkeypatch.context() as dying:
        dying.setattr(relay, "_rest_or_recover", die)
        with pytest.raises(Death):
            relay.run_once()
    assert waiting() == 3
    relay.run_once()
    assert waiting() == 0
    published = Counter(body["gift_id"] for body in bodies(receive(workers.engine)))
    assert published == {"0": 2, "1": 2, "2": 2}


class Death(BaseException):
    """No handler of the relay's sees it, like a SIGKILL."""


def die(*_: object) -> None:
    raise Death


def test_two_relays_publish_everything_once(relay: Relay, workers: ModuleType) -> None:
    stage(BATCH * 2)  # numbered from 0
    other = Relay(Publisher(workers.app, workers.engine.sqs))
    threads = [threading.Thread(target=each.run_once) for each in (relay, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    while relay.run_once():
        pass
    published = Counter(body["gift_id"] for body in bodies(receive(workers.engine)))
    assert published == Counter(str(number) for number in range(BATCH * 2))


def test_an_entry_that_sqs_refuses_is_put_back_alone(
    workers: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    """SQS refuses one entry of a call only when it is ill itself: a stub says it here."""
    stage(3)
    client = sqs.client("ap-northeast-1")
    with Stubber(client) as stub:
        stub.add_response(
            "send_message_batch",
            {
                "Successful": [
                    {"Id": "0", "MessageId": "a", "MD5OfMessageBody": "x"},
                    {"Id": "2", "MessageId": "c", "MD5OfMessageBody": "x"},
                ],
                "Failed": [{"Id": "1", "SenderFault": False, "Code": "InternalError"}],
            },
            {"QueueUrl": ANY, "Entries": ANY},
        )
        relay = Relay(Publisher(workers.app, client))
        with caplog.at_level(logging.INFO):
            assert relay.run_once() == 3
        assert relay.run_once() == 0, "it rests"
    with db.transaction() as session:
        row = session.scalars(select(OutboxRow)).one()
        assert (row.kwargs["gift_id"], row.refusals) == ("1", 1)
    refusals = [record for record in caplog.records if record.levelname == "ERROR"]
    assert [(record.message, record.error_code) for record in refusals] == [
        ("SQS refused gifts.send", "InternalError")
    ]


# --- the process --------------------------------------------------------------------------------


def run_beside(relay: Relay, story: Callable[[], None]) -> None:
    """Run the relay, in the main thread as its process does, until the story has been told."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(1) as beside:
            told = beside.submit(story)
            told.add_done_callback(lambda _: relay._stop.set())
            relay.run()
        told.result()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_relay_whose_database_goes_away_lives_on_and_publishes_afterwards(
    relay: Relay, workers: ModuleType, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    def said(what: str) -> bool:
        return [record.message for record in caplog.records].count(what) == 1

    def story() -> None:
        outage.begin()
        eventually(lambda: said("the database does not answer"), "the relay sees the outage")
        outage.end()
        stage(1)
        eventually(lambda: said("the database answers again"), "the relay sees its end")
        eventually(lambda: len(receive(workers.engine)) == 1, "the row is published")

    with caplog.at_level(logging.INFO):
        run_beside(relay, story)


def test_a_relay_rests_only_when_there_is_no_full_batch(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay_module, "IDLE", 3600)
    stage(BATCH * 2 + 1)
    run_beside(relay, lambda: eventually(lambda: waiting() == 0, "everything is published"))


# --- SQS gone -----------------------------------------------------------------------------------


@pytest.fixture
def own_sqs(tmp_path: Path, workers: ModuleType) -> Iterator[Any]:
    """An SQS that may be frozen, with the workers' queues in it."""
    with running_sqs(tmp_path) as server:
        client = sqs.client("ap-northeast-1", endpoint_url=server.url)
        queues.create(client, workers.engine.catalogue)
        yield server, client


@pytest.mark.parametrize("how", ["frozen", "stopped"])
def test_without_sqs_the_rows_stay_and_are_published_when_it_is_back(
    own_sqs: Any,
    workers: ModuleType,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, _ = own_sqs
    # The shortest patience, for the test's sake; the endpoint is the server's own.
    monkeypatch.setitem(sqs.CLIENT_CONFIG, "read_timeout", 0.5)
    client = sqs.client("ap-northeast-1", endpoint_url=server.url)
    relay = Relay(Publisher(workers.app, client))
    stage(3)
    if how == "frozen":
        server.child.signal(signal.SIGSTOP)
    else:
        server.stop()
    with caplog.at_level(logging.INFO):
        assert relay.run_once() == 3
        assert waiting() == 3
        assert relay._resting() == ["gifts"]
        assert relay.run_once() == 0, "the queue rests"
        with db.transaction() as session:
            assert {row.refusals for row in session.scalars(select(OutboxRow))} == {0}
        if how == "frozen":
            server.child.signal(signal.SIGCONT)
        else:
            server.start()
            server.wait_until_ready()
        deadline = time.monotonic() + 20
        while waiting():
            relay.run_once()
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert relay._resting() == []
    said = [record.message for record in caplog.records if "queue gifts" in record.message]
    assert said[0] == "SQS takes nothing for queue gifts"
    assert said[-1] == "SQS takes messages for queue gifts again"
    assert said.count(said[0]) == 1


def test_a_queue_rests_longer_after_each_failure_and_others_do_not(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(relay_module.time, "monotonic", lambda: clock[0])
    taken = [
        outbox.Taken(number, queue, "t", {}, {}, 0, None)
        for number, queue in enumerate(("gifts", "maintenance"))
    ]
    refused = [publisher.Refused(0, "ReadTimeoutError", whole_call=True)]
    rests = []
    for _ in range(7):
        relay._rest_or_recover(taken, refused)
        assert relay._resting() == ["gifts"]
        rests.append(relay._resting_until["gifts"] - clock[0])
        clock[0] += rests[-1]
        assert relay._resting() == []
    assert rests == [1, 2, 4, 8, 16, 30, 30]
    relay._rest_or_recover(taken, [])
    relay._rest_or_recover(taken, refused)
    assert relay._resting_until["gifts"] - clock[0] == 1


def test_the_relay_measures_the_outbox(relay: Relay) -> None:
    stage(4)
    with db.transaction() as session:
        session.execute(text("UPDATE outbox SET created_at = now() - interval '60 s'"))
    relay._measure()
    shown = metrics.exposition().decode().splitlines()
    assert "okuru_outbox_depth_rows 4.0" in shown
    assert "okuru_outbox_oldest_age_seconds 60.0" in {line.split(".")[0] + ".0" for line in shown}
