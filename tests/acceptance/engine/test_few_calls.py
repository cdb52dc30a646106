"""Promise 8: few calls."""

from __future__ import annotations

import time
from collections import Counter

from tests.acceptance.engine.proxy import Call
from tests.acceptance.engine.site import POLL_WAIT, Site

#: Receive and delete calls a message, together.
AT_MOST = 0.35


def test_at_saturation_a_message_costs_a_third_of_a_call(site: Site) -> None:
    count = 1000
    names = [str(n) for n in range(count)]
    site.send_many("steady", "noop", [{"n": n} for n in names])
    site.worker("steady", concurrency=10)
    site.wait_for("end", names, within=60)
    site.wait_until_empty("steady", within=10)
    last = max(entry["at"] for entry in site.ledger.read("end"))
    receives = site.proxy.count("ReceiveMessage", until=last)
    deletes = site.proxy.count("DeleteMessage", "DeleteMessageBatch")
    assert (receives + deletes) / count <= AT_MOST, (receives, deletes)
    assert site.ledger.counts("start") == Counter(dict.fromkeys(names, 1))


def test_an_idle_worker_asks_each_queue_once_a_poll(site: Site) -> None:
    worker = site.worker("steady", "short")
    began = time.monotonic()
    polls = 3
    site.wait_until(
        lambda: time.monotonic() > began + polls * POLL_WAIT, within=20, what="three polls"
    )
    calls = site.proxy.find(since=began)
    assert {call.action for call in calls} == {"ReceiveMessage"}
    by_queue = Counter(call.queue for call in calls)
    assert set(by_queue) == {"steady", "short"}
    assert max(by_queue.values()) <= polls + 1, by_queue
    assert {call.request["WaitTimeSeconds"] for call in calls} == {POLL_WAIT}
    assert worker.alive


def test_a_long_tasks_queue_is_not_asked_while_the_pool_is_at_work(site: Site) -> None:
    site.worker("long", concurrency=1)
    site.send_many("long", "sleep", [{"n": n, "seconds": 5} for n in range(2)])
    site.wait_until(lambda: site.ledger.read("start"), within=20, what="it runs")
    began = time.monotonic()
    site.wait_until(lambda: site.ledger.read("end"), within=10, what="it is done")
    ended = site.ledger.read("end")[0]["at"]
    assert site.proxy.count("ReceiveMessage", since=began + 0.2, until=ended) == 0
    asked = [call.request["MaxNumberOfMessages"] for call in site.proxy.find("ReceiveMessage")]
    assert set(asked) == {1}


def test_a_new_poll_begins_as_soon_as_there_is_room(site: Site) -> None:
    """Not after some interval: one process, long messages, and hardly a pause between them."""
    site.worker("long", concurrency=1)
    site.send_many("long", "sleep", [{"n": n, "seconds": 0.3} for n in range(6)])
    site.wait_for("end", range(6), within=20)
    starts = [entry["at"] for entry in site.ledger.read("start")]
    ends = [entry["at"] for entry in site.ledger.read("end")]
    pauses = sorted(start - end for start, end in zip(starts[1:], ends, strict=False))
    assert pauses[len(pauses) // 2] < 0.3, pauses


def test_a_failed_entry_is_tried_again_alone(site: Site) -> None:
    refused: list[str] = []

    def first_of_a_batch(call: Call) -> set[str]:
        if call.action != "DeleteMessageBatch" or refused or len(call.entries) < 2:
            return set()
        entry = call.entries[0]
        refused.append(entry["ReceiptHandle"])
        return {entry["Id"]}

    names = [str(n) for n in range(40)]
    with site.proxy.failing_entries(first_of_a_batch):
        site.send_many("steady", "noop", [{"n": n} for n in names])
        site.worker("steady")
        site.wait_for("end", names, within=20)
        site.wait_until_empty("steady", within=10)
    deletes = site.proxy.find("DeleteMessageBatch")
    handles = Counter(entry["ReceiptHandle"] for call in deletes for entry in call.entries)
    assert refused
    assert handles.pop(refused[0]) == 2
    assert set(handles.values()) == {1}
    assert site.ledger.counts("start") == Counter(dict.fromkeys(names, 1))


def test_failed_messages_are_hidden_in_batches(site: Site) -> None:
    count = 40
    site.send_many("steady", "raises", [{"n": n} for n in range(count)])
    site.worker("steady", concurrency=4)
    site.wait_until(
        lambda: len(site.ledger.read("failure", receive_count=1)) == count,
        within=30,
        what="all have failed once",
    )
    changes = site.proxy.find("ChangeMessageVisibilityBatch", "ChangeMessageVisibility")
    entries = sum(max(1, len(call.entries)) for call in changes)
    assert len(changes) <= max(10, entries / 2), (len(changes), entries)
    assert site.proxy.count("ChangeMessageVisibility") == 0


def test_a_short_task_costs_no_extension(site: Site) -> None:
    names = [str(n) for n in range(30)]
    site.send_many("steady", "noop", [{"n": n} for n in names])
    site.worker("steady")
    site.wait_for("end", names, within=20)
    site.wait_until_empty("steady", within=10)
    assert site.proxy.count("ChangeMessageVisibilityBatch", "ChangeMessageVisibility") == 0
