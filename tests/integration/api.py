"""What the tests of the API share: the envelope, the rows, the log, a real web server."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import Engine, text
from werkzeug.test import TestResponse

from app import db
from okuru.stack import ports
from okuru.stack.child import Child
from okuru.stack.home import Home

DEADLINE = 30.0

#: Reads the log lines since the last look.
Events = Callable[[], list[dict[str, Any]]]


def refused(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Check that this is the one error envelope; return what is in it."""
    assert (response.status_code, response.content_type) == (status, "application/json")
    body: dict[str, Any] = response.get_json()
    assert body.keys() == {"error", "request_id"}
    error: dict[str, Any] = body["error"]
    assert {"code", "message"} <= error.keys() <= {"code", "message", "details"}
    assert error["code"] == code
    assert error["message"]
    assert error.get("details") != {}
    assert body["request_id"] == response.headers["X-Request-ID"]
    for internal in ("Traceback", "psycopg2", "sqlalchemy", "SELECT", "app/"):
        assert internal not in response.text
    return error


def answered(ask: Callable[[], TestResponse]) -> TestResponse:
    """What a caller gets who asks again after a 503: nothing was done, the service was busy."""
    for _ in range(20):
        answer = ask()
        if answer.status_code != 503:
            break
    return answer


def contents(engine: Engine) -> dict[str, int]:
    """How many rows each table has, accounts and keys aside."""
    tables = {table.name for table in db.Base.metadata.sorted_tables} - {"users", "api_keys"}
    with engine.connect() as connection:
        return {
            name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one()
            for name in sorted(tables)
        }


def empty(engine: Engine) -> None:
    """Delete all rows, as the `engine` fixture does after each test."""
    with engine.begin() as connection:
        tables = ", ".join(table.name for table in db.Base.metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {tables} CASCADE"))


def samples(exposition: str, name: str) -> dict[str, float]:
    """The samples of one metric, by their labels, in the text of `/metrics`."""
    found = re.findall(rf"^{name}{{(.*)}} (\S+)$", exposition, flags=re.MULTILINE)
    return {labels: float(value) for labels, value in found}


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until it holds; fail after a deadline that only a broken system needs."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class WebServer:
    url: str
    log: Path

    def events(self) -> list[dict[str, Any]]:
        """Its log lines so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def web_server(folder: Path, **environment: str) -> Iterator[WebServer]:
    """The `web` of the Procfile: a real gunicorn with its own processes, until the block ends."""
    home = Home(folder)
    home.run.mkdir(parents=True)
    port = ports.choose(taken=set())
    child = Child(home, "web")
    log = folder / "web.log"
    with log.open("wb") as output:
        child.start(
            [sys.executable, "-m", "gunicorn", "--config", "app/server.py", "app:create_app()"],
            # Nothing of the test's own, its folder of metrics least of all.
            {
                "ENVIRONMENT": "local",
                "LOG_FORMAT": "json",
                "DD_TRACE_ENABLED": "false",
                "PORT": str(port),
                "REDIS_URL": "redis://127.0.0.1:1/0",
                **environment,
            },
            output=output,
        )
        try:
            server = WebServer(f"http://{ports.LOOPBACK}:{port}", log)
            eventually(lambda: _answers(server, child), "the web server answers")
            yield server
        finally:
            child.stop(grace=10)


def _answers(server: WebServer, child: Child) -> bool:
    assert child.alive, server.log.read_text()
    try:
        return requests.get(f"{server.url}/healthz", timeout=2).ok
    except requests.ConnectionError:
        return False
