"""Callers as they should be: each asks again, under the same key, until it is told yes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.acceptance.client import Client

CALLERS = 4
#: Seconds between two tries of one caller: a 503 asks for some patience.
TRY_AGAIN_AFTER = 0.25
#: Seconds that a caller asks for one gift.
PATIENCE = 90.0
#: Besides yes. 409 is a creation whose first request is still running.
NOT_YET = (409, 503)


class Load:
    """Gifts that are created and sent at an even pace: faults meet all of them.

    Attributes:
        created: gifts that exist. Each is noted before its send is asked for.
        accepted: gifts whose send was acknowledged.
        answers: how often the API answered what, `unreachable` included.
    """

    def __init__(
        self, client: Callable[[], Client], name: str, *, count: int, per_second: float
    ) -> None:
        self._client = client
        self._name = name
        self._count = count
        self._per_second = per_second
        self._mine = threading.local()
        self.created: set[str] = set()
        self.accepted: list[str] = []
        self.answers: Counter[str] = Counter()

    def run(self, on_sent: Callable[[], None] = lambda: None) -> None:
        """Raises AssertionError on an answer that no outage excuses, or on none in time."""
        started = time.monotonic()

        def one(number: int) -> None:
            # The pace, and not luck: without it all sends would be over before the second fault.
            time.sleep(max(0.0, started + number / self._per_second - time.monotonic()))
            key = f"{self._name}-{number}"
            made = self._ask(201, "/gifts", key, json={"amount": number + 1, "message": key})
            gift_id = made.json()["gift_id"]
            self.created.add(gift_id)
            self._ask(202, f"/gifts/{gift_id}/send", key)
            self.accepted.append(gift_id)
            on_sent()

        with ThreadPoolExecutor(CALLERS) as callers:
            list(callers.map(one, range(self._count)))

    def _ask(self, yes: int, path: str, key: str, **options: object) -> requests.Response:
        if not hasattr(self._mine, "client"):
            self._mine.client = self._client()
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                answer: requests.Response = self._mine.client.request(
                    "POST", path, headers={"Idempotency-Key": key}, **options
                )
            except (requests.ConnectionError, requests.Timeout):
                self.answers["unreachable"] += 1
            else:
                self.answers[str(answer.status_code)] += 1
                if answer.status_code in (yes, 200):  # 200: the first yes had not reached us
                    return answer
                assert answer.status_code in NOT_YET, f"{path}: {answer.status_code} {answer.text}"
            time.sleep(TRY_AGAIN_AFTER)
        raise AssertionError(f"{path}: no yes within {PATIENCE:g} s")
