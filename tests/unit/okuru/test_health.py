"""`okuru health`, asked of a process that says one thing or another of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner, Result

from okuru.health import ANSWER_WITHIN, STALE_AFTER, health


class Process(HTTPServer):
    """What answers in the container."""

    text = ""
    status = 200
    paths: list[str]

    def says(self, part: str, *, age: float) -> None:
        stamp = time.time() - age
        self.text = f'other{{part="{part}"}} 1.0\nokuru_progress_timestamp_seconds{{part="{part}"}} {stamp!r}\n'  # noqa: E501


class Handler(BaseHTTPRequestHandler):
    server: Process

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    with Process(("127.0.0.1", 0), Handler) as server:
        server.paths = []
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        monkeypatch.setenv("HOST", "0.0.0.0")
        monkeypatch.setenv("PORT", str(server.server_port))
        monkeypatch.setenv("METRICS_PORT", str(server.server_port))
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        yield server
        server.shutdown()


@pytest.fixture
def ask() -> Callable[[str], Result]:
    return lambda name: CliRunner().invoke(health, [name])


PARTS = [("worker", "receive"), ("jobs", "receive"), ("relay", "relay"), ("beat", "beat")]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_process_that_gets_on_is_well(
    process: Process, ask: Callable[[str], Result], name: str, part: str
) -> None:
    process.says(part, age=STALE_AFTER - 5)
    answer = ask(name)
    assert answer.exit_code == 0, answer.output
    assert "55 s ago" in answer.output
    assert process.paths == ["/metrics"]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_process_that_hangs_is_not(
    process: Process, ask: Callable[[str], Result], name: str, part: str
) -> None:
    process.says(part, age=STALE_AFTER + 1)
    answer = ask(name)
    assert answer.exit_code == 1
    assert "no progress for 61 s" in answer.output


def test_what_another_part_says_does_not_count(
    process: Process, ask: Callable[[str], Result]
) -> None:
    process.says("relay", age=0)
    assert ask("worker").exit_code == 1
    process.text = ""
    assert ask("relay").exit_code == 1


def test_the_clock_was_put_back(process: Process, ask: Callable[[str], Result]) -> None:
    process.says("beat", age=-3600)
    assert ask("beat").exit_code == 0


def test_the_web_has_to_answer(process: Process, ask: Callable[[str], Result]) -> None:
    assert ask("web").exit_code == 0
    assert process.paths == ["/healthz"]
    process.status = 500
    assert ask("web").exit_code == 1
    process.status = 200
    process.shutdown()
    answer = ask("web")  # the kernel still takes the connection
    assert answer.exit_code == 1
    assert "does not answer" in answer.output
    assert ANSWER_WITHIN < 5  # ECS gives the check as much


@pytest.mark.parametrize("port", ["", "0"])
def test_without_a_port_nothing_can_be_said(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], Result], port: str
) -> None:
    monkeypatch.setenv("METRICS_PORT", port)
    answer = ask("worker")
    assert answer.exit_code == 1
    assert "METRICS_PORT is not set" in answer.output
