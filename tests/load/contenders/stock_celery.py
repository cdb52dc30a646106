"""Celery as it comes, with the one setting that everyone finds: `polling_interval` 0.01."""

import sys

from celery import Celery

from tests.load.contenders import asked

QUEUE, PROCESSES = asked.QUEUE, asked.PROCESSES

app = Celery("bench", broker="sqs://")
app.conf.update(
    broker_transport_options={
        "region": asked.REGION,
        "polling_interval": 0.01,
        "predefined_queues": {QUEUE: {"url": asked.QUEUE_URL}},
    },
    broker_connection_retry_on_startup=True,
    task_default_queue=QUEUE,
    # What any user of SQS wants: a message is deleted after its task, not before.
    task_acks_late=True,
    task_ignore_result=True,
    worker_concurrency=PROCESSES,
)


@app.task(name="noop")
def noop() -> None:
    pass


def publish(messages: int) -> None:
    for _ in range(messages):
        noop.apply_async()


def work() -> None:
    app.worker_main(["worker", "--loglevel=WARNING"])


if __name__ == "__main__":
    asked.answer(sys.argv[1:], publish, work)
