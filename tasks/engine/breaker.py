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

    def begin(self) -> None:
        """Open until the first answer, which is said only if it takes more than one question."""
        if self._open():
            self._start_probing(said=False)

    def trip(self) -> None:
        """Open, unless open already."""
        if self._open():
            self._say_outage()
            self._start_probing(said=True)

    def _open(self) -> bool:
        with self._lock:
            was_open, self.is_open = self.is_open, True
        return not was_open

    def _say_outage(self) -> None:
        log.warning("receiving stops: the database does not answer")
        self._on_change(True)

    def _start_probing(self, *, said: bool) -> None:
        threading.Thread(
            target=self._wait_for_recovery, args=[said], name="breaker", daemon=True
        ).start()

    def _wait_for_recovery(self, said: bool) -> None:
        while not self._answers():
            if not said:
                self._say_outage()
                said = True
            time.sleep(PROBE_EVERY)
        self.is_open = False
        if said:
            log.info("receiving goes on: the database answers again")
            self._on_change(False)

    def _answers(self) -> bool:
        try:
            self._probe()
        except self._errors:
            return False
        except Exception:
            # Without this thread the worker would live and never receive again.
            log.exception("the probe failed otherwise than by an outage")
            return False
        return True
