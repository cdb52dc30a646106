"""Keeps what this worker holds invisible to other workers, for as long as it may hold it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.engine.catalogue import Queue

log = logging.getLogger(__name__)

#: A message is extended when this share of its visibility timeout is over: two tries may fail.
EXTEND_AFTER = 1 / 3
#: Seconds until an extension that failed is tried again.
RETRY_EVERY = 1.0
#: Seconds without a tick of the event loop after which a worker is taken for hung: it must not
#: hold messages that another one could run.
HUNG_AFTER = 30.0


@dataclass
class _Message:
    queue_url: str
    visibility_timeout: int
    hold_until: float
    extend_at: float


@dataclass(frozen=True)
class Extension:
    receipt_handle: str
    seconds: int


class Held:
    """The messages that this worker holds. The event loop adds and drops, the I/O thread extends.

    An order that settles a message is put on the I/O thread's queue after the drop: no extension
    can come after it and undo a short back-off.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: dict[str, _Message] = {}
        self._ticked_at = time.monotonic()
        self._hung = False

    def add(self, receipt_handle: str, queue: Queue, queue_url: str) -> None:
        now = time.monotonic()
        with self._lock:
            self._messages[receipt_handle] = _Message(
                queue_url,
                queue.visibility_timeout,
                hold_until=now + queue.max_hold,
                extend_at=now + queue.visibility_timeout * EXTEND_AFTER,
            )

    def drop(self, receipt_handle: str) -> None:
        with self._lock:
            self._messages.pop(receipt_handle, None)

    @property
    def is_empty(self) -> bool:
        return not self._messages

    @property
    def is_overdue(self) -> bool:
        """Whether something is held for longer than it may be: no process of the pool takes it, and
        none that runs it has been ended by its time limit."""
        now = time.monotonic()
        with self._lock:
            return any(now >= message.hold_until for message in self._messages.values())

    def take_all(self) -> list[tuple[str, str]]:
        """Drop everything. Returns (queue URL, receipt handle) of each."""
        with self._lock:
            messages, self._messages = self._messages, {}
        return [(message.queue_url, handle) for handle, message in messages.items()]

    def tick(self) -> None:
        """The event loop is alive."""
        self._ticked_at = time.monotonic()

    def due(self) -> Mapping[str, list[Extension]]:
        """What has to be extended now, by queue URL. Each is due again soon unless `extended()`."""
        now = time.monotonic()
        if self._is_hung(now):
            return {}
        due: dict[str, list[Extension]] = defaultdict(list)
        with self._lock:
            for handle, message in self._messages.items():
                if message.extend_at <= now < message.hold_until:
                    message.extend_at = now + RETRY_EVERY
                    seconds = min(message.visibility_timeout, message.hold_until - now)
                    due[message.queue_url].append(Extension(handle, math.ceil(seconds)))
        return due

    def extended(self, receipt_handles: Iterable[str]) -> None:
        now = time.monotonic()
        with self._lock:
            for handle in receipt_handles:
                if message := self._messages.get(handle):
                    message.extend_at = now + message.visibility_timeout * EXTEND_AFTER

    def _is_hung(self, now: float) -> bool:
        hung = now - self._ticked_at > HUNG_AFTER
        if hung != self._hung:
            self._hung = hung
            if hung:
                log.error("the event loop hangs: what this worker holds is let go")
            else:
                log.warning("the event loop goes on")
        return hung
