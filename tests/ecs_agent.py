"""Amazon ECS's endpoint for the containers of a task, on a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Agent(HTTPServer):
    """Grants what it is asked for, unless told otherwise."""

    status = 200
    answer: bytes | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api/some-id"

    @property
    def wishes(self) -> list[bool]:
        return [asked["ProtectionEnabled"] for asked in self.asked]


class Handler(BaseHTTPRequestHandler):
    server: Agent

    def do_PUT(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, **asked})
        answer = self.server.answer
        if answer is None:
            granted = {"ProtectionEnabled": asked["ProtectionEnabled"], "TaskArn": "arn"}
            answer = json.dumps({"protection": granted}).encode()
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def ecs_agent() -> Iterator[Agent]:
    with Agent() as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
