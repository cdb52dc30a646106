"""`okuru health`, asked of a process that says one thing or another of itself."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from pytest_httpserver import HTTPServer
from werkzeug import Response

from okuru.health import ANSWER_WITHIN, STALE_AFTER, health


class Process:
    """What answers in the container."""

    def __init__(self, server: HTTPServer) -> None:
        self.text, self.status = "", 200
        self._server = server
        server.expect_request(re.compile("")).respond_with_handler(
            lambda _: Response(self.text, self.status)
        )

    @property
    def paths(self) -> list[str]:
        return [request.path for request, _ in self._server.log]

    def says(self, part: str, *, age: float) -> None:
        stamp = time.time() - age
        self.text = f'other{{part="{part}"}} 1.0\nokuru_progress_timestamp_seconds{{part="{part}"}} {stamp!r}\n'  # noqa: E501


def listening_on(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", str(port))
    monkeypatch.setenv("METRICS_PORT", str(port))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")


@pytest.fixture
def process(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Process:
    listening_on(httpserver.port, monkeypatch)
    return Process(httpserver)


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


def test_a_web_that_hangs_does_not(
    ask: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as kernel:  # which takes the connection all the same
        listening_on(kernel.getsockname()[1], monkeypatch)
        answer = ask("web")
    assert answer.exit_code == 1
    assert "does not answer" in answer.output
    assert ANSWER_WITHIN < 5  # ECS gives the check as much


@pytest.mark.parametrize("stamp", ["NaN", "+Inf", "-Inf", "9e9", "soon", ""])
def test_what_is_no_time_is_no_progress(
    process: Process, ask: Callable[[str], Result], stamp: str
) -> None:
    process.text = f'okuru_progress_timestamp_seconds{{part="relay"}} {stamp}\n'
    answer = ask("relay")
    assert answer.exit_code == 1
    assert answer.output.startswith("Error: ")


def test_what_is_no_http_is_no_answer(
    ask: Callable[[str], Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listening_on(server.getsockname()[1], monkeypatch)

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"nonsense\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        told = ask("web")
        answering.join(10)
    assert told.exit_code == 1
    assert "does not answer" in told.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost", None])
def test_it_asks_this_container_where_the_process_listens_by_default(
    monkeypatch: pytest.MonkeyPatch, host: str | None
) -> None:
    for name in ("HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)
    if host:
        monkeypatch.setenv("HOST", host)
    asked: list[str] = []
    monkeypatch.setattr("okuru.health._get", asked.append)
    assert CliRunner().invoke(health, ["web"]).exit_code == 0
    assert asked == ["http://127.0.0.1:8080/healthz"]


@pytest.mark.parametrize("port", ["http", "99999", "80 80"])
def test_a_port_that_is_none_is_said(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], Result], port: str
) -> None:
    monkeypatch.setenv("METRICS_PORT", port)
    told = ask("worker")
    assert told.exit_code == 1
    assert "does not answer" in told.output


@pytest.mark.parametrize("port", ["", "0"])
def test_without_a_port_nothing_can_be_said(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], Result], port: str
) -> None:
    monkeypatch.setenv("METRICS_PORT", port)
    answer = ask("worker")
    assert answer.exit_code == 1
    assert "METRICS_PORT is not set" in answer.output
