"""A provider of gifts that misbehaves as it is told, and keeps the ledger.

A process of its own: it outlives every fault, and what stands in its ledger happened. It honours
its idempotency key: a second call with the same key has no second effect.

It ends when its standard input is closed, so whoever started it leaves nothing behind, however
they end.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import psutil
from standardwebhooks import Webhook, WebhookVerificationError

#: Where the signing secret is: an environment variable is not in the list of processes.
SECRET = "CHAOS_SECRET"

GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Rules:
    """How the provider behaves. Shares are of the calls that could have an effect.

    Attributes:
        seed: with the number of a call since these rules it decides what becomes of it.
        slow: the longest time that it takes, in seconds.
        fail: the share of calls that it answers by 503, without an effect.
        kill: the share whose effect is recorded and whose caller is then killed, unanswered.
        late: the share whose effect is recorded and whose answer comes `late_by` seconds later,
            when the caller has given up.
        repeat: its answer to a key that has had its effect: 409, or the first answer again.
    """

    seed: str = ""
    slow: float = 0.0
    fail: float = 0.0
    kill: float = 0.0
    late: float = 0.0
    late_by: float = 0.0
    repeat: Literal["conflict", "first"] = "conflict"

    def fate(self, number: int) -> tuple[str, float]:
        """What becomes of a call that could have an effect, and how long it takes.

        Evenly spread (Weyl's sequence): a dozen calls are enough for a share of a tenth to hit.
        """
        draw = (random.Random(self.seed).random() + number * GOLDEN) % 1
        takes = random.Random(f"{self.seed}/{number}").uniform(0, self.slow)
        for fate, share in {"failed": self.fail, "killed": self.kill, "late": self.late}.items():
            if draw < share:
                return fate, takes
            draw -= share
        return "accepted", takes


@dataclass
class Provider:
    """What all calls share."""

    ledger: int
    webhook: Webhook
    rules: Rules = field(default_factory=Rules)
    lock: threading.Lock = field(default_factory=threading.Lock)
    calls: int = 0
    effects: set[str] = field(default_factory=set)
    inside: dict[str, socket.socket] = field(default_factory=dict)

    def obey(self, rules: Rules) -> None:
        with self.lock:
            self.rules, self.calls = rules, 0

    def next_call(self) -> tuple[Rules, int]:
        with self.lock:
            self.calls += 1
            return self.rules, self.calls

    def enter(self, key: str, connection: socket.socket) -> bool:
        """Returns whether another caller is waiting for its answer about the same gift."""
        with self.lock:
            other = self.inside.get(key)
            self.inside[key] = connection
        return other is not None and _is_open(other)

    def decide(self, key: str, fate: str, **facts: Any) -> str:
        """Write the call into the ledger, before anybody can know its answer."""
        with self.lock:
            self.inside.pop(key, None)
            if key in self.effects:
                fate = "repeated"
            effect = fate in ("accepted", "killed", "late")
            if effect:
                self.effects.add(key)
            self.write(key=key, fate=fate, effect=effect, **facts)
        return fate

    def write(self, **entry: Any) -> None:
        # One write to a file opened for appending: whole, or not at all.
        os.write(self.ledger, json.dumps({"at": time.time(), **entry}).encode() + b"\n")


def _is_open(connection: socket.socket) -> bool:
    """Whether the caller still waits: a killed one's system has closed its end."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


class Handler(BaseHTTPRequestHandler):
    """One connection, and so one calling process."""

    protocol_version = "HTTP/1.1"
    provider: Provider

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/rules":
            self.provider.obey(Rules(**json.loads(body)))
            self._answer(204)
        else:
            self._deliver(body)

    def _deliver(self, body: bytes) -> None:
        key = self.headers.get("Idempotency-Key", "")
        rules, number = self.provider.next_call()
        try:
            self.provider.webhook.verify(body, {n.lower(): v for n, v in self.headers.items()})
        except WebhookVerificationError:
            self.provider.write(key=key, fate="forged", effect=False)
            self._answer(401)
            return
        fate, takes = rules.fate(number)
        overlap = self.provider.enter(key, self.connection)
        time.sleep(takes)  # it is a slow provider
        fate = self.provider.decide(
            key,
            fate,
            number=number,
            execution=int(self.headers["Okuru-Execution"]),
            overlap=overlap,
            digest=hashlib.sha256(body).hexdigest(),  # not the body: it holds the gift's code
        )
        if fate == "killed":
            self._kill_caller(key)
        elif fate == "late":
            time.sleep(rules.late_by)
        if fate == "failed":
            self._answer(503)
        elif fate == "repeated" and rules.repeat == "conflict":
            self._answer(409)
        elif fate != "killed":
            self._answer(200)

    def _kill_caller(self, key: str) -> None:
        caller = _owner(self.client_address[1])
        if caller is not None:
            self.provider.write(key=key, fate="kill", effect=False, pid=caller)
            with suppress(ProcessLookupError):
                os.kill(caller, signal.SIGKILL)
        self.close_connection = True

    def _answer(self, status: int) -> None:
        with suppress(OSError):  # the caller may have given up, or be dead
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, *_: Any) -> None:
        """The ledger is the log."""


def _owner(port: int) -> int | None:
    """The process at the other end of a connection, sought among those of our own starter only:
    no stranger can be meant by a mistake."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(os.getppid()).children(recursive=True):
            with suppress(psutil.Error):
                if process.pid != os.getpid() and any(
                    connection.laddr.port == port for connection in process.net_connections("tcp")
                ):
                    return int(process.pid)
    return None


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A caller that is killed resets its connection: that is what this is for."""


def main() -> None:
    ledger = os.open(Path(sys.argv[1]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    Handler.provider = Provider(ledger, Webhook(os.environ[SECRET]))
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
