"""The commands of remote control: which ones no worker obeys, and which differ from Celery's.

Each runs on the worker's event loop; what it returns is the reply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import Any

from celery.exceptions import CeleryCommandException
from celery.platforms import EX_USAGE
from celery.utils.time import rate
from celery.worker.control import (
    Panel,
    add_consumer,
    cancel_consumer,
    nok,
    ok,
    pool_grow,
    pool_shrink,
)
from celery.worker.control import rate_limit as celery_rate_limit
from celery.worker.control import time_limit as celery_time_limit

log = logging.getLogger(__name__)

Command = Callable[..., Any]

#: A pool grows to this many times what the worker was started with.
MAX_GROWTH = 4
#: Tasks a second: from one a day to more than a worker can do.
MIN_RATE, MAX_RATE = 1 / 86_400, 1e6
#: Seconds. The pool looks at its limits about once a second.
MIN_LIMIT = 1
_REVOKED = "Celery deletes a revoked message, and its task never runs"
#: Commands that no worker obeys, and why.
REFUSED: Mapping[str, str] = {
    "revoke": _REVOKED,
    "revoke_by_stamped_headers": _REVOKED,
    "terminate": _REVOKED,
    "hello": "it brings the revoked tasks of other workers",
    "enable_events": "SQS has no place for events",
    "purge": "it deletes messages whose tasks never ran",
}


class Refused(CeleryCommandException):
    """The command line shows it as one line."""

    def __init__(self, command: str) -> None:
        super().__init__(f"{command} is refused: {REFUSED[command]}", exit_code=EX_USAGE)


def all_commands() -> dict[str, Command]:
    """Those of Celery, of the application, and ours, by name."""
    return {
        **Panel.data,
        "shutdown": _shutdown,
        "add_consumer": _of_the_catalogue(add_consumer),
        "cancel_consumer": _of_the_catalogue(cancel_consumer),
        "rate_limit": _rate_limit,
        "time_limit": _time_limit,
        "pool_grow": _resized(pool_grow, shrinks=False),
        "pool_shrink": _resized(pool_shrink, shrinks=True),
        **{command: partial(_refuse, command) for command in REFUSED},
    }


def _refuse(command: str, _state: Any, **_: Any) -> Any:
    return nok(str(Refused(command)))


def _shutdown(state: Any, **_: Any) -> Any:
    """As TERM does, and with an answer. Asked twice, TERM would not wait for what runs."""
    if not state.app.engine.is_stopping:
        log.warning("remote control asks this worker to stop")
        state.app.engine.stop()
    return ok("the worker finishes what runs, and stops")


def _of_the_catalogue(command: Command) -> Command:
    """Celery would make up a queue of any other name, which SQS does not have; and every worker
    that hears of it would consume it, those of long tasks, too."""

    def checked(state: Any, queue: str, **_: Any) -> Any:
        known = [each.name for each in state.app.engine.catalogue]
        if queue not in known:
            return nok(f"no queue of the catalogue: {queue} (there is {', '.join(known)})")
        if state.app.engine.catalogue[queue].group not in state.app.engine.groups:
            return nok(f"{queue} is for other workers than this one")
        return command(state, queue)

    return checked


def _resized(command: Command, *, shrinks: bool) -> Command:
    """Celery takes any number: it would end the last process, or fill the machine."""

    def checked(state: Any, n: int = 1, **_: Any) -> Any:
        processes = state.consumer.pool.num_processes
        most = MAX_GROWTH * state.app.conf.worker_concurrency
        after = processes - n if shrinks else processes + n
        if n < 1 or not 1 <= after <= most:
            return nok(f"not by {n}: a worker has 1 to {most} processes, this one {processes}")
        return command(state, n)

    return checked


def _rate_limit(state: Any, task_name: str, rate_limit: Any, **_: Any) -> Any:
    """Celery takes a negative rate, of which its event loop never comes back."""
    try:
        wanted = rate(rate_limit)
    except (KeyError, TypeError, ValueError):
        wanted = -1.0
    if wanted != 0 and not MIN_RATE <= wanted <= MAX_RATE:
        return nok(f"no rate: {rate_limit!r}. Say 10/s, 100/m or 1000/h; 0 is no limit")
    return celery_rate_limit(state, task_name, rate_limit)


def _time_limit(state: Any, task_name: str, hard: Any = None, soft: Any = None, **_: Any) -> Any:
    """A limit that is not named stays. Celery would remove it, and change the task alone, not what
    its consumer has made of it when it began."""
    for limit in (soft, hard):
        if limit is not None and not (isinstance(limit, int | float) and MIN_LIMIT <= limit < inf):
            return nok(f"no time limit: {limit!r}. Say seconds, {MIN_LIMIT} at least")
    task = state.app.tasks.get(task_name)
    soft = task.soft_time_limit if task and soft is None else soft
    hard = task.time_limit if task and hard is None else hard
    if soft is not None and hard is not None and soft >= hard:
        return nok(f"the soft limit ({soft:g} s) must come before the hard one ({hard:g} s)")
    answer = celery_time_limit(state, task_name, hard=hard, soft=soft)
    if task is not None:
        state.consumer.strategies[task_name] = task.start_strategy(state.app, state.consumer)
    return answer
