"""Whatever crashes in between: what was accepted is sent, and sent once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import requests

from okuru.stack.stack import Stack
from tests.acceptance.client import Client, wait_until


def assert_sent_once(client: Client, gift_ids: list[str], *, within: float) -> None:
    assert client.wait_until_final(gift_ids, within=within) == {"SENT": len(gift_ids)}
    for gift_id in gift_ids:
        assert client.outcomes(gift_id).count("sent") == 1, (gift_id, client.outcomes(gift_id))


def executing(client: Client, gift_ids: Iterable[str]) -> Iterator[int]:
    """The pids of the worker children that are at work on these gifts."""
    for gift_id in gift_ids:
        for attempt in client.attempts(gift_id):
            if attempt["ended_at"] is None:
                yield int(attempt["worker"].rpartition(":")[2])


def test_killed_worker_children_lose_no_gift(stack: Stack, client: Client) -> None:
    gifts = [client.create_and_send(simulate={"delay_ms": 500}) for _ in range(16)]
    killed: set[int] = set()
    while len(killed) < 6:
        wait_until(lambda: set(executing(client, gifts)) - killed, within=60, what="an execution")
        for pid in set(executing(client, gifts)) - killed:
            killed.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert_sent_once(client, gifts, within=90)
    assert any("lost" in client.outcomes(gift) for gift in gifts), "no execution was hit"


def test_five_killed_executions_are_five_records_and_the_gift_has_failed(
    stack: Stack, client: Client
) -> None:
    """The dead cannot say so: their worker does, before SQS buries the message."""
    gift = client.create_and_send(simulate={"delay_ms": 20_000})
    killed: set[int] = set()

    def kill_and_look() -> bool:
        for pid in set(executing(client, [gift])) - killed:
            killed.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return client.get(gift)["status"] == "FAILED"

    wait_until(kill_and_look, within=90, what=lambda: f"failed: {client.attempts(gift)}")
    assert client.outcomes(gift) == ["lost"] * 5
    assert {attempt["error_code"] for attempt in client.attempts(gift)} == {"WORKER_LOST"}
    assert client.get(gift)["last_error"].startswith("WORKER_LOST")


def test_a_killed_worker_is_replaced_and_its_gifts_come_back(stack: Stack, client: Client) -> None:
    gifts = [client.create_and_send(simulate={"delay_ms": 1500}) for _ in range(4)]
    wait_until(lambda: client.outcomes(gifts[0]), within=60, what="a first execution")
    first = stack.processes["worker"].pid
    stack.processes["worker"].kill()
    # What it held is hidden until its visibility timeout of 30 s is over.
    assert_sent_once(client, gifts, within=90)
    assert stack.processes["worker"].pid != first


def test_a_stopped_worker_finishes_what_it_holds(stack: Stack, client: Client) -> None:
    gifts = [client.create_and_send(simulate={"delay_ms": 1500}) for _ in range(4)]
    wait_until(
        lambda: all(client.outcomes(gift) for gift in gifts), within=60, what="all executing"
    )
    stack.processes["worker"].kill(signal.SIGTERM)  # and the supervisor starts another
    assert_sent_once(client, gifts, within=60)
    assert [client.outcomes(gift) for gift in gifts] == [["sent"]] * 4


def test_a_killed_relay_publishes_twice_and_nothing_is_sent_twice(
    stack: Stack, client: Client
) -> None:
    gifts = []
    for number in range(40):
        gifts.append(client.create_and_send())
        if number % 8 == 3:
            stack.processes["relay"].kill()
    assert_sent_once(client, gifts, within=90)


def test_a_frozen_sqs_is_not_noticed_by_callers(stack: Stack, client: Client) -> None:
    queue = psutil.Process(stack.sqs.child.pid)
    gifts = [client.create_and_send() for _ in range(5)]
    queue.suspend()
    try:
        frozen_at = time.monotonic()
        while time.monotonic() - frozen_at < 30:
            gifts.append(client.create_and_send())
            time.sleep(0.5)
        assert client.request("GET", "/readyz").status_code == 200
    finally:
        queue.resume()
    assert_sent_once(client, gifts, within=120)


def test_a_database_that_is_stopped_at_once_loses_no_accepted_send(
    stack: Stack, client: Client
) -> None:
    accepted: list[str] = []
    answers: set[int] = set()

    def caller(_: int) -> None:
        mine = Client(client.url, stack.keys["API_KEY"])
        until = time.monotonic() + 12
        while time.monotonic() < until:
            with suppress(requests.ConnectionError):
                made = mine.request("POST", "/gifts", json={"amount": 1})
                answers.add(made.status_code)
                if made.status_code == 201:
                    sent = mine.send(made.json()["gift_id"])
                    answers.add(sent.status_code)
                    if sent.status_code == 202:
                        accepted.append(made.json()["gift_id"])
            time.sleep(0.05)

    with ThreadPoolExecutor(4) as callers:
        running = callers.map(caller, range(4))
        wait_until(lambda: len(accepted) > 20, within=60, what="load")
        stack.postgres.child.signal(signal.SIGQUIT)  # an immediate shutdown: no checkpoint
        wait_until(lambda: not stack.postgres.child.alive, within=60, what="the database is down")
        wait_until(lambda: 503 in answers, within=60, what="callers are told")
        stack.postgres.start()
        stack.postgres.wait_until_ready()
        list(running)
    assert answers <= {201, 202, 503}
    assert_sent_once(client, accepted, within=120)


def test_a_frozen_database_is_503_and_recovers_by_itself(stack: Stack, client: Client) -> None:
    postmaster = psutil.Process(stack.postgres.child.pid)
    gifts = [client.create_and_send(simulate={"delay_ms": 300}) for _ in range(5)]
    everyone = [postmaster, *postmaster.children(recursive=True)]
    for process in everyone:
        process.suspend()
    try:
        assert client.request("GET", "/readyz").status_code == 503
        assert client.request("POST", "/gifts", json={"amount": 1}).status_code == 503
        assert client.request("GET", "/healthz").status_code == 200
    finally:
        for process in everyone:
            process.resume()
    wait_until(lambda: client.request("GET", "/readyz").ok, within=30, what="ready again")
    gifts.append(client.create_and_send())
    assert_sent_once(client, gifts, within=120)
