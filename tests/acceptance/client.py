"""A REST client as a caller would write it, and waiting without sleeping for luck."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import requests

FINAL = ("SENT", "FAILED")


class Client:
    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers["X-API-Key"] = key

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._http.request(method, self.url + path, timeout=30, **options)

    def create(self, **fields: Any) -> str:
        """Returns the new gift's id."""
        answer = self.request("POST", "/gifts", json={"amount": 100, **fields})
        assert answer.status_code == 201, answer.text
        gift_id: str = answer.json()["gift_id"]
        return gift_id

    def send(self, gift_id: str, key: str | None = None) -> requests.Response:
        headers = {"Idempotency-Key": key or f"send-{gift_id}"}
        return self.request("POST", f"/gifts/{gift_id}/send", headers=headers)

    def create_and_send(self, **fields: Any) -> str:
        gift_id = self.create(**fields)
        answer = self.send(gift_id)
        assert answer.status_code == 202, answer.text
        return gift_id

    def get(self, gift_id: str) -> dict[str, Any]:
        answer = self.request("GET", f"/gifts/{gift_id}")
        assert answer.status_code == 200, answer.text
        gift: dict[str, Any] = answer.json()
        return gift

    def attempts(self, gift_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]]
        items = self.request("GET", f"/gifts/{gift_id}/attempts").json()["items"]
        return items

    def outcomes(self, gift_id: str) -> list[str]:
        return [attempt["outcome"] for attempt in self.attempts(gift_id)]

    def wait_until_final(self, gift_ids: Iterable[str], *, within: float) -> Counter[str]:
        """The number of gifts by final state."""
        statuses: dict[str, str] = dict.fromkeys(gift_ids, "")

        def all_final() -> bool:
            for gift_id in [each for each, status in statuses.items() if status not in FINAL]:
                statuses[gift_id] = self.get(gift_id)["status"]
            return all(status in FINAL for status in statuses.values())

        wait_until(
            all_final, within=within, what=lambda: f"all final: {Counter(statuses.values())}"
        )
        return Counter(statuses.values())


def wait_until(
    condition: Callable[[], Any], *, within: float, what: Callable[[], str] | str = "it"
) -> None:
    """Ask again and again; AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {within} s: {what if isinstance(what, str) else what()}"
            )
        time.sleep(0.1)


def fresh_key() -> str:
    return str(uuid.uuid4())
