"""What waiting sends cost a process: its size after the same work, with few and many waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from okuru.stack.home import Home
from okuru.stack.postgres import Postgres
from tasks.engine import queues
from tasks.engine.catalogue import Catalogue
from tests.load import accept, gifts
from tests.load.consumer import rss, running
from tests.load.emulator import Emulator
from tests.load.environment import application
from tests.load.http_load import drive
from tests.load.noop import BEGIN_WITHIN, DRAIN_WITHIN
from tests.load.seeds import Database

#: What every process does before its size counts; at the same time as many of others wait, or none.
WORK = 100
SAMPLE_EVERY = 0.02


def measure(
    home: Home,
    emulator: Emulator,
    postgres: Postgres,
    *,
    waiting: int,
    done: Callable[[], None],
) -> dict[str, list[dict[str, Any]]]:
    """Fresh processes each time, few and many waiting in turn."""
    samples: dict[str, list[dict[str, Any]]] = {"web": [], "relay": [], "worker": []}
    for number, count in enumerate((WORK, waiting, WORK, waiting)):
        database = Database(postgres, f"memory_{number}")
        database.create_gifts(1, count + WORK)
        database.queue_gifts(1, count)
        for name, peak in (
            ("web", _web(home, emulator, database, count)),
            ("relay", _relay(home, emulator, database, number, count)),
            ("worker", _worker(home, emulator, database, number)),
        ):
            samples[name].append({"waiting": count, "rss_mib": peak / 2**20})
            done()
    return samples


def _web(home: Home, emulator: Emulator, database: Database, waiting: int) -> int:
    numbers = range(waiting + 1, waiting + WORK + 1)
    with accept.serving(home, emulator, database) as (port, key, pid), _peak(pid) as peak:
        requests = [accept.request(accept.OUTBOX, number, port, key) for number in numbers]
        drive(port, requests, connections=accept.CONNECTIONS)
    database.execute(f"DELETE FROM outbox WHERE id > {waiting}")
    return peak()


def _relay(home: Home, emulator: Emulator, database: Database, number: int, waiting: int) -> int:
    """The size after the whole backlog: the relay takes it hundred by hundred."""
    queue, environment = _place(emulator, database, number)
    queues.create(emulator.client(), Catalogue.load(environment["QUEUE_URL_PREFIX"]))
    emulator.close_gate(queue)
    with running(home, "relay", gifts.RELAY, environment) as child, _peak(child.pid) as peak:
        emulator.wait_for(queue, "sent", waiting, within=DRAIN_WITHIN)
    return peak()


def _worker(home: Home, emulator: Emulator, database: Database, number: int) -> int:
    """The size after the first `WORK` sends, the others still waiting."""
    queue, environment = _place(emulator, database, number)
    emulator.close_gate(queue)
    command, pollers = gifts.CONTENDERS["this engine"]
    with running(home, "worker", command, environment) as child:
        emulator.wait_for(queue, "held", pollers, within=BEGIN_WITHIN)
        with _peak(child.pid) as peak:
            emulator.open_gate(queue)
            emulator.wait_for(queue, "deleted", WORK, within=DRAIN_WITHIN)
    return peak()


def _place(emulator: Emulator, database: Database, number: int) -> tuple[str, dict[str, str]]:
    prefix = emulator.queue_url(f"memory-{number}-")
    return f"memory-{number}-gifts", application(database.url, emulator.url, prefix)


@contextmanager
def _peak(pid: int) -> Iterator[Callable[[], int]]:
    """Gives what tells the largest size of the largest process of the tree during the block."""
    sizes = [rss(pid)]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_EVERY):
            sizes.append(rss(pid))

    watcher = threading.Thread(target=watch, name="memory")
    watcher.start()
    try:
        yield lambda: max(sizes)
        sizes.append(rss(pid))
    finally:
        over.set()
        watcher.join()
