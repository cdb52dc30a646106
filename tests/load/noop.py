"""Consumers against each other: N tasks that do nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from okuru.stack.home import Home
from tests.load.consumer import Stopwatch, run_to_end, running
from tests.load.emulator import Emulator
from tests.load.environment import BENCH, PROCESSES, common

#: Seconds that a contender has to begin, and to drain its queue.
BEGIN_WITHIN, DRAIN_WITHIN = 30, 120


@dataclass(frozen=True)
class Contender:
    """
    Attributes:
        pollers: receives that are open at once when all its processes wait for messages.
    """

    title: str
    module: str
    pollers: int
    python: Path = Path(sys.executable)

    def command(self, *words: str) -> list[str]:
        return [str(self.python), "-m", f"tests.load.contenders.{self.module}", *words]


CONTENDERS = (
    Contender("stock Celery", "stock_celery", pollers=1),
    Contender("dramatiq-sqs", "dramatiq_sqs", pollers=PROCESSES, python=BENCH / "bin" / "python"),
    Contender("boto3 loop", "boto3_loop", pollers=PROCESSES),
    Contender("this engine", "okuru_engine", pollers=1),
)


def measure(
    home: Home, emulator: Emulator, *, messages: int, rounds: int, done: Callable[[], None]
) -> dict[str, list[dict[str, Any]]]:
    """Every contender once a round, so that a busy moment of the machine meets all of them."""
    samples: dict[str, list[dict[str, Any]]] = {each.title: [] for each in CONTENDERS}
    for number in range(rounds):
        for contender in CONTENDERS:
            queue = f"noop-{number}-{contender.module.replace('_', '-')}"
            samples[contender.title].append(_once(home, emulator, contender, queue, messages))
            done()
    return samples


def _once(
    home: Home, emulator: Emulator, contender: Contender, queue: str, messages: int
) -> dict[str, Any]:
    url = emulator.create_queue(queue)
    environment = {**common(), "AWS_ENDPOINT_URL": emulator.url, "BENCH_QUEUE_URL": url}
    emulator.close_gate(queue)
    publishing = float(run_to_end(contender.command("publish", str(messages)), environment))
    published = emulator.wait_for(queue, "sent", messages, within=5)
    emulator.close_gate(queue)
    with running(home, contender.module, contender.command("work"), environment) as child:
        return {
            "published_per_second": messages / publishing,
            "send_calls_per_message": sum(published["calls"].values()) / messages,
            **drain(emulator, queue, contender.pollers, messages, child.pid),
        }


def drain(
    emulator: Emulator, queue: str, pollers: int, messages: int, pid: int, **others: int
) -> dict[str, Any]:
    """Wait until a consumer is ready, let it go, and measure until the last message is deleted.

    Args:
        others: pids of servers whose CPU time is to be measured, too.
    """
    emulator.wait_for(queue, "held", pollers, within=BEGIN_WITHIN)
    watch = Stopwatch(consumer=pid, emulator=emulator.child.pid, **others)
    emulator.open_gate(queue)
    seen = emulator.wait_for(queue, "deleted", messages, within=DRAIN_WITHIN)
    cpu = watch.stop()
    return {
        "per_second": messages / seen["drainSeconds"],
        "seconds": seen["drainSeconds"],
        "calls_per_message": {
            action: count / messages for action, count in seen["callsAtLastDelete"].items()
        },
        "received_per_message": seen["received"] / messages,
        "cpu_ms_per_message": {name: 1000 * used / messages for name, used in cpu.items()},
    }
