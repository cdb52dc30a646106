"""The base Task with a pushed request, as a worker's pool process runs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject

from tasks.engine.catalogue import Catalogue
from tasks.engine.task import Request, Task
from tasks.engine.verdict import Returned

PREFIX = "http://sqs/okuru-"


class Outage(Exception):
    """The database does not answer."""


class Engine:
    """What a worker gives its tasks."""

    def __init__(self) -> None:
        self.catalogue = Catalogue.load(PREFIX)
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


def test_running_out_of_memory_ends_the_execution_and_not_the_worker(app: Celery) -> None:
    def effect(_: Task) -> None:
        raise MemoryError

    with pytest.raises(RuntimeError, match="out of memory"):
        run(app, effect)


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


def request(app: Celery, rejects: list[bool], **headers: Any) -> Request:
    """The worker's side of an execution of `test.task`."""

    @app.task(name="test.task", shared=False)
    def nothing() -> None:
        pass

    message = SimpleNamespace(
        headers={"id": "t-1", "task": "test.task", **headers},
        body=b"[[], {}, {}]",
        payload=([], {}, {}),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_info={},
        properties={},
    )
    return Request(
        message,
        app=app,
        task=app.tasks["test.task"],
        on_reject=lambda _log, _errors, requeue: rejects.append(requeue),
    )


@pytest.mark.parametrize(("settle", "trips"), [("outage", 1), ("retry", 0)])
def test_the_worker_notes_what_the_pool_process_decided(
    app: Celery, engine: Engine, settle: str, trips: int
) -> None:
    rejects: list[bool] = []
    received = request(app, rejects)
    app.tasks["test.task"].acks_late = True
    returned = Returned(settle)
    received.on_failure(SimpleNamespace(exception=returned, traceback=""))
    assert isinstance(returned, Reject)
    assert received.message.properties[Returned.PROPERTY] is returned
    assert (rejects, engine.trips) == ([True], trips)


def test_a_message_cannot_steer_the_worker_by_its_headers(app: Celery) -> None:
    received = request(app, [], timelimit="x", eta="never", expires="x", shadow="other")
    assert received.time_limits == (None, None)
    assert (received.eta, received.expires, received.name) == (None, None, "test.task")
