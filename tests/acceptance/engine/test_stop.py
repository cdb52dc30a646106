"""Promise 6: a deploy loses nothing, repeats nothing and hides nothing for long."""

from __future__ import annotations

import time
from collections import Counter

from tests.acceptance.engine.site import POLL_WAIT, Site


def test_what_runs_is_finished_and_what_waits_goes_to_another_worker_at_once(site: Site) -> None:
    """The queue hides a message for a minute: whatever is run before that was given back."""
    first = site.worker("steady")
    names = {str(n) for n in range(12)}
    site.send_many("steady", "sleep", [{"n": n, "seconds": 2.5} for n in names])
    site.wait_until(
        lambda: site.depths("steady")[1] == 12 and len(site.ledger.read("start")) >= 2,
        within=20,
        what="two run and ten wait",
    )
    running = {entry["n"] for entry in site.ledger.read("start")}
    first.stop()
    stopped_at = time.monotonic()
    assert first.wait() == 0, first.output
    # Given back before the running ones were finished, and not after.
    assert {entry["n"] for entry in site.ledger.read("end")} == running
    assert site.depths("steady") == (12 - len(running), 0), "hidden, or not deleted"
    second = site.worker("steady", concurrency=6)
    site.wait_for("end", names, within=20)
    site.wait_until_empty("steady", within=5)
    assert site.ledger.counts("start") == Counter(dict.fromkeys(names, 1))
    assert {e["main"] for e in site.ledger.read("start") if e["n"] not in running} == {second.pid}
    assert time.monotonic() - stopped_at < 45


def test_what_waits_is_visible_before_what_runs_is_finished(site: Site) -> None:
    first = site.worker("steady", concurrency=1)
    site.send_many("steady", "sleep", [{"n": n, "seconds": 5} for n in range(8)])
    site.wait_until(lambda: site.depths("steady")[1] == 8, within=20, what="all are received")
    site.wait_until(lambda: site.ledger.read("start"), within=10, what="one runs")
    first.stop()
    site.wait_until(lambda: site.depths("steady")[0] == 7, within=3, what="seven are visible")
    assert first.alive
    assert site.ledger.read("end") == []
    first.wait()
    assert len(site.ledger.read("end")) == len(site.ledger.read("start")) == 1
    assert site.depths("steady") == (7, 0)


def test_deletes_are_flushed_before_the_end(site: Site) -> None:
    worker = site.worker("steady", concurrency=4)
    site.send_many("steady", "noop", [{"n": n} for n in range(100)])
    site.wait_until(lambda: len(site.ledger.read("end")) >= 20, within=20, what="some are done")
    worker.stop()
    assert worker.wait() == 0
    done = len(site.ledger.read("end"))
    assert len(site.ledger.read("start")) == done
    assert site.depths("steady") == (100 - done, 0)


def test_a_delete_that_fails_at_the_end_is_tried_again_first(site: Site) -> None:
    worker = site.worker("steady", concurrency=1)
    site.send("steady", "sleep", n="last", seconds=1.5)
    site.wait_for("start", ["last"], within=20)
    refused: list[str] = []

    def once(call: object) -> set[str]:
        if refused:
            return set()
        refused.append("0")
        return {"0"}

    with site.proxy.failing_entries(
        lambda call: once(call) if call.action == "DeleteMessageBatch" else set()
    ):
        worker.stop()
        assert worker.wait() == 0
    assert refused
    assert site.is_empty("steady")


def test_a_task_longer_than_the_grace_time_is_given_back(site: Site) -> None:
    """It is ended, which is no failure of its own, and another worker has it at once."""
    worker = site.worker("steady", concurrency=1, GRACE="3")
    site.send("steady", "sleep", n="long", seconds=40)
    site.wait_for("start", ["long"], within=20)
    worker.stop()
    began = time.monotonic()
    worker.wait(within=20)
    assert time.monotonic() - began < 3 + 8
    site.wait_until(lambda: site.depths("steady") == (1, 0), within=5, what="it is visible")
    assert site.ledger.counts("start") == {"long": 1}
    assert site.ledger.read("end") == []
    assert site.ledger.read("failure") == []


def test_an_open_long_poll_hides_nothing_for_longer_than_the_timeout(site: Site) -> None:
    """A message that comes between TERM and the end of the poll is run, or given back."""
    timeout = site.catalogue["steady"].visibility_timeout
    first = site.worker("steady", POLL_WAIT="5")
    site.wait_until(
        lambda: site.proxy.at_work() and not site.proxy.find("ReceiveMessage")[-1].ended,
        within=10,
        what="a long poll is open",
    )
    first.stop()
    names = [f"late-{n}" for n in range(3)]
    site.send_many("steady", "noop", [{"n": n} for n in names])
    assert first.wait() == 0
    site.wait_until(lambda: not site.proxy.at_work(), within=10, what="the poll has ended")
    site.worker("steady")
    site.wait_for("end", names, within=timeout / 3)
    assert site.ledger.counts("start") == Counter(dict.fromkeys(names, 1))


def test_an_idle_worker_ends_soon(site: Site) -> None:
    worker = site.worker("steady", "short", "long")
    worker.stop()
    began = time.monotonic()
    assert worker.wait() == 0
    assert time.monotonic() - began < POLL_WAIT + 5
    assert "Traceback" not in worker.output, worker.output


def test_no_poll_begins_after_term(site: Site) -> None:
    worker = site.worker("steady", concurrency=1)
    site.send("steady", "sleep", n="last", seconds=POLL_WAIT + 2)
    site.wait_for("start", ["last"], within=20)
    worker.stop()
    site.wait_until(
        lambda: (
            any("stop" in line.lower() for line in worker.said("INFO", "WARNING"))
            or "shutdown" in worker.output.lower()
        ),
        within=3,
        what="it knows",
    )
    stopped_at = time.monotonic()
    worker.wait()
    assert site.proxy.count("ReceiveMessage", since=stopped_at) == 0
    assert site.is_empty("steady")


def test_twenty_rolling_restarts_under_load_repeat_and_hide_nothing(site: Site) -> None:
    """As ECS does it: the new worker is there before the old one is told to stop."""
    names: list[str] = []

    def send(count: int) -> None:
        more = [str(len(names) + n) for n in range(count)]
        site.send_many("steady", "sleep", [{"n": n, "seconds": 0.2} for n in more])
        names.extend(more)

    send(100)
    workers = [site.worker("steady") for _ in range(2)]
    for turn in range(20):
        workers.append(site.worker("steady", ready=False))
        old = workers.pop(0)
        old.stop()
        assert old.wait() == 0, old.output
        site.wait_until_ready(workers[-1])
        assert len(site.ledger.read("end")) < len(names), f"no load at restart {turn}"
        if sum(site.depths("steady")) < 150:
            send(100)
    site.wait_for("end", names, within=60)
    site.wait_until_empty("steady", within=10)
    assert site.ledger.counts("start") == Counter(dict.fromkeys(names, 1))
    assert site.dead_letters("steady") == {}
    received = first_receives(site)
    hidden = [each["at"] - received[each["message_id"]] for each in site.ledger.read("start")]
    assert max(hidden) < 30, "the queue hides a message for 60 s"


def first_receives(site: Site) -> dict[str, float]:
    """When a worker first took each message, by its id."""
    first: dict[str, float] = {}
    for call in site.proxy.find("ReceiveMessage"):
        for message in call.answer.get("Messages") or []:
            assert call.ended is not None
            first.setdefault(message["MessageId"], call.ended)
    return first


def test_a_second_term_does_not_wait_and_loses_nothing(site: Site) -> None:
    """Whoever sends it cannot wait; what is ended half-way is there for another worker."""
    worker = site.worker("steady", concurrency=1)
    site.send("steady", "sleep", n="long", seconds=30)
    site.wait_for("start", ["long"], within=20)
    worker.stop()
    site.wait_until(lambda: "stopping" in worker.output, within=5, what="it knows")
    worker.stop()
    worker.wait(within=8)
    site.wait_until(lambda: site.depths("steady") == (1, 0), within=5, what="it is visible")
    assert site.ledger.counts("start") == {"long": 1}
    assert site.ledger.read("end") == []
    assert site.ledger.read("failure") == []
