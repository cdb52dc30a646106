"""The real send: claim, call a simulated provider, record; and the relay on its way there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from okuru.stack.errors import StackError
from okuru.stack.home import Home
from okuru.stack.postgres import Postgres
from tasks.engine import queues
from tasks.engine.catalogue import Catalogue
from tests.load.consumer import running
from tests.load.emulator import Emulator
from tests.load.environment import PROCESSES, PROGRAMS, application
from tests.load.noop import drain
from tests.load.seeds import Database

#: What consumes, and how many receives of it are open while it waits for messages.
CONTENDERS = {
    "boto3 loop": ([sys.executable, "-m", "tests.load.contenders.boto3_gifts"], PROCESSES),
    "this engine": ([str(PROGRAMS / "celery"), "-q", "-A", "tasks", "worker"], 1),
}
RELAY = [str(PROGRAMS / "okuru"), "relay"]


def measure(
    home: Home,
    emulator: Emulator,
    postgres: Postgres,
    *,
    messages: int,
    rounds: int,
    done: Callable[[], None],
) -> dict[str, list[dict[str, Any]]]:
    database = Database(postgres, "gifts")
    samples: dict[str, list[dict[str, Any]]] = {title: [] for title in CONTENDERS}
    first = 1
    for number in range(rounds):
        for place, (title, (command, pollers)) in enumerate(CONTENDERS.items()):
            prefix = emulator.queue_url(f"send-{number}-{place}-")
            queues.create(emulator.client(), Catalogue.load(prefix))
            queue = f"send-{number}-{place}-gifts"
            environment = {
                **application(database.url, emulator.url, prefix),
                "BENCH_QUEUE_URL": emulator.queue_url(queue),
            }
            database.create_gifts(first, first + messages - 1)
            database.queue_gifts(first, first + messages - 1)
            first += messages
            emulator.close_gate(queue)
            with running(home, "relay", RELAY, environment):
                emulator.wait_for(queue, "sent", messages, within=60)
                _wait_until_empty(database)
            relayed = emulator.seen(queue)
            emulator.close_gate(queue)
            with running(home, f"gifts-{place}", command, environment) as child:
                sample = drain(
                    emulator, queue, pollers, messages, child.pid, postgres=postgres.child.pid
                )
            sample["relayed_per_second"] = relayed["sent"] / relayed["sendSeconds"]
            samples[title].append(sample)
            _check(database, first - 1)
            done()
    return samples


def _wait_until_empty(database: Database) -> None:
    """A relay that is killed between publishing and its commit would publish again."""
    deadline = time.monotonic() + 30
    while database.count("outbox"):
        if time.monotonic() > deadline:
            raise StackError("the relay does not empty the outbox")
        time.sleep(0.05)


def _check(database: Database, expected: int) -> None:
    sent = database.count("gifts WHERE status = 'SENT'")
    attempts = database.count("attempts WHERE outcome = 'sent'")
    if not sent == attempts == expected:
        raise StackError(f"{expected} gifts were to be sent: {sent} are, in {attempts} attempts")
