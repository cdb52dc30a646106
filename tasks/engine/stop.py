"""A worker that is told to stop: nothing is lost, nothing waits, nothing starts twice.

Celery's warm shutdown abandons its open polls, which may still bring messages and hide them, and
leaves what only waited hidden for its visibility timeout. Here, on TERM,

1. no new poll begins, and what an open one brings is made visible again at once;
2. what waits for a process is made visible again at once;
3. what runs is finished, for at most the grace time;
4. then Celery's own shutdown goes on, and the last orders to SQS are carried out.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from celery.platforms import EX_FAILURE, EX_OK
from celery.worker import state

if TYPE_CHECKING:
    from tasks.engine.engine import Engine
    from tasks.engine.task import Request

log = logging.getLogger(__name__)

#: Seconds between two looks of the event loop.
LOOK_EVERY = 0.1


class Stop:
    """The stopping of one worker, on its event loop."""

    def __init__(self, engine: Engine, worker: Any) -> None:
        self._engine = engine
        self._worker = worker
        self._asked = 0
        self._given_back = False
        self._deadline = float("inf")
        self._process_task: Callable[[Request], None] = worker._process_task
        worker._process_task = self._hand_over

    @property
    def is_asked(self) -> bool:
        return self._asked > 0

    def install(self, consumer: Any) -> None:
        """Once the worker is ready: from now on TERM and Ctrl-C are answered here."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ask())
        consumer.hub.call_repeatedly(LOOK_EVERY, self._look)

    def ask(self) -> None:
        """Stop soon. Safe in a signal handler; a second Ctrl-C or TERM does not wait any more."""
        self._asked += 1

    def _look(self) -> None:
        self._engine.held.tick()
        if not self._asked:
            return
        if not self._given_back:
            self._given_back = True
            self._deadline = time.monotonic() + self._engine.grace
            self._give_back()
        if self._asked > 1 or time.monotonic() > self._deadline:
            log.warning("stopping at once: what runs is ended, and comes back")
            state.should_terminate = EX_FAILURE
        elif not any(self._running()) and not self._open_polls():
            state.should_stop = EX_OK

    def _give_back(self) -> None:
        waiting = [request for request in self._waiting() if not request.acknowledged]
        self._worker.semaphore.clear()
        for request in waiting:
            request.give_back()
        log.info(
            "stopping: %d messages given back, %d running", len(waiting), len([*self._running()])
        )

    def _hand_over(self, request: Request) -> None:
        """In the place of the worker's method that hands a request to the pool."""
        if self.is_asked:
            self._worker.semaphore.release()
            request.give_back()
            return
        request.handed = True
        try:
            self._process_task(request)
        except Exception as error:  # noqa: BLE001 - one message must not end the worker
            # Celery would lose the slot, and the worker with it when it calls this from its loop.
            self._worker.semaphore.release()
            request.refuse(f"no process can take it: {type(error).__name__}")

    def _waiting(self) -> Iterator[Request]:
        """What no process has: behind the semaphore, or behind a rate limit."""
        yield from (each for each in tuple(state.reserved_requests) if not each.handed)
        for bucket in self._worker.consumer.task_buckets.values():
            if bucket:
                yield from (request for request, _tokens in bucket.contents)
                bucket.clear_pending()

    def _running(self) -> Iterator[Request]:
        return (
            each for each in tuple(state.reserved_requests) if each.handed and not each.acknowledged
        )

    def _open_polls(self) -> int:
        return sum(
            channel.open_polls for channel in tuple(self._engine.channels) if not channel.closed
        )
