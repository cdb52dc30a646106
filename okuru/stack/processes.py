"""The processes of the Procfile: started, restarted, and stopped together."""

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from okuru.stack.child import Child
from okuru.stack.errors import StackError
from okuru.stack.home import Home
from okuru.stack.output import Terminal

# A worker may finish the task that it holds.
STOP_GRACE = 30.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0
# A process that lived this long was well; its next death is a new story.
_HEALTHY_AFTER = 30.0

# For the last lines; a process that left the session could hold its output open for ever.
_THREAD_GRACE = 2.0


class Process:
    """One process that is started again when it dies, until it is told to stop."""

    def __init__(
        self,
        home: Home,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        terminal: Terminal,
    ) -> None:
        self.name = name
        self.environment = environment
        self.restarts = 0
        self._home = home
        self._command = command
        self._terminal = terminal
        self._child = Child(home, name)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._log = home.log_path(name)
        self._keeper: threading.Thread | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The process id now; another one after a restart. Raises LookupError before a start."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        return self._child.alive

    def listens_on(self, port: int) -> bool:
        """Whether the process has the TCP port open itself."""
        return self._child.listens_on(port)

    @property
    def started(self) -> bool:
        """Whether it was started and not yet ended for good."""
        return self._keeper is not None

    def start(self) -> None:
        """Start the process. Raises StackError if there is no such program."""
        self._stopping.clear()
        self._log = self._home.fresh_log(self.name)
        self._spawn()
        self._keeper = threading.Thread(target=self._keep, name=f"keep-{self.name}", daemon=True)
        self._keeper.start()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process alone; if it dies of it, it is started again."""
        self._child.signal(number)

    def ask_to_stop(self) -> None:
        """Ask the process to stop for good, without waiting."""
        with self._lock:
            self._stopping.set()
            self._child.signal()

    def end(self) -> None:
        """Kill what is left of it, for good."""
        with self._lock:
            self._stopping.set()
            self._child.end()
        for thread in (self._keeper, self._reader):
            if thread is not None:
                thread.join(_THREAD_GRACE)
        self._keeper = None

    def stop(self, *, grace: float = STOP_GRACE) -> None:
        """Ask it to stop, and kill it after `grace` seconds."""
        self.ask_to_stop()
        wait_while(lambda: self.alive, seconds=grace)
        self.end()

    def _spawn(self) -> None:
        metrics = Path(self.environment["PROMETHEUS_MULTIPROC_DIR"])
        shutil.rmtree(metrics, ignore_errors=True)
        metrics.mkdir(parents=True)
        try:
            process = self._child.start(self._command, self.environment, output=subprocess.PIPE)
        except OSError as error:
            raise StackError(f"{self.name} cannot start: {error}") from error
        self._reader = threading.Thread(
            target=self._copy, args=[process.stdout], name=f"read-{self.name}", daemon=True
        )
        self._reader.start()

    def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            started = time.monotonic()
            code = self._child.wait()
            with self._lock:
                if self._stopping.is_set():
                    return
                # Orphans of the dead would work beside its successor.
                self._child.end()
            if time.monotonic() - started > _HEALTHY_AFTER:
                pause = _FIRST_PAUSE
            self._terminal.say(f"{self.name} {_cause(code)}; it starts again in {pause:g} s")
            if self._stopping.wait(pause):
                return
            pause = min(2 * pause, _LONGEST_PAUSE)
            with self._lock:
                if self._stopping.is_set():
                    return
                try:
                    self._spawn()
                except StackError as error:
                    # Its program is being replaced, perhaps: the next round may find it.
                    self._terminal.say(error.message)
                self.restarts += 1

    def _copy(self, output: IO[bytes]) -> None:
        with output, self._log.open("ab", buffering=0) as log:
            for line in output:
                with suppress(OSError):  # a full disk must not stop the process that writes
                    log.write(line)
                self._terminal.show(self.name, line.decode(errors="replace").rstrip())


def wait_while(
    condition: Callable[[], bool], *, seconds: float, unless: Callable[[], bool] = lambda: False
) -> None:
    """Wait while the condition holds, at most so many seconds, and not when `unless` holds."""
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline and not unless():
        time.sleep(0.05)


def _cause(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"
