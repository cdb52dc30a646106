"""The part of Datadog's API that `okuru datadog sync` uses, on a real socket, in memory.

It answers as the API does: with ids, defaults and times that it was not given, thresholds as
floats, lists page by page, dashboards in lists without their widgets.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API_KEY = "api-key-that-nobody-may-see"
APP_KEY = "app-key-that-nobody-may-see"


@dataclass
class Account:
    """What an account holds, and what was asked of it."""

    slos: dict[str, dict[str, Any]] = field(default_factory=dict)
    monitors: dict[str, dict[str, Any]] = field(default_factory=dict)
    dashboards: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, int]] = field(default_factory=list)
    """Method and status of the next answers to it, instead of the true ones."""
    after_writing: list[int] = field(default_factory=list)
    """Status of the next answers to a write that was carried out all the same."""
    forbidden: bool = False
    instead: list[tuple[int, bytes]] = field(default_factory=list)
    """Status and body of the next answers, whatever is asked."""
    moved: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Method to the status of a redirect and the address to which it sends."""
    meanwhile: list[Callable[[], object]] = field(default_factory=list)
    """Done one after the other before the next writes are."""
    dropped: list[str] = field(default_factory=list)
    """Methods whose next requests are carried out, and the line cut before the answer."""
    rest: float = 0
    """Seconds before every answer, and before each of its bytes."""
    endless: bool = False
    """Every page of a list is the first."""
    url: str = ""
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1001))

    def store(self, path: str) -> dict[str, dict[str, Any]]:
        return {"slo": self.slos, "monitor": self.monitors, "dashboard": self.dashboards}[path]

    def everything(self) -> str:
        return json.dumps([self.slos, self.monitors, self.dashboards], sort_keys=True)

    def writes(self) -> list[tuple[str, str]]:
        """The requests since the last look that change something."""
        found = [each for each in self.requests if each[0] != "GET"]
        self.requests.clear()
        return found

    def create(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        made = {**_defaults(kind, body), "id": number if kind == "monitor" else f"id-{number}"}
        self.store(kind)[str(made["id"])] = made
        return made


def _defaults(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(json.dumps(body))
    answer["created_at"] = "2026-01-31T09:30:00.000Z"
    answer["creator"] = {"email": "someone@example.com", "name": None}
    if kind == "monitor":
        options = answer.setdefault("options", {})
        for name, limit in options.get("thresholds", {}).items():
            options["thresholds"][name] = float(limit)
        options.setdefault("silenced", {})
        options.setdefault("new_host_delay", 300)
        answer["tags"] = sorted(answer.get("tags", []))
        answer["overall_state"] = "No Data"
    if kind == "dashboard":
        for number, widget in enumerate(answer.get("widgets", [])):
            widget["id"] = number
            for inner, each in enumerate(widget["definition"].get("widgets", [])):
                each["id"] = inner
        answer["url"] = "/dashboard/abc"
    return answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    account: Account

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def _handle(self) -> None:
        account, parts = self.account, urlsplit(self.path)
        account.requests.append((self.command, parts.path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if moved := account.moved.get(self.command):
            return self._answer(moved[0], {}, Location=moved[1] + self.path)
        if account.instead:
            return self._answer(*account.instead.pop(0))
        if self.headers.get("DD-API-KEY") != API_KEY:
            return self._answer(401, {"errors": ["Unauthorized"]})
        if account.forbidden or self.headers.get("DD-APPLICATION-KEY") != APP_KEY:
            # Worse than the real one: it says the key that it was given.
            said = f"Forbidden for {self.headers.get('DD-APPLICATION-KEY')}"
            return self._answer(403, {"errors": [said]})
        for planned in account.failures:
            if planned[0] == self.command:
                account.failures.remove(planned)
                return self._answer(planned[1], {"errors": ["not now"]})
        if self.command != "GET" and account.meanwhile:
            account.meanwhile.pop(0)()
        kind, _, identity = parts.path.removeprefix("/api/v1/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        status, answer = self._answered(kind, identity, query, json.loads(body) if body else {})
        if self.command != "GET" and account.after_writing:
            status, answer = account.after_writing.pop(0), {"errors": ["lost on its way"]}
        if self.command in account.dropped:
            account.dropped.remove(self.command)
            self.close_connection = True
            return None
        return self._answer(status, answer)

    def _answered(
        self, kind: str, identity: str, query: dict[str, str], body: dict[str, Any]
    ) -> tuple[int, Any]:
        store = self.account.store(kind)
        if identity and identity not in store:
            return 404, {"errors": [f"{kind} {identity} not found"]}
        if self.command == "POST":
            return 200, self._wrapped(kind, self.account.create(kind, body))
        if self.command == "PUT":
            store[identity] = {**_defaults(kind, body), "id": store[identity]["id"]}
            return 200, self._wrapped(kind, store[identity])
        if self.command == "DELETE":
            del store[identity]
            return 200, {}
        if self.account.endless:
            query = {**query, **dict.fromkeys(("page", "offset", "start"), "0")}
        return 200, store[identity] if identity else self._listed(kind, store, query)

    @staticmethod
    def _wrapped(kind: str, made: dict[str, Any]) -> Any:
        return {"data": [made], "errors": []} if kind == "slo" else made

    @staticmethod
    def _listed(kind: str, store: dict[str, Any], query: dict[str, str]) -> Any:
        items = list(store.values())
        if tag := query.get("monitor_tags") or query.get("tags_query"):
            items = [each for each in items if tag in each.get("tags", [])]
        if kind == "monitor":
            size, first = int(query["page_size"]), int(query["page"]) * int(query["page_size"])
            return items[first : first + size]
        if kind == "slo":
            first, size = int(query["offset"]), int(query["limit"])
            return {"data": items[first : first + size], "errors": []}
        first, size = int(query["start"]), int(query["count"])
        names = ("id", "title", "description", "layout_type", "url")
        shown = [{name: each.get(name) for name in names} for each in items]
        return {"dashboards": shown[first : first + size]}

    def _answer(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("X-Ratelimit-Reset", "1")
        for name, value in headers.items():
            self.send_header(name, value)
        time.sleep(self.account.rest)
        self.end_headers()
        if not self.account.rest:
            self.wfile.write(data)
            return
        with suppress(OSError):  # who has asked has gone
            for byte in data:
                self.wfile.write(bytes([byte]))
                time.sleep(self.account.rest)


@contextmanager
def serving() -> Iterator[Account]:
    """An empty account at `account.url`."""
    account = Account()
    handler = type("Handler", (_Handler,), {"account": account})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    account.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield account
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
