"""Promise 5: a long task runs once; a worker that is dead or hung, or holds too long, lets go."""

from __future__ import annotations

import signal

import pytest

from tests.acceptance.engine.site import Site


def test_a_task_of_three_times_the_timeout_starts_once(site: Site) -> None:
    """With another worker that would love to have it, and a task that waits for its turn."""
    timeout = site.catalogue["long"].visibility_timeout
    for _ in range(2):
        site.worker("long", concurrency=1)
    names = ["one", "two", "three"]
    site.send_many("long", "sleep", [{"n": n, "seconds": 3 * timeout + 0.5} for n in names])
    site.wait_for("end", names, within=8 * timeout + 10)
    site.wait_until_empty("long", within=5)
    assert site.ledger.counts("start") == dict.fromkeys(names, 1)
    assert site.ledger.read("failure") == []


def test_what_waits_in_a_worker_is_held_as_well(site: Site) -> None:
    """Prefetched messages of a short timeout, behind tasks that take longer than that."""
    timeout = site.catalogue["short"].visibility_timeout
    for _ in range(2):
        site.worker("short", concurrency=1)
    names = [str(n) for n in range(12)]
    site.send_many("short", "sleep", [{"n": n, "seconds": timeout / 3} for n in names])
    site.wait_for("end", names, within=12 * timeout)
    site.wait_until_empty("short", within=5)
    assert site.ledger.counts("start") == dict.fromkeys(names, 1)


def test_a_long_task_does_not_wait_behind_another_while_a_worker_is_idle(site: Site) -> None:
    for _ in range(2):
        site.worker("long", concurrency=1)
    names = ["one", "two"]
    site.send_many("long", "sleep", [{"n": n, "seconds": 2} for n in names])
    site.wait_for("end", names, within=20)
    one, two = site.ledger.read("start")
    assert one["main"] != two["main"]
    assert abs(one["at"] - two["at"]) < 1.5


def test_the_declared_maximum_ends_the_hold(site: Site) -> None:
    queue = site.catalogue["capped"]
    for _ in range(2):
        site.worker("capped", concurrency=1)
    site.send("capped", "sleep", n="hung", seconds=30)
    site.wait_until(
        lambda: len(site.ledger.read("start")) >= 2, within=20, what="a second worker has it"
    )
    first, second = site.ledger.read("start")[:2]
    assert first["main"] != second["main"]
    gap = second["at"] - first["at"]
    assert queue.max_hold - 0.5 < gap < queue.max_hold + queue.visibility_timeout + 2, gap


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_worker_that_is_no_more_holds_nothing(site: Site, number: signal.Signals) -> None:
    timeout = site.catalogue["long"].visibility_timeout
    workers = {worker.pid: worker for worker in (site.worker("long", concurrency=1) for _ in "12")}
    site.send("long", "sleep", n="left", seconds=4 * timeout)
    site.wait_for("start", ["left"], within=20)
    [first] = site.ledger.read("start")
    workers[first["main"]].signal(number)
    site.wait_until(
        lambda: len(site.ledger.read("start")) >= 2, within=4 * timeout + 5, what="another has it"
    )
    second = site.ledger.read("start")[1]
    assert second["main"] != first["main"]
    assert second["at"] - first["at"] < 3 * timeout


def test_a_worker_whose_event_loop_hangs_lets_go(site: Site) -> None:
    """Its other threads live, and must not keep for ever what nobody acknowledges."""
    timeout = site.catalogue["long"].visibility_timeout
    workers = [site.worker("long", concurrency=1, HUNG_AFTER="3") for _ in "12"]
    by_pid = {worker.pid: worker for worker in workers}
    site.send("long", "sleep", n="left", seconds=20)
    site.wait_for("start", ["left"], within=20)
    [first] = site.ledger.read("start")
    by_pid[first["main"]].signal(signal.SIGUSR2)
    site.wait_until(lambda: site.ledger.read("hung"), within=5, what="its loop hangs")
    site.wait_until(
        lambda: len(site.ledger.read("start")) >= 2, within=3 + 4 * timeout + 5, what="another has"
    )
    assert site.ledger.read("start")[1]["main"] != first["main"]
    assert any("hang" in line for line in by_pid[first["main"]].said("ERROR"))


def test_an_outage_shorter_than_the_timeout_lets_nothing_go(site: Site) -> None:
    """Extensions that fail are tried again before the visibility is over."""
    for _ in range(2):
        site.worker("short", concurrency=1)
    site.send("short", "sleep", n="held", seconds=7)
    site.wait_for("start", ["held"], within=20)
    for _ in range(3):
        before = site.proxy.count("ChangeMessageVisibilityBatch")
        with site.proxy.failing_entries(lambda call: {entry["Id"] for entry in call.entries}):
            site.wait_until(
                lambda seen=before: site.proxy.count("ChangeMessageVisibilityBatch") > seen,
                within=5,
                what="an extension",
            )
        seen = site.proxy.count("ChangeMessageVisibilityBatch")
        site.wait_until(
            lambda seen=seen: (
                site.proxy.count("ChangeMessageVisibilityBatch") > seen or site.ledger.read("end")
            ),
            within=5,
            what="one more",
        )
    site.wait_for("end", ["held"], within=15)
    assert site.ledger.counts("start") == {"held": 1}
