"""Amazon ECS's endpoint for the containers of a task, on a real socket."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response


class Agent:
    """Grants what it is asked for, unless told otherwise."""

    def __init__(self, server: HTTPServer) -> None:
        self.status = 200
        self.answer: bytes | None = None
        self.asked: list[dict[str, Any]] = []
        self.uri = server.url_for("/api/some-id")
        server.expect_request(re.compile(""), method="PUT").respond_with_handler(self._answer)

    @property
    def wishes(self) -> list[bool]:
        return [asked["ProtectionEnabled"] for asked in self.asked]

    def _answer(self, request: Request) -> Response:
        asked = request.get_json(force=True)
        self.asked.append({"path": request.path, **asked})
        granted = {"ProtectionEnabled": asked["ProtectionEnabled"], "TaskArn": "arn"}
        return Response(self.answer or json.dumps({"protection": granted}), self.status)


@contextmanager
def ecs_agent() -> Iterator[Agent]:
    with HTTPServer() as server:
        yield Agent(server)
