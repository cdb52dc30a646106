"""Stops a worker from receiving while what its tasks need is out of reach.

Each receive of a message counts towards its dead-letter queue: a worker that goes on receiving
during an outage of the database would burn through the receives of everything in the queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

#: Seconds between two questions whether the outage is over.
PROBE_EVERY = 1.0


class Breaker:
    """Closed: messages flow. Open: none is received until the probe succeeds."""

    def __init__(
        self,
        probe: Callable[[], None],
        errors: tuple[type[Exception], ...],
        on_change: Callable[[bool], None],
    ) -> None:
        """
        Args:
            probe: raises one of `errors` while the outage lasts; called on a thread of its own.
            on_change: told True when the breaker opens, False when it closes.
        """
        self._probe = probe
        self._errors = errors
        self._on_change = on_change
        self._lock = threading.Lock()
        self.is_open = False

    def trip(self) -> None:
        """Open, unless open already."""
        with self._lock:
            if self.is_open:
                return
            self.is_open = True
        log.warning("receiving stops: the database does not answer")
        self._on_change(True)
        threading.Thread(target=self._wait_for_recovery, name="breaker", daemon=True).start()

    def _wait_for_recovery(self) -> None:
        while True:
            try:
                self._probe()
                break
            except self._errors:
                time.sleep(PROBE_EVERY)
            except Exception:
                # Without this thread the worker would live and never receive again.
                log.exception("the probe failed otherwise than by an outage")
                time.sleep(PROBE_EVERY)
        self.is_open = False
        log.info("receiving goes on: the database answers again")
        self._on_change(False)
