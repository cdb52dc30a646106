"""The channel with several queues of long tasks: who is asked, for how much, and for how long."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engine import transport
from tasks.engine.catalogue import Catalogue, Queue
from tasks.engine.transport import DRY_FOR, ENGINE_PAUSE, RECEIVE_MARGIN, ReceiveFailed
from tests.unit.engine.test_transport import Orders, done, make_channel, message

WEIGHTS = {"high": 6, "middle": 3, "low": 1}
CATALOGUE = Catalogue(
    {
        name: Queue(
            name=name, description="Tests.", visibility_timeout=60, max_receive_count=5,
            backoff=(10, 30, 60, 120), retention_days=14, prefetch=1, max_hold=300, weight=weight,
        )
        for name, weight in WEIGHTS.items()
    },
    "http://127.0.0.1:1/000000000000/unit-",
)  # fmt: skip
SHORT, LONG = 0, 20


class OfAnyQueue(Orders):
    def delete(self, url: str, handle: str, *, within: float) -> None:
        self.deleted.append(handle)

    def hide(self, url: str, handle: str, seconds: int, *, within: float) -> None:
        self.hidden.append((handle, seconds))


@dataclass
class Poll:
    queue: str
    count: int
    wait: int
    answer: Any


@dataclass
class Worker:
    """A channel, and what SQS and the pool would do around it."""

    processes: int = 2
    now: float = 1000.0
    timeout: float = 0.0
    orders: OfAnyQueue = field(default_factory=OfAnyQueue)
    running: list[Any] = field(default_factory=list)
    open: dict[str, Poll] = field(default_factory=dict)
    #: Of all polls so far: queue, messages asked for, seconds.
    polls: list[tuple[str, int, int]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.channel = make_channel(CATALOGUE, self.orders)
        self.channel.asynsqs = lambda queue: self  # the connection that it receives by
        self.channel.basic_qos(0, self.processes, False)
        for name in WEIGHTS:
            self.channel.basic_consume(name, False, self.running.append, name)

    def receive_message(
        self, queue: str, _url: str, *, number_messages: int, wait_time_seconds: int, callback: Any
    ) -> None:
        assert queue not in self.open, "one poll a queue"
        self.polls.append((queue, number_messages, wait_time_seconds))
        self.open[queue] = Poll(queue, number_messages, wait_time_seconds, callback)

    def turn(self) -> list[tuple[str, int, int]]:
        """Let the event loop turn. Returns the polls that have begun."""
        before = len(self.polls)
        soon = self.channel.hub.soon
        while soon:
            name, *arguments = soon.pop(0)
            getattr(self.channel, name)(*arguments)
        return self.polls[before:]

    def brings(self, queue: str, count: int = 0) -> list[tuple[str, int, int]]:
        """A poll ends with so many messages."""
        messages = [message(handle=f"{queue}-{next(self._numbers)}") for _ in range(count)]
        self.open.pop(queue).answer({"Messages": messages})
        return self.turn()

    def fails(self, queue: str) -> list[tuple[str, int, int]]:
        self.open.pop(queue).answer(ReceiveFailed("HTTP 503"))
        return self.turn()

    def resumes(self) -> list[tuple[str, int, int]]:
        """The pauses and delays so far are over."""
        before = len(self.polls)
        later, self.channel.hub.later = self.channel.hub.later, []
        for _delay, (name, *arguments) in later:
            getattr(self.channel, name)(*arguments)
        self.turn()
        return self.polls[before:]

    def finishes(self) -> list[tuple[str, int, int]]:
        """The task that began first is done."""
        first = self.running.pop(0)
        done(first)
        self.channel.basic_ack(first.delivery_tag)
        return self.turn()

    def falls_idle(self) -> None:
        """From its start."""
        for name in WEIGHTS:
            self.brings(name)
        assert {poll.wait for poll in self.open.values()} == {LONG}
        self.polls.clear()

    @property
    def asked(self) -> int:
        """By short polls, for which there must be room."""
        return sum(poll.count for poll in self.open.values() if poll.wait == SHORT)


@contextmanager
def running_worker() -> Iterator[Worker]:
    worker = Worker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: worker.now))
        worker.turn()
        yield worker
        worker.channel.close()


@pytest.fixture
def worker() -> Iterator[Worker]:
    with running_worker() as worker:
        yield worker


# --- with messages on all queues ----------------------------------------------------------------


def test_one_queue_at_a_time_is_asked_for_what_fits(worker: Worker) -> None:
    assert worker.polls == [("high", 2, SHORT)]
    assert worker.brings("high", 1) == [("middle", 1, SHORT)], "there is one more free process"
    assert worker.brings("middle", 1) == [], "now there is none"
    assert worker.finishes() == [("high", 1, SHORT)]
    assert worker.orders.hidden == []


def test_a_backlog_is_shared_as_the_weights_say_and_nothing_is_given_back(worker: Worker) -> None:
    brought: Counter[str] = Counter()
    for _ in range(500):
        assert len(worker.running) + worker.asked <= worker.processes
        if not worker.open:
            worker.finishes()
        [poll] = worker.open.values()
        brought[poll.queue] += poll.count
        worker.brings(poll.queue, poll.count)
    assert {wait for *_, wait in worker.polls} == {SHORT}
    assert worker.orders.hidden == []
    total = sum(brought.values())
    for name, weight in WEIGHTS.items():
        assert brought[name] / total == pytest.approx(weight / 10, abs=0.01)


def test_a_process_that_frees_during_a_poll_is_filled_beside_it(worker: Worker) -> None:
    worker.brings("high", 2)
    assert worker.finishes() == [("middle", 1, SHORT)]
    assert worker.finishes() == [("high", 1, SHORT)]
    worker.brings("middle", 1)
    worker.brings("high", 1)
    assert (worker.orders.hidden, len(worker.running)) == ([], 2)


def test_a_dry_queue_is_left_alone_for_a_second(worker: Worker) -> None:
    worker.brings("high")
    worker.brings("middle", 2)
    for _ in range(5):
        assert worker.finishes()[0][0] != "high"
        [poll] = worker.open
        worker.brings(poll, 1)
    worker.now += DRY_FOR
    asked = []
    for _ in range(5):
        worker.finishes()
        [poll] = worker.open
        asked.append(poll)
        worker.brings(poll, 1)
    assert "high" in asked


# --- with nothing to do -------------------------------------------------------------------------


def test_when_all_are_dry_each_has_a_long_poll(worker: Worker) -> None:
    for name in WEIGHTS:
        assert list(worker.open) == [name]
        worker.brings(name)
    assert worker.polls[3:] == [(name, 2, LONG) for name in WEIGHTS]


def test_an_idle_worker_costs_a_call_a_queue_and_long_poll(worker: Worker) -> None:
    worker.falls_idle()
    for _ in range(10):
        for name in WEIGHTS:  # not at one moment
            worker.now += LONG / 3
            assert worker.brings(name) == [(name, 2, LONG)]


def test_what_a_long_poll_brings_is_followed_up(worker: Worker) -> None:
    worker.falls_idle()
    assert worker.brings("low", 1) == [("low", 1, SHORT)], "it may have more"
    assert worker.brings("low") == [("low", 1, LONG)]


def test_a_burst_on_all_queues_is_given_back_once(worker: Worker) -> None:
    worker.falls_idle()
    for name in WEIGHTS:
        worker.brings(name, 2)
    assert [each.delivery_tag.split("-")[0] for each in worker.running] == ["high", "high"]
    assert [seconds for _, seconds in worker.orders.hidden] == [0] * 4
    assert worker.polls == []
    worker.orders.hidden.clear()
    for _ in range(20):
        [(name, count, wait)] = worker.finishes()
        assert (count, wait) == (1, SHORT)
        worker.brings(name, 1)
    assert worker.orders.hidden == []


def test_a_long_poll_that_is_still_open_keeps_no_room(worker: Worker) -> None:
    """Or its empty queue would idle a process for as long as it stays open."""
    worker.falls_idle()
    worker.brings("high", 2)
    assert worker.finishes() == [("high", 1, SHORT)]
    worker.brings("high", 1)
    assert worker.brings("low") == [], "and none begins while the pool is at work"
    assert worker.brings("middle") == []


# --- what else may happen -----------------------------------------------------------------------


def test_a_queue_that_fails_pauses_by_itself(worker: Worker) -> None:
    assert worker.fails("high") == [("middle", 2, SHORT)]
    worker.now += 2 * DRY_FOR
    worker.brings("middle")
    assert worker.brings("low") == [("middle", 2, LONG), ("low", 2, LONG)], "the others are dry"
    assert worker.resumes() == [("high", 2, SHORT)]
    assert worker.brings("high") == [("high", 2, LONG)]


def test_a_queue_that_fails_in_a_long_poll_pauses_as_well(worker: Worker) -> None:
    worker.falls_idle()
    assert worker.fails("high") == []
    worker.now += 2 * DRY_FOR
    assert worker.brings("low", 1) == [("low", 1, SHORT)]
    assert worker.brings("low") == [("low", 1, LONG)]
    assert worker.resumes() == [("high", 1, SHORT)]


def test_a_short_poll_that_hangs_ends_soon(worker: Worker) -> None:
    """Until then it keeps its room."""
    assert worker.timeout == SHORT + RECEIVE_MARGIN
    worker.falls_idle()
    assert worker.timeout == LONG + RECEIVE_MARGIN


def test_a_cancelled_queue_is_not_asked_and_keeps_no_room(worker: Worker) -> None:
    worker.channel.basic_cancel("high")
    worker.turn()
    assert worker.brings("high", 1) == [("middle", 2, SHORT)]
    assert [seconds for _, seconds in worker.orders.hidden] == [0]
    worker.brings("middle")
    assert worker.brings("low") == [("middle", 2, LONG), ("low", 2, LONG)]
    worker.channel.basic_consume("high", False, worker.running.append, "high")
    assert worker.turn() == [("high", 2, SHORT)]


def test_a_pool_that_grows_is_filled_and_one_that_shrinks_waits(worker: Worker) -> None:
    worker.brings("high", 2)
    worker.channel.basic_qos(0, 3, False)
    [(name, count, _)] = worker.turn()
    assert count == 1
    worker.brings(name, 1)
    worker.channel.basic_qos(0, 1, False)
    assert worker.turn() == []
    assert worker.finishes() == []
    assert worker.finishes() == []
    assert [count for _, count, _ in worker.finishes()] == [1]


def test_a_poll_is_for_ten_at_most(worker: Worker) -> None:
    worker.brings("high", 2)
    worker.channel.basic_qos(0, 16, False)
    assert worker.turn() == [("middle", 10, SHORT), ("high", 4, SHORT)]


def test_nothing_is_asked_while_the_engine_pauses_or_the_worker_stops(worker: Worker) -> None:
    worker.brings("high", 2)
    worker.channel.engine.is_pausing = True
    assert worker.finishes() == []
    assert {delay for delay, _ in worker.channel.hub.later} == {ENGINE_PAUSE}
    for _ in range(5):
        assert worker.resumes() == []
        assert len(worker.channel.hub.later) == len(WEIGHTS), "the waiting do not multiply"
    worker.channel.engine.is_pausing = False
    [(name, count, wait)] = worker.resumes()
    assert (count, wait) == (1, SHORT)
    worker.channel.engine.is_stopping = True
    assert worker.channel.open_polls == 1
    assert worker.brings(name, 1) == []
    assert worker.finishes() == []
    assert worker.channel.open_polls == 0


@settings(deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_whatever_happens_no_process_is_forgotten(chance: random.Random) -> None:
    """A free process has a poll that may fill it; no more is asked for than fits."""
    with running_worker() as worker:
        backlog: Counter[str] = Counter()
        for _ in range(150):
            worker.now += chance.choice([0, 0.1, 0.7])
            match chance.choice(["send", "answer", "answer", "finish", "finish", "fail", "resume"]):
                case "send":
                    backlog[chance.choice(list(WEIGHTS))] += chance.randint(1, 4)
                case "answer" if worker.open:
                    poll = worker.open[chance.choice(list(worker.open))]
                    count = min(poll.count, backlog[poll.queue])
                    backlog[poll.queue] -= count
                    began = worker.brings(poll.queue, count)
                    backlog[poll.queue] += len(worker.orders.hidden)
                    worker.orders.hidden.clear()
                    if any(wait == LONG for *_, wait in began):
                        assert worker.asked == 0, "a long poll begins when all are dry"
                case "finish" if worker.running:
                    worker.finishes()
                case "fail" if worker.open:
                    worker.fails(chance.choice(list(worker.open)))
                case "resume":
                    worker.resumes()
            free = worker.processes - len(worker.running)
            assert free >= 0
            pausing = worker.channel._pausing
            if free and len(pausing) < len(WEIGHTS):
                assert worker.open, "nobody is asked"
            if free and not worker.asked:
                assert worker.open.keys() | pausing == WEIGHTS.keys()
