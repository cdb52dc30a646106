"""The tasks of jobs."""

from __future__ import annotations

from uuid import UUID

from app.jobs import execution, messages
from tasks.celery import app
from tasks.engine.task import INTERRUPTIONS, Task

#: Seconds for which one execution may run. Below what its queues may hold (queues.json).
SOFT_TIME_LIMIT = 870
TIME_LIMIT = 900


@app.task(
    name=messages.DEFAULT.task, bind=True, soft_time_limit=SOFT_TIME_LIMIT, time_limit=TIME_LIMIT
)
def run(self: Task, job_id: str, send_no: int, request_id: str | None) -> None:  # noqa: ARG001
    """`request_id` is for whoever reads the message; log lines have it from the headers."""
    self.settle(
        execution.perform(UUID(job_id), send_no, self.delivery, interruptions=INTERRUPTIONS)
    )
