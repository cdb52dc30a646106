"""The queues of these tests: as in `queues.json`, with times that a test can wait for."""

from __future__ import annotations

from typing import Any

from tasks.engine.catalogue import Catalogue, Queue

#: Shortens the back-offs below to a second each.
RETRY_SCALE = 0.05
MAX_RECEIVES = 5

_COMMON: dict[str, Any] = {
    "max_receive_count": MAX_RECEIVES,
    "backoff": (10, 20, 20, 20),
    "retention_days": 14,
    "prefetch": 10,
    "max_hold": 60,
}

#: By name. `steady`, and the bands `high` to `low`, hide longer than any test waits: what is run
#: again by then was let go.
QUEUES: dict[str, dict[str, Any]] = {
    "steady": {"visibility_timeout": 60, "max_hold": 120},
    "short": {"visibility_timeout": 3},
    "long": {"visibility_timeout": 2, "prefetch": 1, "max_hold": 30},
    "capped": {"visibility_timeout": 2, "prefetch": 1, "max_hold": 4},
    "high": {"visibility_timeout": 60, "prefetch": 1, "max_hold": 120, "weight": 6},
    "middle": {"visibility_timeout": 60, "prefetch": 1, "max_hold": 120, "weight": 3},
    "low": {"visibility_timeout": 60, "prefetch": 1, "max_hold": 120, "weight": 1},
    "foreign": {"visibility_timeout": 3, "foreign_task": "foreign"},
}


def catalogue(prefix: str) -> Catalogue:
    return Catalogue(
        {
            name: Queue(name=name, description=f"Tests: {name}.", **{**_COMMON, **own})
            for name, own in QUEUES.items()
        },
        prefix,
    )
