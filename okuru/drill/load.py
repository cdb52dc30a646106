"""Callers as they should be: each asks again, under the same key, until it is told yes."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import requests

#: Seconds between two tries: a 503 asks for some patience.
TRY_AGAIN_AFTER = 0.5


class Load:
    """Sends gifts at an even pace, in a `with` block, until it is stopped.

    Attributes:
        accepted: the ids of the gifts whose send was acknowledged.
    """

    def __init__(self, url: str, key: str, *, per_second: float) -> None:
        self.accepted: list[str] = []
        self._url, self._key, self._every = url, key, 1 / per_second
        self._over = threading.Event()
        self._abandoned = threading.Event()
        self._callers = ThreadPoolExecutor(16, thread_name_prefix="caller")
        self._asking: list[Future[None]] = []
        self._mine = threading.local()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="load", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._abandoned.set()
        self._callers.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Send no more; those who were told no are still asking."""
        self._over.set()

    @property
    def is_over(self) -> bool:
        """Whether nobody is asking any more."""
        return self._over.is_set() and all(each.done() for each in self._asking)

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self._asking.append(self._callers.submit(self._send))

    def _send(self) -> None:
        gift_id = self._ask("/gifts", {"amount": 100}).json()["gift_id"]
        self._ask(f"/gifts/{gift_id}/send", None)
        self.accepted.append(gift_id)

    def _ask(self, path: str, body: dict[str, Any] | None) -> requests.Response:
        if not hasattr(self._mine, "http"):
            self._mine.http = requests.Session()
            self._mine.http.trust_env = False
            self._mine.http.headers["X-API-Key"] = self._key
        pause = 0.0
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        while not self._abandoned.wait(pause):
            pause = TRY_AGAIN_AFTER
            try:
                answer: requests.Response = self._mine.http.post(
                    self._url + path, json=body, headers=headers, timeout=10
                )
                if answer.ok:
                    return answer
            except requests.RequestException:
                pass  # nobody is there, for now
        raise RuntimeError("the drill is over")
