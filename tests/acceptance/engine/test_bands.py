"""Queues of long tasks share the processes by their weights, and none starves."""

from __future__ import annotations

import time
from collections import Counter
from statistics import mean

from tests.acceptance.engine.queues import QUEUES
from tests.acceptance.engine.site import POLL_WAIT, Site

BANDS = ("high", "middle", "low")
EACH = 20


def test_a_backlog_on_three_queues_is_shared_by_weight_and_received_once(site: Site) -> None:
    names = {band: [f"{band}-{n}" for n in range(EACH)] for band in BANDS}
    for band in BANDS:
        site.send_many(band, "sleep", [{"n": n, "seconds": 0.1} for n in names[band]])
    everything = [n for band in BANDS for n in names[band]]
    worker = site.worker(*BANDS)
    site.wait_for("end", everything, within=20)
    for band in BANDS:
        site.wait_until_empty(band, within=5)

    ended = [entry["n"].split("-")[0] for entry in site.ledger.read("end")]
    place = {band: mean(at for at, each in enumerate(ended) if each == band) for band in BANDS}
    assert place["high"] < place["middle"] < place["low"], place
    total = sum(QUEUES[band]["weight"] for band in BANDS)
    assert "low" in ended[: total + len(BANDS)], ended

    starts = site.ledger.read("start")
    assert Counter(entry["n"] for entry in starts) == Counter(everything)
    again = [entry["n"] for entry in starts if entry["receive_count"] != 1]
    assert len(again) <= len(BANDS), again

    receives = site.proxy.find("ReceiveMessage", until=site.ledger.read("end")[-1]["at"])
    received = sum(len(call.answer.get("Messages", [])) for call in receives)
    assert received <= len(everything) + len(BANDS)
    # One a message; when one queue is done with, a call a second tries it again.
    assert len(receives) <= len(everything) + 5 * len(BANDS), len(receives)

    began = time.monotonic()
    polls = 2
    site.wait_until(
        lambda: time.monotonic() > began + polls * POLL_WAIT, within=20, what="two polls"
    )
    idle = Counter(call.queue for call in site.proxy.find("ReceiveMessage", since=began))
    assert set(idle) == set(BANDS)
    assert max(idle.values()) <= polls + 1, "an idle worker has one long poll a queue"
    assert worker.alive
