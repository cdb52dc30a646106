"""A consumer under measurement: a tree of processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psutil

from okuru.stack.child import Child
from okuru.stack.errors import StackError
from okuru.stack.home import PROJECT, Home


@contextmanager
def running(
    home: Home, name: str, command: Sequence[str], environment: Mapping[str, str]
) -> Iterator[Child]:
    """Run a command; at the end, kill its session. What it would tidy up is scratch."""
    child = Child(home, name)
    with home.fresh_log(name).open("ab") as log:
        scratch = {"TMPDIR": str(home.run)}
        child.start(command, {**environment, **scratch}, output=log, cwd=PROJECT)
    try:
        yield child
        if not child.alive:
            raise StackError(f"{name} ended by itself: see {last_words(home, name)}")
    finally:
        child.end()


def last_words(home: Home, name: str) -> str:
    lines = home.log_path(name).read_text(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:])


def run_to_end(
    command: Sequence[str], environment: Mapping[str, str], *, within: float = 300
) -> str:
    """What the command prints. Raises StackError with its last words if it fails."""
    try:
        result = subprocess.run(
            command, env=dict(environment), cwd=PROJECT, capture_output=True, text=True,
            check=False, timeout=within,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise StackError(f"{' '.join(command)} took more than {within:.0f} s") from None
    if result.returncode:
        words = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise StackError(f"{' '.join(command)} failed: {' / '.join(words)}")
    return result.stdout


def tree(pid: int) -> list[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of all its living descendants."""
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def rss(pid: int) -> int:
    """The bytes of the largest process of a tree."""
    sizes = [0]
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            sizes.append(process.memory_info().rss)
    return max(sizes)


class Stopwatch:
    """CPU seconds of some processes from its making to `stop()`."""

    def __init__(self, **pids: int) -> None:
        self._pids = pids
        self._before = {name: cpu_seconds(pid) for name, pid in pids.items()}
        self._started = time.monotonic()

    def stop(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) - self._before[name] for name, pid in self._pids.items()}
