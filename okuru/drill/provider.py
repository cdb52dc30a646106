"""A provider of gifts for drills: it can be slow, or down."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class Provider(ThreadingHTTPServer):
    """Runs in a `with` block.

    Attributes:
        takes: seconds that it takes for an answer.
        is_down: whether it answers 503.
        accepted: the idempotency keys that it has accepted.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.takes = 0.0
        self.is_down = False
        self.accepted: set[str] = set()
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/gifts"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, name="provider", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A caller that gave up has closed its connection: no matter."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Provider

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.server.takes)  # it is a slow provider
        if not self.server.is_down:
            self.server.accepted.add(self.headers["Idempotency-Key"])
        self.send_response(503 if self.server.is_down else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
