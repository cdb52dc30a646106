"""A child process that leaves nothing behind, even if its parent is killed."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from okuru.stack.home import PROJECT, Home, write_private

# psutil derives a start time from the clock, which may have been set since it was recorded.
_CLOCK_TOLERANCE = 2.0


class Child:
    """A process in a session of its own, so that the terminal's Ctrl-C is the parent's affair.

    Its pid and start time are written to the home: a stack that was killed cannot stop its
    children, and the next one in the same home does it instead (`end_leftovers`).
    """

    def __init__(
        self, home: Home, name: str, *, stop_signal: signal.Signals = signal.SIGTERM
    ) -> None:
        self.name = name
        self._stop_signal = stop_signal
        self._record = home.run / f"{name}.json"
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        output: IO[bytes] | int,
        cwd: Path = PROJECT,
        user: int | None = None,
        group: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start the command; `user` and `group` are for root only.

        Raises OSError if there is no such command.
        """
        process = subprocess.Popen(  # noqa: S603  # from the Procfile, which is code
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            start_new_session=True,
        )
        self._process = process
        with suppress(psutil.NoSuchProcess):
            created = psutil.Process(process.pid).create_time()
            record = {"pid": process.pid, "created": created, "signal": self._stop_signal}
            write_private(self._record, json.dumps(record))
        return process

    @property
    def pid(self) -> int:
        """The process id. Raises LookupError if it was never started."""
        if self._process is None:
            raise LookupError(f"{self.name} has not been started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def listens_on(self, port: int) -> bool:
        """Whether the process itself has the TCP port open, and not a stranger."""
        with suppress(psutil.Error):
            connections = psutil.Process(self.pid).net_connections("tcp")
            return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)
        return False

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""
        if self._process is None:
            raise LookupError(f"{self.name} has not been started")
        return self._process.wait()

    def signal(self, number: signal.Signals | None = None) -> None:
        """Send a signal to the process alone, by default the one that asks it to stop."""
        if self._process is not None:
            self._process.send_signal(number or self._stop_signal)

    def end(self) -> None:
        """Kill whatever is left of it and of the processes that it started."""
        if self._process is None:
            return
        if self.alive:
            self._process.kill()
        self._process.wait()
        for member in _session(self._process.pid):
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self._record.unlink(missing_ok=True)

    def stop(self, *, grace: float) -> None:
        """Ask it to stop, give it `grace` seconds, then kill what is left."""
        self.signal()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self.end()


def end_leftovers(home: Home, *, grace: float = 10.0) -> list[str]:
    """End what an earlier stack in this home left behind, and return the names of it.

    A pid alone proves nothing, since the system gives it to others later: the start time must be
    the recorded one as well. The caller holds the home's lock.
    """
    names: list[str] = []
    left: list[psutil.Process] = []
    for file in sorted(home.run.glob("*.json")):
        record = json.loads(file.read_text())
        members = _recorded_session(record["pid"], record["created"])
        # A leader stops its own children; orphans have nobody else to tell them.
        for member in [m for m in members if m.pid == record["pid"]] or members:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(record["signal"])
        if members:
            names.append(file.stem)
            left += members
    _, stubborn = psutil.wait_procs(left, timeout=grace)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=grace)
    for file in home.run.glob("*.json"):
        file.unlink()
    return names


def _recorded_session(pid: int, created: float) -> list[psutil.Process]:
    """The processes of a recorded child, unless its pid belongs to another process by now."""
    with suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(pid).create_time() - created) > _CLOCK_TOLERANCE:
            return []
    return _session(pid)


def _session(leader: int) -> list[psutil.Process]:
    """The live processes of a session: the leader and all that it started, orphans included."""
    members: list[psutil.Process] = []
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            if os.getsid(pid) == leader:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    members.append(process)
    return members
