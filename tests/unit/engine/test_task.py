"""The base Task with a pushed request, as a worker's pool process runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.exceptions import Ignore, Reject

from tasks.engine import failures
from tasks.engine.catalogue import Catalogue
from tasks.engine.task import NEVER, Request, Task
from tasks.engine.verdict import DONE, Returned

PREFIX = "http://sqs/okuru-"


class Outage(Exception):
    """The database does not answer."""


class Engine:
    """What a worker gives its tasks, and the application behind it."""

    def __init__(self) -> None:
        self.catalogue = Catalogue.load(PREFIX)
        self.retry_scale = 0.5
        self.application = self
        self.outage_errors = (Outage,)
        self.context_headers = ("request_id", "traceparent")
        self.bound: list[dict[str, Any]] = []
        self.trips = 0
        self.breaker = SimpleNamespace(trip=self._trip)

    def _trip(self) -> None:
        self.trips += 1

    @contextmanager
    def bind(self, **fields: Any) -> Iterator[None]:
        self.bound.append(fields)
        yield


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def app(engine: Engine) -> Celery:
    app = Celery("test", task_cls=Task, broker="memory://", set_as_current=False)
    app.engine = engine
    return app


def run(app: Celery, effect: Any, *, receive_count: int = 1, headers: Any = None) -> Any:
    """Call a task as if SQS had delivered its message for the `receive_count`th time."""

    def body(self: Task) -> Any:
        return effect(self)

    task = app.task(bind=True, name="test.task", shared=False)(body)
    message = {
        "MessageId": "m-1",
        "Attributes": {"ApproximateReceiveCount": str(receive_count)},
    }
    info = {"sqs_message": message, "sqs_queue": f"{PREFIX}gifts"}
    task.push_request(
        id="t-1", hostname="celery@host", headers=headers, properties={"delivery_info": info}
    )
    try:
        return task()
    finally:
        task.pop_request()


@pytest.mark.parametrize(("receive_count", "last"), [(1, False), (4, False), (5, True), (6, True)])
def test_a_task_knows_its_delivery(app: Celery, receive_count: int, last: bool) -> None:
    delivery = run(app, lambda task: task.delivery, receive_count=receive_count)
    assert (delivery.message_id, delivery.receive_count) == ("m-1", receive_count)
    assert delivery.last_receive is last
    assert delivery.worker.startswith("celery@host:")


def test_an_outage_puts_the_message_off(app: Celery) -> None:
    def effect(_: Task) -> None:
        raise Outage

    with pytest.raises(Returned) as returned:
        run(app, effect)
    assert returned.value.settle == "outage"


@pytest.mark.parametrize("error", [MemoryError, SystemExit, KeyboardInterrupt])
def test_what_would_end_the_worker_ends_the_execution_alone(
    app: Celery, error: type[BaseException]
) -> None:
    def effect(_: Task) -> None:
        raise error

    with pytest.raises(RuntimeError):
        run(app, effect)


@pytest.mark.parametrize("option", NEVER)
def test_a_task_is_never_delayed_expired_or_chained(app: Celery, option: str) -> None:
    @app.task(name="test.task", shared=False)
    def nothing() -> None:
        pass

    with pytest.raises(ValueError, match=option):
        nothing.apply_async(**{option: 5})


def test_a_task_never_publishes_itself_again(app: Celery) -> None:
    with pytest.raises(RuntimeError, match="visibility timeout is the retry"):
        run(app, lambda task: task.retry())


def test_log_lines_carry_the_headers_that_are_context(app: Celery, engine: Engine) -> None:
    run(app, lambda _: None, headers={"request_id": "order-1", "lang": "py"})
    assert engine.bound == [{"task_id": "t-1", "request_id": "order-1"}]


@pytest.mark.parametrize("settle", ["retry", "expose", "leave"])
def test_a_verdict_other_than_delete_gives_the_message_back(app: Celery, settle: str) -> None:
    verdict = SimpleNamespace(settle=settle, retry_after=7.0)
    with pytest.raises(Returned) as returned:
        run(app, lambda task: task.settle(verdict))
    assert (returned.value.settle, returned.value.retry_after) == (settle, 7.0)


def test_a_verdict_of_delete_is_success(app: Celery) -> None:
    run(app, lambda task: task.settle(SimpleNamespace(settle="delete", retry_after=None)))


SQS_MESSAGE = {
    "MessageId": "m-1",
    "ReceiptHandle": "h1",
    "Body": "{}",
    "Attributes": {"ApproximateReceiveCount": "5"},
}


def request(app: Celery, acks: list[str]) -> Request:
    """The worker's side of an execution of `test.task`."""

    @app.task(name="test.task", shared=False)
    def nothing() -> None:
        pass

    nothing.acks_late = True
    nothing.acks_on_failure = nothing.acks_on_timeout = False
    nothing.reject_on_worker_lost = True
    message = SimpleNamespace(
        headers={"id": "t-1", "task": "test.task"},
        body=b"[[], {}, {}]",
        payload=([], {}, {}),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={"sqs_message": SQS_MESSAGE, "sqs_queue": f"{PREFIX}gifts"},
        properties={},
    )
    return Request(
        message,
        app=app,
        task=app.tasks["test.task"],
        hostname="celery@host",
        on_ack=lambda *_: acks.append("ack"),
        on_reject=lambda *_: acks.append("reject"),
    )


@pytest.mark.parametrize(("settle", "trips"), [("outage", 1), ("retry", 0)])
def test_the_worker_notes_what_the_pool_process_decided(
    app: Celery, engine: Engine, settle: str, trips: int
) -> None:
    acks: list[str] = []
    received = request(app, acks)
    returned = Returned(settle)
    received.on_failure(SimpleNamespace(exception=returned, traceback=""))
    assert isinstance(returned, Reject)
    assert received.message.properties == {Returned.PROPERTY: returned}
    assert (acks, engine.trips) == (["reject"], trips)


def test_success_alone_acknowledges(app: Celery) -> None:
    acks: list[str] = []
    received = request(app, acks)
    received.on_success((False, None, 0.1))
    assert acks == ["ack"]
    assert received.message.properties == {DONE: True}


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ValueError("secret"), "RAISED"),
        (Ignore(), "RAISED"),
        (MemoryError(), "RAISED"),
        (WorkerLostError("signal 9"), "WORKER_LOST"),
        (SystemExit(1), "WORKER_LOST"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
def test_every_other_end_is_a_failure_with_its_cause(
    app: Celery, error: BaseException, cause: str
) -> None:
    acks: list[str] = []
    received = request(app, acks)
    received.on_failure(SimpleNamespace(exception=error, traceback="", exc_info=None))
    failed = received.message.properties[failures.PROPERTY]
    assert (failed.cause, failed.message_id, failed.receive_count) == (cause, "m-1", 5)
    assert failed.last_receive
    assert "secret" not in failed.reason
    assert acks == ["reject"]
    assert DONE not in received.message.properties


def test_a_hard_time_limit_is_noted_once(app: Celery) -> None:
    acks: list[str] = []
    received = request(app, acks)
    received.on_timeout(False, 20)
    received.on_failure(
        SimpleNamespace(exception=WorkerLostError("-9"), traceback="", exc_info=None)
    )
    assert received.message.properties[failures.PROPERTY].cause == "TIME_LIMIT"
    assert acks == ["reject"]


def test_what_only_waits_can_be_given_back(app: Celery) -> None:
    acks: list[str] = []
    received = request(app, acks)
    received.give_back()
    assert received.message.properties[Returned.PROPERTY].settle == "expose"
    assert acks == ["reject"]
