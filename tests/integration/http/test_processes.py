"""What only a real gunicorn shows: several processes, chunked bodies, its own log lines."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from app import db
from app.http.context import MAX_BODY_BYTES
from app.http.worker import ANSWER_WITHIN
from tests.integration.api import WebServer, empty, eventually, samples, web_server

REQUESTS = 60


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the processes of the server share."""
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, database_url: str, metrics: Path
) -> Iterator[WebServer]:
    with web_server(
        tmp_path_factory.mktemp("web") / "home",
        DATABASE_URL=database_url,
        QUEUE_URL_PREFIX="http://127.0.0.1:1/000000000000/none-",
        WEB_PROCESSES="2",
        WEB_THREADS="4",
        PROMETHEUS_MULTIPROC_DIR=str(metrics),
    ) as server:
        yield server
    engine = db.engine_for(database_url, db.OPERATOR)
    empty(engine)
    engine.dispose()


def counted(server: WebServer, labels: str) -> float:
    metrics = requests.get(f"{server.url}/metrics", timeout=10).text
    return samples(metrics, "okuru_http_requests_total").get(labels, 0)


def test_the_metrics_of_all_processes_are_added_up(server: WebServer) -> None:
    labels = 'method="GET",route="unmatched",status="404"'
    before = counted(server, labels)

    def ask(number: int) -> int:
        # A connection each: the kernel spreads them over the processes.
        return requests.get(f"{server.url}/nowhere/{number}", timeout=10).status_code

    with ThreadPoolExecutor(16) as callers:
        assert set(callers.map(ask, range(REQUESTS))) == {404}

    answers = {counted(server, labels) for _ in range(10)}
    assert answers == {before + REQUESTS}, "whichever process answers, the sum is the same"


def test_what_a_killed_process_showed_of_itself_is_forgotten(
    server: WebServer, metrics: Path
) -> None:
    """Its counts stay. Not so a gauge like "the breaker is open": that one would never close."""

    def showing() -> set[str]:
        requests.get(f"{server.url}/nowhere", timeout=10)
        booted = re.findall(r"Booting worker with pid: (\d+)", server.log.read_text())
        return {pid for pid in booted if list(metrics.glob(f"gauge_live*_{pid}.db"))}

    eventually(lambda: bool(showing()), "a process shows something")
    pid = showing().pop()
    os.kill(int(pid), signal.SIGKILL)
    eventually(lambda: pid not in showing(), "it is forgotten")
    assert list(metrics.glob(f"counter_{pid}.db"))


def test_every_line_of_the_server_is_json_with_the_same_fields(server: WebServer) -> None:
    requests.get(f"{server.url}/nowhere", headers={"X-Request-ID": "trace-1"}, timeout=10)
    eventually(
        lambda: any(event.get("request_id") == "trace-1" for event in server.events()),
        "the request is in the log",
    )

    events = server.events()

    assert {event["service"] for event in events} == {"api"}
    assert "gunicorn.error" in {event["logger"] for event in events}
    for event in events:
        assert {"timestamp", "level", "service", "message", "status"} <= event.keys()


@pytest.mark.parametrize(
    ("size", "status"), [(100, 201), (MAX_BODY_BYTES, 201), (MAX_BODY_BYTES + 1, 413)]
)
def test_a_chunked_body_has_the_same_limit(server: WebServer, size: int, status: int) -> None:
    """It has no Content-Length. What is beyond the limit must not be cut off in silence."""
    body = b'{"amount": 5}'.ljust(size)
    chunks = (body[start : start + 4096] for start in range(0, size, 4096))

    response = requests.post(
        f"{server.url}/gifts",
        data=chunks,
        headers={"Content-Type": "application/json"},
        timeout=10,
    )

    assert response.status_code == status
    if status == 413:
        assert response.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("Idempotency-Key: a\x00b", 400),
        ("Content-Length: many", 400),
        ("X-Long: " + "x" * 9000, 431),
        ("Expect: nonsense", 417),
    ],
)
def test_what_gunicorn_refuses_is_the_envelope_too(
    server: WebServer, line: str, status: int
) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=10) as caller:
        caller.sendall(f"GET /gifts HTTP/1.1\r\nHost: {address.netloc}\r\n{line}\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: caller.recv(4096), b"")).partition(b"\r\n\r\n")

    assert int(head.split(b" ", 2)[1]) == status
    assert b"Content-Type: application/json" in head
    document = json.loads(body)
    assert document["error"]["code"] == "VALIDATION_ERROR"
    assert document["request_id"].encode() in head


@pytest.mark.parametrize("sent", ["\r\n{", ""], ids=["the body", "the head"])
def test_callers_who_never_finish_a_request_do_not_keep_the_others_out(
    server: WebServer, sent: str
) -> None:
    address = urlsplit(server.url)
    with ExitStack() as stack:
        callers = []
        for _ in range(12):  # more than there are threads
            caller = socket.create_connection((str(address.hostname), address.port or 0))
            callers.append(stack.enter_context(caller))
            head = f"POST /gifts HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 9\r\n"
            caller.sendall(f"{head}Content-Type: application/json\r\n{sent}".encode())

        # The first is hung up on long before a request would have to be answered.
        callers[0].settimeout(ANSWER_WITHIN - 2)
        assert not callers[0].recv(1)

        def answers() -> bool:
            try:
                return requests.get(f"{server.url}/healthz", timeout=2).ok
            except requests.RequestException:
                return False

        eventually(answers, "the server answers in spite of them")


@pytest.mark.parametrize("name", ["Idempotency-Key", "X-API-Key"])
def test_a_header_that_comes_twice_is_one_answer_and_no_500(server: WebServer, name: str) -> None:
    address = urlsplit(server.url)
    lines = [
        "GET /gifts HTTP/1.1",
        f"Host: {address.netloc}",
        f"{name}: first",
        f"{name}: second",
        "Connection: close",
        "",
        "",
    ]
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=10) as caller:
        caller.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: caller.recv(4096), b""))

    assert answer.split(b" ", 2)[1] == (b"401" if name == "X-API-Key" else b"200")
