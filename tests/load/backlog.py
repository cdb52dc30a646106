"""Whether a deep outbox and many gifts slow the accept path, the relay or the worker."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

from sqlalchemy.engine import make_url

from okuru.stack.postgres import Postgres
from tests.load.consumer import run_to_end
from tests.load.environment import application
from tests.load.seeds import Database, execute

#: The small database: enough for the measurement.
SMALL, SMALL_OUTBOX = 5_000, 1_000
#: Indexes that a step goes down: their depth tells what ten times the rows would cost.
INDEXES = ("pk_gifts", "pk_send_requests", "pk_outbox", "ix_outbox_queue_id", "ix_attempts_subject")


def measure(
    postgres: Postgres, *, gifts: int, outbox: int, times: int, done: Callable[[], None]
) -> dict[str, Any]:
    small, large = Database(postgres, "small"), Database(postgres, "large")
    large.create_past(1, gifts)
    done()
    large.create_backlog(outbox)
    small.create_backlog(SMALL_OUTBOX)
    for database, first in ((small, 1), (large, gifts + 1)):
        database.create_gifts(first, first + SMALL)
        database.execute("VACUUM (ANALYZE)")
    done()
    output = run_to_end(
        [
            *(sys.executable, "-m", "tests.load.contenders.steps", str(times)),
            f"{small.url}=1",
            f"{large.url}={gifts + 1}",
        ],
        {
            **application(small.url, "http://127.0.0.1:1", "http://127.0.0.1:1/0/none-"),
            "BENCH_QUEUE_URL": "http://127.0.0.1:1/0/none",
            "LOG_LEVEL": "ERROR",
        },
    )
    done()
    took: dict[tuple[str, int], list[float]] = defaultdict(list)
    pages: dict[tuple[str, int], list[float]] = defaultdict(list)
    for line in output.splitlines():
        each = json.loads(line)
        took[each["step"], each["place"]] += each["ms"]
        pages[each["step"], each["place"]].append(each["pages"])
    return {
        "gifts": gifts,
        "outbox": outbox,
        "indexes": {"small": _indexes(postgres, small), "large": _indexes(postgres, large)},
        "steps": {
            step: {
                "small_ms": median(took[step, 0]),
                "large_ms": median(took[step, 1]),
                "ratio": median(took[step, 1]) / median(took[step, 0]),
                "small_pages": median(pages[step, 0]),
                "large_pages": median(pages[step, 1]),
            }
            for step in dict.fromkeys(step for step, _ in took)
        },
    }


def _indexes(postgres: Postgres, database: Database) -> dict[str, dict[str, int]]:
    """How many pages lie between an index's root and its leaf, and how full the root is."""
    url = make_url(postgres.superuser_url).set(database=make_url(database.url).database)
    as_superuser = url.render_as_string(hide_password=False)
    execute(as_superuser, "CREATE EXTENSION IF NOT EXISTS pageinspect")
    found = {}
    for index in INDEXES:
        ((level, entries),) = execute(
            as_superuser,
            f"SELECT level, (bt_page_stats('{index}', root)).live_items FROM bt_metap('{index}')",
        )
        found[index] = {"levels": level + 1, "root_entries": entries}
    return found
