"""`okuru health`, as the containers of production ask it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.request import urlopen

import psutil
import pytest

from okuru.stack.stack import Stack
from tests.acceptance.client import wait_until

PROCESSES = ("web", "worker", "jobs", "relay", "beat")


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes and their children stand still, for the length of the block."""
    mains = [psutil.Process(pid) for pid in pids]
    everyone = [each for main in mains for each in (main, *main.children())]
    for each in everyone:
        each.suspend()
    try:
        yield
    finally:
        for each in everyone:
            each.resume()


def ask(stack: Stack, process: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["okuru", "health", process],
        env=psutil.Process(stack.processes[process].pid).environ(),
        capture_output=True,
        text=True,
        timeout=30,
    )


def gets_on_after(stack: Stack, process: str, moment: float) -> bool:
    return progress(stack, process) > moment


def progress(stack: Stack, process: str) -> float:
    """Unix time."""
    port = psutil.Process(stack.processes[process].pid).environ()["METRICS_PORT"]
    text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    (stamp,) = re.findall(r"^okuru_progress_timestamp_seconds\{.*\} (.*)$", text, re.M)
    return float(stamp)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_is_well_until_it_hangs(stack: Stack, process: str) -> None:
    wait_until(lambda: ask(stack, process).returncode == 0, within=60, what="it is well")
    with frozen(stack.processes[process].pid):
        answer = ask(stack, process)
    assert answer.returncode == 1
    assert "does not answer" in answer.stderr


def test_no_process_is_ill_because_what_it_needs_does_not_answer(stack: Stack) -> None:
    with frozen(stack.sqs.child.pid, stack.postgres.child.pid, stack.valkey.child.pid):
        for process in PROCESSES[1:]:
            gets_on = partial(gets_on_after, stack, process, time.time())
            wait_until(gets_on, within=60, what=f"{process} gets on")
        assert ask(stack, "web").returncode == 0
