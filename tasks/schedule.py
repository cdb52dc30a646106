"""The beat schedule. Each task of it is harmless when it runs twice, or at the same time twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery import beat

from app.observability import metrics

#: How often expired Idempotency-Keys are deleted.
EXPIRE_EVERY = timedelta(hours=1)


#: Seconds that beat sleeps at most, so that it can be seen to live.
LONGEST_SLEEP = 15


class Scheduler(beat.Scheduler):
    """Celery's own, in memory: the schedule is in the code, and a read-only file system will do."""

    def tick(self, *args: Any, **kwargs: Any) -> Any:
        sleep = super().tick(*args, **kwargs)
        metrics.PROGRESS.labels("beat").set_to_current_time()
        return sleep


def schedule(sweep_interval: float) -> dict[str, dict[str, Any]]:
    """`sweep_interval`: seconds between two looks for what a crash or an outage left behind."""
    return {
        name: {"task": name, "schedule": every, "options": {"queue": "maintenance"}}
        for name, every in {
            "delivery.reconcile": timedelta(seconds=sweep_interval),
            "delivery.recover_stalled": timedelta(seconds=sweep_interval),
            "idempotency.expire": EXPIRE_EVERY,
        }.items()
    }
