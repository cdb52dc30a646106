"""The commands of remote control: which ones no worker obeys, and which differ from Celery's.

Each runs on the worker's event loop; what it returns is the reply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from celery.exceptions import CeleryCommandException
from celery.platforms import EX_USAGE
from celery.worker.control import (
    Panel,
    add_consumer,
    cancel_consumer,
    nok,
    ok,
    pool_grow,
    pool_shrink,
)

log = logging.getLogger(__name__)

Command = Callable[..., Any]

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
    """Celery would make up a queue of any other name, which SQS does not have."""

    def checked(state: Any, queue: str, **_: Any) -> Any:
        known = [each.name for each in state.app.engine.catalogue]
        if queue not in known:
            return nok(f"no queue of the catalogue: {queue} (there is {', '.join(known)})")
        return command(state, queue)

    return checked


def _resized(command: Command, *, shrinks: bool) -> Command:
    """Celery takes any number, and would end the last process."""

    def checked(state: Any, n: int = 1, **_: Any) -> Any:
        if n < 1 or (shrinks and n >= state.consumer.pool.num_processes):
            return nok(f"not by {n}: a worker has at least one process")
        return command(state, n)

    return checked
