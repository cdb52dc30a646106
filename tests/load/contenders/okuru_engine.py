"""This engine under a Celery app of one task, without an application or a database."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from tasks.engine.application import Failure
from tasks.engine.catalogue import Catalogue, Queue
from tasks.engine.engine import Engine
from tasks.engine.publisher import Publisher
from tests.load.contenders import asked

#: Rows that the relay takes at once.
BATCH = 100


class Application:
    """Nothing that could fail."""

    outage_errors: tuple[type[Exception], ...] = ()
    context_headers: tuple[str, ...] = ()

    def probe(self) -> None:
        pass

    def bind(self, **fields: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def on_progress(self) -> None:
        pass

    def on_breaker(self, is_open: bool) -> None:
        pass

    def on_failure(self, failure: Failure) -> None:
        pass


@dataclass(frozen=True)
class Promise:
    queue: str = asked.QUEUE
    task: str = "noop"
    kwargs: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)


queue = Queue(
    name=asked.QUEUE,
    description="Tasks that do nothing.",
    visibility_timeout=300,
    max_receive_count=5,
    backoff=(10, 30, 60, 120),
    retention_days=14,
    prefetch=10,
    max_hold=300,
)
engine = Engine(
    catalogue=Catalogue({queue.name: queue}, asked.QUEUE_URL.removesuffix(queue.name)),
    region=asked.REGION,
    application=Application(),
)
app = Celery("bench", task_cls="tasks.engine.task:Task")
engine.install(app)
app.conf.worker_concurrency = asked.PROCESSES


@app.task(name="noop")
def noop() -> None:
    pass


def publish(messages: int) -> None:
    publisher = Publisher(app, engine.sqs)
    for start in range(0, messages, BATCH):
        refused = publisher.publish([Promise()] * min(BATCH, messages - start))
        assert not refused, refused
    publisher.close()


def work() -> None:
    app.worker_main(["worker", "--loglevel=WARNING"])


if __name__ == "__main__":
    asked.answer(sys.argv[1:], publish, work)
