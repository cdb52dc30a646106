"""Promise 1: a worker outlives its broker, says so once, and is in no hurry meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import psutil
import pytest

from tests.acceptance.client import wait_until
from tests.acceptance.engine.conftest import MakeSite
from tests.acceptance.engine.proxy import Fault
from tests.acceptance.engine.site import POLL_WAIT, Site, Worker

FAULTS = [
    Fault.ERROR_500,
    Fault.ERROR_503,
    Fault.THROTTLED,
    Fault.NO_QUEUE,
    Fault.FORBIDDEN,
    Fault.GARBAGE,
    Fault.HANG,
    Fault.CLOSE,
    Fault.REFUSE,
]
#: Seconds. Long enough for a busy loop to show, and for the pauses to grow.
OUTAGE = 5.0
#: Calls of one worker of one queue in that time: receives at 0, 1–2, 2–6 s; settling and keeping
#: invisible once a second each; what a worker asks at its start.
MAX_CALLS = 24
#: Seconds of the main process, which makes its clients meanwhile. A busy loop takes what it gets.
MAX_CPU = 5.0
#: Seconds: the pause between two tries has grown to at most 16 s.
RECOVERS_WITHIN = 25.0


@dataclass
class Outage:
    """What was seen of one, and of the time after it."""

    site: Site
    worker: Worker
    alive: bool = False
    ran_meanwhile: int = 0
    calls: int = 0
    cpu: float = 0.0
    said: list[str] = field(default_factory=list)
    said_afterwards: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def watch(outage: Outage) -> None:
    """Let the outage last, and keep what it did to the worker."""
    began, cpu = time.monotonic(), outage.worker.cpu_seconds()
    wait_until(lambda: time.monotonic() > began + OUTAGE, within=OUTAGE + 1)
    until = time.monotonic()
    outage.alive = outage.worker.alive
    outage.calls = outage.site.proxy.count(since=began, until=until)
    outage.cpu = outage.worker.cpu_seconds() - cpu if outage.alive else 0.0


def recover(outage: Outage) -> None:
    """End the outage, wait for everything that was sent; AssertionError if it does not come."""
    over = time.monotonic()
    outage.site.proxy.end()
    outage.said = outage.worker.said("WARNING", "ERROR", "CRITICAL", until=over)
    outage.site.wait_for("end", outage.names, within=RECOVERS_WITHIN)
    outage.site.wait_until_empty("steady", within=RECOVERS_WITHIN)
    outage.said_afterwards = outage.worker.said("INFO", "WARNING", since=over)


def at_start(site: Site, fault: Fault) -> Outage:
    site.proxy.begin(fault)
    outage = Outage(site, site.worker("steady", ready=False))
    outage.names = {f"start-{n}" for n in range(5)}
    site.send_many("steady", "noop", [{"n": n} for n in outage.names])

    site.wait_until_ready(outage.worker)
    watch(outage)
    recover(outage)
    return outage


def in_the_middle(site: Site, fault: Fault) -> Outage:
    """With tasks at work and others waiting, whose deletes fail, and new ones that come."""
    outage = Outage(site, site.worker("steady"))
    before = {f"before-{n}" for n in range(8)}
    during = {f"during-{n}" for n in range(5)}
    site.send_many("steady", "sleep", [{"n": n, "seconds": 0.8} for n in before])
    site.wait_until(lambda: len(site.ledger.read("start")) >= 2, within=20, what="a first task")
    site.proxy.begin(fault)
    # What SQS hands to a poll that was cut off is hidden from everybody: that is SQS's affair.
    site.wait_until(
        lambda: not site.proxy.at_work(), within=POLL_WAIT + 3, what="no poll is at SQS"
    )
    site.send_many("steady", "noop", [{"n": n} for n in during])
    outage.names = before | during
    watch(outage)
    outage.ran_meanwhile = len(site.ledger.read("end"))
    recover(outage)
    return outage


class Outages:
    """All of them at once: each waits much and works little."""

    def __init__(self, make_site: MakeSite) -> None:
        scenes = {"at start": at_start, "in the middle": in_the_middle}
        sites = {(scene, fault): make_site() for scene in scenes for fault in FAULTS}
        with ThreadPoolExecutor(6) as pool:
            self._results = {
                (scene, fault): pool.submit(scenes[scene], site, fault)
                for (scene, fault), site in sites.items()
            }
        for site in sites.values():  # alive until now: what a test looks at is in the result
            for worker in site.workers:
                worker.end()

    def __getitem__(self, key: tuple[str, Fault]) -> Outage:
        return self._results[key].result()


@pytest.fixture(scope="module")
def outages(module_sites: MakeSite) -> Outages:
    return Outages(module_sites)


@pytest.fixture(params=FAULTS, ids=str)
def fault(request: pytest.FixtureRequest) -> Fault:
    found: Fault = request.param
    return found


@pytest.fixture(params=["at start", "in the middle"])
def outage(outages: Outages, fault: Fault, request: pytest.FixtureRequest) -> Outage:
    return outages[request.param, fault]


def test_the_worker_lives_and_runs_everything_once(outage: Outage) -> None:
    assert outage.alive, outage.worker.output
    starts = outage.site.ledger.counts("start")
    assert starts == Counter(dict.fromkeys(outage.names, 1))
    assert outage.site.dead_letters("steady") == {}
    assert outage.site.ledger.read("failure") == []


def test_it_says_so_once_and_not_once_a_try(outage: Outage) -> None:
    assert outage.said, "nobody was told"
    repeated = {text: count for text, count in Counter(outage.said).items() if count > 1}
    assert not repeated, repeated
    assert len(outage.said) <= 4, outage.said


def test_it_says_that_the_outage_is_over(outage: Outage) -> None:
    assert any("again" in line or "goes on" in line for line in outage.said_afterwards), (
        outage.said_afterwards
    )


def test_it_is_in_no_hurry_meanwhile(outage: Outage) -> None:
    assert outage.calls <= MAX_CALLS
    assert outage.cpu < MAX_CPU


def test_what_it_holds_goes_on_meanwhile(outages: Outages, fault: Fault) -> None:
    """The event loop waits for no call: tasks that were received run, though SQS is away."""
    assert outages["in the middle", fault].ran_meanwhile >= 8


def test_a_lost_answer_to_a_delete_is_no_second_run(site: Site) -> None:
    """It was deleted; the worker does not know, and asks again."""
    worker = site.worker("steady")
    with site.proxy.fault(Fault.LOSE, "DeleteMessageBatch", "DeleteMessage"):
        names = [f"lost-{n}" for n in range(5)]
        site.send_many("steady", "noop", [{"n": n} for n in names])
        site.wait_for("end", names, within=20)
        site.wait_until(
            lambda: site.proxy.count("DeleteMessageBatch", "DeleteMessage") >= 2,
            within=10,
            what="a delete is tried again",
        )
    site.wait_until_empty("steady", within=10)
    assert site.ledger.counts("start") == Counter(dict.fromkeys(names, 1))
    assert worker.alive


@pytest.mark.parametrize(
    "actions",
    [("ReceiveMessage",), ("DeleteMessageBatch", "DeleteMessage")],
    ids=["receiving", "deleting"],
)
def test_one_half_of_sqs_fails_and_the_other_works(site: Site, actions: tuple[str, ...]) -> None:
    worker = site.worker("steady")
    names = {f"half-{n}" for n in range(6)}
    with site.proxy.fault(Fault.ERROR_503, *actions):
        if "ReceiveMessage" in actions:  # one that is open would still bring messages
            site.wait_until(lambda: not site.proxy.at_work(), within=POLL_WAIT + 3, what="no poll")
        site.send_many("steady", "noop", [{"n": n} for n in names])
        site.wait_until(
            lambda: len([c for c in site.proxy.find(*actions) if c.fault]) >= 2,
            within=15,
            what="two tries",
        )
    site.wait_for("end", names, within=RECOVERS_WITHIN)
    site.wait_until_empty("steady", within=10)
    assert site.ledger.counts("start") == Counter(dict.fromkeys(names, 1))
    assert worker.alive


def test_a_queue_that_is_away_does_not_slow_another_one(site: Site) -> None:
    worker = site.worker("steady", "short")
    url = site.catalogue.url("short")
    site.sqs.delete_queue(QueueUrl=url)
    site.wait_until(
        lambda: any("short" in line for line in worker.said("WARNING", "ERROR")),
        within=POLL_WAIT + 10,
        what="the queue is missed",
    )
    sent = time.monotonic()
    names = [f"beside-{n}" for n in range(10)]
    site.send_many("steady", "noop", [{"n": n} for n in names])
    site.wait_for("end", names, within=10)
    assert max(entry["at"] for entry in site.ledger.read("end")) - sent < 2
    assert worker.alive


def test_a_worker_that_is_stopped_in_an_outage_ends(site: Site) -> None:
    worker = site.worker("steady", GRACE="3")
    with site.proxy.fault(Fault.HANG):
        worker.stop()
        worker.wait(within=20)
    assert not psutil.pid_exists(worker.pid)
