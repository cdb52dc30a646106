"""Promise 4, the engine's half: five deliveries, each failure told to the application, then the
dead-letter queue. What the rows make of it is tests/integration's."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import Any

import pytest

from tasks.engine.application import Cause
from tests.acceptance.engine.conftest import MakeSite
from tests.acceptance.engine.messages import task
from tests.acceptance.engine.queues import MAX_RECEIVES
from tests.acceptance.engine.site import Site

DIES_WITHIN = 60.0

#: How a task ends, as what the application is told.
ENDS: dict[str, tuple[str, Cause]] = {
    "raises": ("raises", Cause.RAISED),
    "soft limit": ("soft", Cause.RAISED),
    "hard limit": ("hard", Cause.TIME_LIMIT),
    "both limits": ("stubborn", Cause.TIME_LIMIT),
    "killed": ("dies", Cause.WORKER_LOST),
    "out of memory": ("memory", Cause.RAISED),
    "sys.exit": ("exits", Cause.RAISED),
    "no such task": ("nobody.knows", Cause.UNKNOWN_TASK),
}


class Deliveries:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.worker = site.worker("short", concurrency=4)
        bodies = [task(name, n=end) for end, (name, _) in ENDS.items()]
        self.ids = dict(zip(ENDS, site.send_bodies("short", bodies), strict=True))
        self.bad = site.send_bodies("short", ["no message of ours"])[0]
        site.wait_until_empty("short", within=DIES_WITHIN)
        self.dead = site.dead_letters("short")

    def failures(self, end: str) -> list[dict[str, Any]]:
        return self.site.ledger.read("failure", message_id=self.ids[end])


@pytest.fixture(scope="module")
def deliveries(module_sites: MakeSite) -> Deliveries:
    return Deliveries(module_sites())


@pytest.mark.parametrize("end", ENDS)
def test_each_of_five_deliveries_is_told_with_its_cause(deliveries: Deliveries, end: str) -> None:
    name, cause = ENDS[end]
    failures = deliveries.failures(end)
    assert [each["receive_count"] for each in failures] == list(range(1, MAX_RECEIVES + 1))
    assert [each["last_receive"] for each in failures] == [False] * 4 + [True]
    assert [each["cause"] for each in failures] == [cause] * MAX_RECEIVES
    for each in failures:
        assert each["reason"]
        assert (each["task"], each["queue"]) == (name, "short")
        assert each["kwargs"] == {"n": end}
        assert each["worker"].endswith(f":{deliveries.worker.pid}") or ":" in each["worker"]
    assert deliveries.ids[end] in deliveries.dead


@pytest.mark.parametrize("end", [end for end in ENDS if end != "no such task"])
def test_each_of_five_deliveries_is_run_and_none_besides(deliveries: Deliveries, end: str) -> None:
    starts = deliveries.site.ledger.read("start", message_id=deliveries.ids[end])
    assert [each["receive_count"] for each in starts] == list(range(1, MAX_RECEIVES + 1))


def test_what_is_no_message_of_ours_is_told_without_task_and_arguments(
    deliveries: Deliveries,
) -> None:
    failures = deliveries.site.ledger.read("failure", message_id=deliveries.bad)
    assert [each["receive_count"] for each in failures] == list(range(1, MAX_RECEIVES + 1))
    assert {(each["cause"], each["task"]) for each in failures} == {(Cause.BAD_MESSAGE, None)}
    assert all(each["kwargs"] == {} for each in failures)
    assert not any("ours" in each["reason"] for each in failures), "contents stay out of it"


def test_a_dead_letter_has_the_message_as_it_was(deliveries: Deliveries) -> None:
    assert deliveries.dead[deliveries.bad] == "no message of ours"


def test_a_failed_task_comes_back_after_its_back_off_and_may_succeed(site: Site) -> None:
    site.worker("short")
    site.send("short", "raises_until", receive=3, n="third")
    site.wait_for("end", ["third"], within=20)
    site.wait_until_empty("short", within=10)
    starts = site.ledger.read("start", n="third")
    assert [each["receive_count"] for each in starts] == [1, 2, 3]
    gaps = [two["at"] - one["at"] for one, two in itertools.pairwise(starts)]
    assert all(0.8 < gap < 3 for gap in gaps), gaps
    assert len(site.ledger.read("failure", n="third")) == 2


def test_a_verdict_is_no_failure(site: Site) -> None:
    """retry and expose deliver again, leave waits for the timeout, delete ends it."""
    site.worker("short")
    settles = ("delete", "retry", "expose", "leave")
    site.send_many("short", "verdict", [{"settle": s, "n": s, "times": 1} for s in settles])
    site.wait_until_empty("short", within=30)
    assert site.ledger.read("failure") == []
    assert site.ledger.counts("end") == {"delete": 1, "retry": 2, "expose": 2, "leave": 2}
    gap = {}
    for settle in settles[1:]:
        first, second = site.ledger.read("start", n=settle)
        gap[settle] = second["at"] - first["at"]
    assert gap["expose"] < 0.9 < gap["retry"] < 2.5 < gap["leave"] < 6, gap


def test_the_application_decides_what_becomes_of_a_failed_message(site: Site) -> None:
    site.worker("short")
    site.send("short", "raises", n="deleted", when_failed="delete")
    site.send("short", "dies", n="exposed", when_failed="expose")
    site.wait_until_empty("short", within=40)
    assert site.ledger.counts("failure") == {"deleted": 1, "exposed": MAX_RECEIVES}
    assert len(site.dead_letters("short")) == 1


def test_a_failure_that_cannot_be_recorded_does_not_lose_the_message(site: Site) -> None:
    worker = site.worker("short")
    site.send("short", "raises", n="unrecorded", when_failed="crash")
    site.wait_until_empty("short", within=40)
    assert len(site.dead_letters("short")) == 1
    assert site.ledger.counts("start") == {"unrecorded": MAX_RECEIVES}
    assert worker.alive


@pytest.mark.parametrize("name", ["raises", "dies", "outage"])
def test_an_outage_of_what_tasks_need_stops_receiving_until_it_is_over(
    site: Site, name: str
) -> None:
    """A failure that cannot be recorded for now is not lost, and burns few receives."""
    worker = site.worker("short")
    site.outage.touch()
    site.send("short", name, n="in an outage")
    site.wait_until(
        lambda: site.ledger.read("breaker", is_open=True), within=20, what="the breaker opens"
    )
    site.wait_until(lambda: not site.proxy.at_work(), within=10, what="the last poll has ended")
    site.send("short", n="later")
    receives = site.proxy.count("ReceiveMessage")
    began = time.monotonic()  # several looks of the breaker follow
    site.wait_until(lambda: time.monotonic() > began + 2, within=3, what="two seconds")
    assert site.proxy.count("ReceiveMessage") == receives
    assert site.ledger.counts("end")["later"] == 0
    site.outage.unlink()
    site.wait_for("end", ["later"], within=10)
    if name == "outage":
        site.wait_for("end", ["in an outage"], within=10)
        site.wait_until_empty("short", within=10)
    else:
        site.wait_until(
            lambda: site.ledger.counts("failure")["in an outage"] > 0, within=20, what="a record"
        )
    assert [each["is_open"] for each in site.ledger.read("breaker")] == [True, False]
    assert worker.alive


def test_a_pool_that_is_killed_whole_grows_again(site: Site) -> None:
    worker = site.worker("short", concurrency=3)
    for round_ in range(3):
        names = {f"{round_}-{n}" for n in range(3)}
        site.send_many("short", "sleep", [{"n": n, "seconds": 0.7} for n in names])
        site.wait_for("start", names, within=20)
        for pid in {e["pid"] for e in site.ledger.read("start") if e["n"] in names}:
            os.kill(pid, signal.SIGKILL)
        site.wait_for("end", names, within=30)
    assert worker.alive
    assert {each["cause"] for each in site.ledger.read("failure")} == {Cause.WORKER_LOST}
