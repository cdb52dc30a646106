"""The beat schedule. Each task of it is harmless when it runs twice, or at the same time twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

#: How often expired Idempotency-Keys are deleted.
EXPIRE_EVERY = timedelta(hours=1)


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
