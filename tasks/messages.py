"""The task that each message of the inbox is."""

from __future__ import annotations

from app.messages import messages, service
from tasks.celery import app
from tasks.engine.task import Task


@app.task(name=messages.RECEIVE_AGAIN.task, bind=True, soft_time_limit=15, time_limit=20)
def receive(self: Task, body: str) -> None:
    """`body`: the text of the message, as its sender wrote it."""
    self.settle(service.receive(body, self.delivery))
