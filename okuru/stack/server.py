"""What the embedded servers of a stack have in common."""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from okuru.stack.child import Child
from okuru.stack.errors import StackError
from okuru.stack.home import Home

_READY_WITHIN = 60.0


@dataclass(frozen=True)
class Launch:
    """How to start a server."""

    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    cwd: Path = Path("/")
    user: int | None = None
    group: int | None = None


class Server(ABC):
    """An embedded server: one child process that listens on one port of the loopback interface."""

    name: ClassVar[str]
    title: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    stop_grace: ClassVar[float] = 15.0

    def __init__(self, home: Home) -> None:
        self._home = home
        self.child = Child(home, self.name, stop_signal=self.stop_signal)

    @cached_property
    def port(self) -> int:
        """Chosen when first asked for, after which the server keeps it through every restart."""
        return self._home.port(self.name)

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for clients, with credentials if there are any."""

    @abstractmethod
    def prepare(self) -> Launch:
        """Make what the server needs on disk, and say how to start it."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server answers a client now."""

    def start(self) -> None:
        """Start the server without waiting for it."""
        launch = self.prepare()
        with self._home.fresh_log(self.name).open("ab") as log:
            self.child.start(
                launch.command,
                launch.environment,
                output=log,
                cwd=launch.cwd,
                user=launch.user,
                group=launch.group,
            )

    def wait_until_ready(self, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the server answers; `check` is called again and again and may raise.

        Raises StackError if the server ends or stays silent.
        """
        deadline = time.monotonic() + _READY_WITHIN
        while not self.answers():
            check()
            if not self.child.alive or time.monotonic() > deadline:
                problem = "stays silent" if self.child.alive else "ended at once"
                raise StackError(f"{self.title} {problem}: {self._last_words()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server gently, and kill it if it does not obey."""
        self.child.stop(grace=self.stop_grace)

    def _last_words(self) -> str:
        path = self._home.log_path(self.name)
        lines = path.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'it said nothing'} (see {path})"
