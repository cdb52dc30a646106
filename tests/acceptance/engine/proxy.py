"""A proxy between a worker and SQS that counts the calls and spoils them as it is told."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LOOPBACK = "127.0.0.1"
JSON_TYPE = "application/x-amz-json-1.0"


class Fault(StrEnum):
    """What may become of a call."""

    ERROR_500 = "500"
    ERROR_503 = "503"
    THROTTLED = "throttled"
    """A 400, as SQS answers to too many calls."""
    NO_QUEUE = "no queue"
    """A 400: the queue does not exist."""
    FORBIDDEN = "forbidden"
    """A 403, as a broken role gets it."""
    GARBAGE = "garbage"
    """A 200 of some other server."""
    HANG = "hang"
    """No answer, until the fault is over and the connection is closed."""
    CLOSE = "close"
    """The connection is reset."""
    REFUSE = "refuse"
    """Nobody listens."""
    LOSE = "lose"
    """SQS does what it is asked to; its answer never arrives."""


_AWS_ERRORS = {
    Fault.ERROR_500: (500, "InternalFailure", "AWS.SimpleQueueService.InternalFailure;Receiver"),
    Fault.ERROR_503: (503, "ServiceUnavailable", "ServiceUnavailable;Receiver"),
    Fault.THROTTLED: (400, "ThrottlingException", "ThrottlingException;Sender"),
    Fault.NO_QUEUE: (
        400,
        "QueueDoesNotExist",
        "AWS.SimpleQueueService.NonExistentQueue;Sender",
    ),
    Fault.FORBIDDEN: (403, "AccessDeniedException", "AccessDenied;Sender"),
}


@dataclass
class Call:
    """One call of a worker's."""

    action: str
    request: dict[str, Any]
    began: float
    fault: Fault | None = None
    ended: float | None = None
    onward: bool = False
    """Whether SQS is at it just now."""
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def queue(self) -> str:
        return str(self.request.get("QueueUrl", "")).rsplit("-", 1)[-1]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Of a batch."""
        entries: list[dict[str, Any]] = self.request.get("Entries", [])
        return entries


class Proxy:
    """Listens on a port of its own, which it keeps while nobody may connect."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (str(parts.hostname), parts.port)
        self.calls: list[Call] = []
        self._fault: Fault | None = None
        self._actions: frozenset[str] = frozenset()
        self._over = threading.Event()
        self._fail_entries: Callable[[Call], set[str]] | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port = 0
        self._listen()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def count(self, *actions: str, since: float = 0.0, until: float = float("inf")) -> int:
        """Calls that began in a time: of some actions, or of all."""
        return len(self.find(*actions, since=since, until=until))

    def find(self, *actions: str, since: float = 0.0, until: float = float("inf")) -> list[Call]:
        with self._lock:
            calls = list(self.calls)
        return [
            call
            for call in calls
            if since <= call.began < until and (not actions or call.action in actions)
        ]

    def at_work(self) -> bool:
        """Whether SQS still has a call of ours, which may hide a message that nobody will see."""
        return any(call.onward for call in self.find())

    @contextmanager
    def fault(self, kind: Fault, *actions: str) -> Iterator[None]:
        """Spoil calls for the length of a block: those of some actions, or all."""
        self.begin(kind, *actions)
        try:
            yield
        finally:
            self.end()

    def begin(self, kind: Fault, *actions: str) -> None:
        self._over.clear()
        self._actions, self._fault = frozenset(actions), kind
        if kind == Fault.REFUSE:
            self._stop_listening()
        if kind in (Fault.REFUSE, Fault.CLOSE) and not actions:
            self._drop_connections()

    def end(self) -> None:
        kind, self._fault = self._fault, None
        self._over.set()
        if kind == Fault.REFUSE:
            self._listen()

    @contextmanager
    def failing_entries(self, choose: Callable[[Call], set[str]]) -> Iterator[None]:
        """Answer for some entries of a batch, named by id, that SQS failed; it never sees them."""
        self._fail_entries = choose
        try:
            yield
        finally:
            self._fail_entries = None

    def close(self) -> None:
        self._over.set()
        self._stop_listening()
        self._drop_connections()

    # --- inside ---

    def _listen(self) -> None:
        proxy = self

        class Handler(_Handler):
            owner = proxy

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A worker that goes away, or was sent away."""

        self._server = Server((LOOPBACK, self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, args=[0.02], name="proxy", daemon=True
        ).start()

    def _stop_listening(self) -> None:
        self._server.shutdown()
        # Not server_close(): it would join threads that serve long polls.
        self._server.socket.close()

    def _drop_connections(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            reset(connection)

    def spoils(self, action: str) -> Fault | None:
        return self._fault if not self._actions or action in self._actions else None

    def entered(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def left(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def began(self, call: Call) -> None:
        with self._lock:
            self.calls.append(call)

    def wait_until_over(self) -> None:
        self._over.wait()

    def failed_entries(self, call: Call) -> set[str]:
        return self._fail_entries(call) if self._fail_entries and call.entries else set()


def reset(connection: socket.socket) -> None:
    """Close it with RST, also under a thread that reads from it."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.owner.entered(self.connection)
        self._onward: http.client.HTTPConnection | None = None

    def finish(self) -> None:
        self.owner.left(self.connection)
        if self._onward:
            self._onward.close()
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: the calls are kept."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = self._call(body)
        call.fault = self.owner.spoils(call.action)
        self.owner.began(call)
        try:
            self._answer(call, body)
        except (OSError, http.client.HTTPException):
            self.close_connection = True
        finally:
            call.ended = time.monotonic()

    do_GET = do_POST  # noqa: N815

    def _call(self, body: bytes) -> Call:
        target = self.headers.get("X-Amz-Target")
        if target:
            return Call(target.rpartition(".")[2], json.loads(body or b"{}"), time.monotonic())
        query = parse_qs(body.decode() or urlsplit(self.path).query)
        fields = {name: values[0] for name, values in query.items()}
        return Call(fields.get("Action", "?"), fields, time.monotonic())

    def _answer(self, call: Call, body: bytes) -> None:
        if call.fault in _AWS_ERRORS:
            status, code, query_code = _AWS_ERRORS[call.fault]
            error = {"__type": f"com.amazonaws.sqs#{code}", "message": f"{code}, says the proxy"}
            self._send(status, json.dumps(error).encode(), {"x-amzn-query-error": query_code})
        elif call.fault == Fault.GARBAGE:
            self._send(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
        elif call.fault == Fault.HANG:
            self.owner.wait_until_over()
            self._drop()
        elif call.fault in (Fault.CLOSE, Fault.REFUSE):
            self._drop()
        else:
            self._pass_on(call, body)

    def _drop(self) -> None:
        reset(self.connection)
        self.close_connection = True

    def _pass_on(self, call: Call, body: bytes) -> None:
        failed = self.owner.failed_entries(call)
        if failed:
            passed = [entry for entry in call.entries if entry["Id"] not in failed]
            body = json.dumps({**call.request, "Entries": passed}).encode()
        if failed and not passed:
            status, answer, headers = 200, b'{"Successful": []}', {}
        else:
            call.onward = True
            try:
                status, answer, headers = self._ask(body)
            finally:
                call.onward = False
        if failed:
            document = json.loads(answer)
            document["Failed"] = document.get("Failed", []) + [
                {"Id": name, "Code": "InternalError", "Message": "proxy", "SenderFault": False}
                for name in failed
            ]
            answer = json.dumps(document).encode()
        with suppress(ValueError):
            call.answer = json.loads(answer)
        if call.fault == Fault.LOSE or self.owner.spoils(call.action) in (
            Fault.CLOSE,
            Fault.REFUSE,
            Fault.LOSE,
        ):
            self._drop()
        else:
            self._send(status, answer, headers)

    def _ask(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self._onward is None:
            self._onward = http.client.HTTPConnection(*self.owner.upstream, timeout=60)
        kept = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in ("host", "content-length", "connection", "expect")
        }
        self._onward.request(self.command, self.path, body, kept)
        response = self._onward.getresponse()
        answer = response.read()
        kept_back = ("content-length", "transfer-encoding", "connection", "date", "server")
        headers = {
            name: value for name, value in response.getheaders() if name.lower() not in kept_back
        }
        return response.status, answer, headers

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": JSON_TYPE, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
