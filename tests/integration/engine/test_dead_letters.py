"""Dead letters are read without being taken, and swept into the database."""

from __future__ import annotations

import base64
import json
import time
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from app import db
from app.delivery.models import DeadLetter
from app.gifts.models import Gift
from app.observability import metrics
from tasks.engine import dead_letters
from tasks.engine.publisher import Publisher
from tasks.relay import Relay
from tests.factories import gifts
from tests.integration.api import samples
from tests.integration.celery_app import receive

DLQ = "gifts-dlq"


def send(made: Any, body: str) -> str:
    answer = made.sqs.send_message(QueueUrl=made.catalogue.url(DLQ), MessageBody=body)
    return str(answer["MessageId"])


def read(made: Any) -> list[dead_letters.DeadMessage]:
    queue = made.catalogue["gifts"]
    return [
        letter for batch in dead_letters.read(made.sqs, made.catalogue, queue) for letter in batch
    ]


def task(**kwargs: Any) -> str:
    body = json.dumps([[], kwargs, {}])
    return json.dumps({"body": body, "headers": {"task": "gifts.send"}, "properties": {}})


def test_a_reading_sees_each_letter_once_and_leaves_it_visible(workers: ModuleType) -> None:
    made = workers.engine
    sent = {send(made, task(gift_id=str(number))) for number in range(23)}
    seen = read(made)
    assert len(seen) == 23
    assert {letter.message_id for letter in seen} == sent
    assert {letter.kwargs["gift_id"] for letter in seen} == {str(n) for n in range(23)}
    assert {letter.task for letter in seen} == {"gifts.send"}
    assert len(receive(made, DLQ)) == 23


def test_a_reading_that_ends_early_leaves_everything_visible_too(workers: ModuleType) -> None:
    made = workers.engine
    for number in range(12):
        send(made, str(number))
    reading = dead_letters.read(made.sqs, made.catalogue, made.catalogue["gifts"])
    assert len(next(reading)) == 10
    reading.close()
    assert len(receive(made, DLQ)) == 12


def test_an_empty_queue_costs_one_call(workers: ModuleType) -> None:
    made, calls = workers.engine, []
    made.sqs.meta.events.register("before-call.sqs", lambda model, **_: calls.append(model.name))
    assert read(made) == []
    assert calls == ["GetQueueAttributes"]


def test_a_message_keeps_its_id_and_its_sent_time_when_sqs_buries_it(workers: ModuleType) -> None:
    """The carrier of a row, its attempts and its dead letter find one another by this id.

    AWS says it of the enqueue timestamp, and that only a redrive out of a dead-letter queue makes
    new messages with new ids (docs/adr/0010); here the emulator is held to it.
    """
    made = workers.engine
    url = made.catalogue.url("gifts")
    sent = made.sqs.send_message(QueueUrl=url, MessageBody="x")["MessageId"]
    seen = []
    for _ in range(made.catalogue["gifts"].max_receive_count + 1):
        seen += receive_once(made, "gifts", VisibilityTimeout=0)
    [buried] = receive_once(made, DLQ)

    assert {message["MessageId"] for message in seen} == {sent}
    assert len(seen) == made.catalogue["gifts"].max_receive_count
    assert buried["MessageId"] == sent
    sent_at = {message["Attributes"]["SentTimestamp"] for message in [*seen, buried]}
    assert len(sent_at) == 1
    source = made.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    assert buried["Attributes"]["DeadLetterQueueSourceArn"] == source["Attributes"]["QueueArn"]


def receive_once(made: Any, name: str, **options: Any) -> list[Any]:
    answer = made.sqs.receive_message(
        QueueUrl=made.catalogue.url(name), MessageSystemAttributeNames=["All"], **options
    )
    return list(answer.get("Messages", []))


# --- taking out ---------------------------------------------------------------------------------


def test_a_reading_takes_out_only_what_it_is_told_to(workers: ModuleType) -> None:
    made = workers.engine
    sent = [send(made, str(number)) for number in range(23)]
    gone = set(sent[3:18])
    with dead_letters.Reading(made.sqs, made.catalogue, made.catalogue["gifts"]) as reading:
        while reading.receive():
            pass
        assert reading.delete(sorted(gone)) == gone
        assert reading.delete([]) == set()
    assert {message["MessageId"] for message in receive(made, DLQ)} == set(sent) - gone


def test_a_letter_that_sqs_keeps_is_not_called_deleted(
    workers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = workers.engine
    kept, gone = sorted(send(made, str(number)) for number in range(2))
    delete = made.sqs.delete_message_batch

    def partly(**options: Any) -> Any:
        first, *others = options["Entries"]
        answer = delete(**{**options, "Entries": others})
        failed = {"Id": first["Id"], "SenderFault": False, "Code": "InternalError"}
        return {**answer, "Failed": [failed]}

    monkeypatch.setattr(made.sqs, "delete_message_batch", partly)
    with dead_letters.Reading(made.sqs, made.catalogue, made.catalogue["gifts"]) as reading:
        while reading.receive():
            pass
        assert reading.delete([kept, gone]) == {gone}
    assert [message["MessageId"] for message in receive(made, DLQ)] == [kept]


def test_a_reading_ends_well_when_someone_fails_in_it(workers: ModuleType) -> None:
    made = workers.engine
    send(made, "x")

    def fail_in_it() -> None:
        with dead_letters.Reading(made.sqs, made.catalogue, made.catalogue["gifts"]) as reading:
            assert len(reading.receive()) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_it()
    assert len(receive(made, DLQ)) == 1


DEEP = 100_000
GARBAGE = [
    "plain text",
    "null",
    "[1, 2]",
    '"str"',
    "{}",
    '{"properties": 5}',
    base64.b64encode(b'{"body": 1}').decode(),
    '{"body": "[[], {}, {}]"}',
    '{"body": "[[], {}, {}]", "headers": []}',
    '{"body": "[[], {}, {}]", "headers": {"task": 7}}',
    '{"body": "[[], [], {}]", "headers": {"task": "gifts.send"}}',
    '{"body": "[[], {}]", "headers": {"task": "gifts.send"}}',
    '{"body": {}, "headers": {"task": "gifts.send"}}',
    '{"body": "[[], {}, {}]", "headers": {"task": "nobody.knows"}}',
    "[" * DEEP,
    json.dumps({"body": "[" * DEEP, "headers": {"task": "gifts.send"}}),
    json.dumps({"body": "[[], {}, {}]", "headers": {"task": "a\0b"}}),
    json.dumps({"body": "[[], {}, {}]", "headers": {"task": "\ud800"}}),
    task(),
    task(gift_id=7, send_no="1"),
    task(gift_id=["x"], send_no=[1], request_id={}),
    task(gift_id="x" * 9999, send_no=1),
    task(gift_id=str(UUID(int=1)), send_no=True, request_id="r"),
    task(gift_id=str(UUID(int=1)), send_no=2**40, request_id="r"),
    task(gift_id=str(UUID(int=1)), send_no=-(2**40), request_id="r"),
    task(gift_id=str(UUID(int=1)), send_no=1, request_id="a\0b"),
    task(gift_id=str(UUID(int=1)), send_no=1, request_id="\udfff"),
    task(gift_id=str(UUID(int=1)), send_no=1, request_id="x" * 999),
]


@pytest.mark.parametrize(
    "body", GARBAGE, ids=lambda body: body[:60].encode("unicode_escape").decode()
)
def test_whatever_lies_there_is_copied_and_stops_nobody(
    sweeps: Any, workers: ModuleType, body: str
) -> None:
    made = workers.engine
    ids = {send(made, body), send(made, task(gift_id=str(UUID(int=2)), send_no=1))}
    sweeps.reconcile.run()
    with db.transaction() as session:
        copied = {letter.message_id: letter for letter in session.scalars(select(DeadLetter))}
    assert set(copied) == ids
    assert body in {letter.body for letter in copied.values()}
    assert len(receive(made, DLQ)) == 2


# --- the sweeps ---------------------------------------------------------------------------------


class Sweeps:
    def __init__(self) -> None:
        from tasks.sweeps import reconcile, recover_stalled

        self.reconcile, self.recover_stalled = reconcile, recover_stalled


@pytest.fixture
def sweeps(workers: ModuleType) -> Sweeps:
    """The tasks of the beat schedule: they can be imported when `tasks.celery` can."""
    return Sweeps()


def queued() -> Gift:
    with db.transaction() as session:
        gift = gifts.queued(session)
        session.expunge_all()
    return gift


def look(gift: Gift) -> Gift:
    with db.transaction() as session:
        return session.get_one(Gift, gift.id)


def staged() -> list[Any]:
    with db.transaction() as session:
        return list(session.execute(text("SELECT task, kwargs FROM outbox")))


def publish(workers: ModuleType) -> None:
    publisher = Publisher(workers.app, workers.engine.sqs)
    Relay(publisher).run_once()
    publisher.close()


def die(workers: ModuleType) -> str:
    """The message of the only gift burns its receives, and SQS buries it."""
    made = workers.engine
    url = made.catalogue.url("gifts")
    messages = []
    for _ in range(made.catalogue["gifts"].max_receive_count + 1):
        found = made.sqs.receive_message(QueueUrl=url, VisibilityTimeout=0).get("Messages", [])
        messages += [message["MessageId"] for message in found]
    assert len(messages) == made.catalogue["gifts"].max_receive_count
    return messages[0]


def test_a_message_that_died_without_an_execution_is_staged_again(
    sweeps: Sweeps, workers: ModuleType
) -> None:
    gift = queued()
    publish(workers)
    message_id = die(workers)
    for _ in range(2):  # two beats, or the same letter at the next sweep
        sweeps.reconcile.run()
    kwargs = {"gift_id": str(gift.id), "send_no": 1, "request_id": "key-1"}
    assert staged() == [("gifts.send", kwargs)]
    assert (look(gift).status, look(gift).restages) == ("QUEUED", 1)
    with db.transaction() as session:
        letter = session.get_one(DeadLetter, message_id)
    assert (letter.subject_id, letter.send_no, letter.request_id) == (gift.id, 1, "key-1")
    assert (letter.queue, letter.task) == ("gifts", "gifts.send")


def failed_gifts() -> float:
    exposition = metrics.exposition().decode()
    return samples(exposition, "okuru_settled_total").get('kind="gift",status="FAILED"', 0)


def test_a_message_that_died_after_five_executions_leaves_an_unknown_outcome(
    sweeps: Sweeps, workers: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    gift = queued()
    publish(workers)
    message_id = die(workers)
    with db.transaction() as session:
        session.execute(
            text("UPDATE gifts SET executions = 5, receive = 5, carrier = :id"), {"id": message_id}
        )
    before = failed_gifts()
    for _ in range(2):
        sweeps.reconcile.run()
    assert failed_gifts() == before + 1
    row = look(gift)
    assert (row.status, row.failure) == ("FAILED", "unknown")
    assert staged() == []
    [record] = [each for each in caplog.records if each.message == "dead letter: failed"]
    assert (record.message_id, record.request_id) == (message_id, "key-1")


def test_a_send_whose_message_vanished_is_staged_again_once_nothing_can_be_on_its_way(
    sweeps: Sweeps, workers: ModuleType
) -> None:
    made = workers.engine
    gift = queued()
    publish(workers)
    age(gift, seconds=made.catalogue["gifts"].untouched_limit(scale=made.retry_scale) + 5)
    sweeps.recover_stalled.run()
    assert staged() == [], "its message is there to be received"
    made.sqs.purge_queue(QueueUrl=made.catalogue.url("gifts"))
    deadline = time.monotonic() + 10
    while not staged():
        sweeps.recover_stalled.run()
        assert time.monotonic() < deadline
    assert len(staged()) == 1
    sweeps.recover_stalled.run()
    assert len(staged()) == 1


def test_a_row_that_was_touched_lately_is_not_stalled(sweeps: Sweeps, workers: ModuleType) -> None:
    queued()
    publish(workers)
    receive(workers.engine)
    sweeps.recover_stalled.run()
    assert staged() == []


def age(gift: Gift, *, seconds: int) -> None:
    with db.transaction() as session:
        session.execute(text("ALTER TABLE gifts DISABLE TRIGGER guard_deliverable"))
        session.execute(
            text("UPDATE gifts SET updated_at = now() - make_interval(secs => :s) WHERE id = :id"),
            {"s": seconds, "id": gift.id},
        )
        session.execute(text("ALTER TABLE gifts ENABLE TRIGGER guard_deliverable"))
