"""Ctrl-C, TERM and HUP, at moments when the stack can bear them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Turns the signals that end a stack into one KeyboardInterrupt.

    A stack that is interrupted between starting a server and noting its pid would leave it behind,
    and so would one that is interrupted again while it stops. So the exception is raised once at
    most, and never while `held`: whatever holds it looks at `check()` between its steps.
    """

    def __init__(self) -> None:
        self.held = True
        self._received = 0
        self._previous: dict[signal.Signals, object] = {}

    @property
    def in_a_hurry(self) -> bool:
        """Whether the user has asked more than once."""
        return self._received > 1

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come, held or not."""
        if self._received:
            raise KeyboardInterrupt

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Hold the exception back until the end of the block."""
        before, self.held = self.held, True
        try:
            yield
        finally:
            self.held = before
        if not before:
            self.check()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let the exception come at any moment of the block."""
        self.check()
        self.held = False
        try:
            yield
        finally:
            self.held = True

    def __enter__(self) -> Self:
        # Python lets only the main thread have handlers; a stack in another thread has none.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal() gave us

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._received += 1
        if self._received == 1 and not self.held:
            raise KeyboardInterrupt
