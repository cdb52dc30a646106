"""A proxy in front of the local SQS that writes down who calls what, on which queue."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
#: Of a signature: who signed.
CALLER = re.compile(r"Credential=([^/]+)/")

#: {caller: {(operation, queue)}}
Calls = dict[str, set[tuple[str, str]]]


class Recorder:
    """Callers are told apart by their AWS_ACCESS_KEY_ID, which stands in each signature."""

    def __init__(self, upstream: str, queue_prefix: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (str(parts.hostname), parts.port)
        self.calls: Calls = defaultdict(set)
        self._prefix = queue_prefix
        self._lock = threading.Lock()
        recorder = self

        class Handler(_Handler):
            owner = recorder

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A process that is stopped goes away in the middle of a poll."""

        self._server = Server((LOOPBACK, 0), Handler)
        threading.Thread(
            target=self._server.serve_forever, args=[0.05], name="recorder", daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.socket.close()

    def note(self, caller: str, operation: str, request: dict[str, Any]) -> None:
        queue = str(request.get("QueueUrl", "")).rpartition("/")[2].removeprefix(self._prefix)
        with self._lock:
            self.calls[caller].add((operation, queue))


class _Handler(BaseHTTPRequestHandler):
    owner: Recorder
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: the calls are kept."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target", "")
        signed_by = CALLER.search(self.headers.get("Authorization", ""))
        self.owner.note(
            signed_by[1] if signed_by else "nobody",
            target.removeprefix("AmazonSQS."),
            json.loads(body or b"{}"),
        )
        onward = http.client.HTTPConnection(*self.owner.upstream, timeout=60)
        try:
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("host", "content-length", "connection", "expect")
            }
            onward.request("POST", self.path, body, kept)
            response = onward.getresponse()
            answer = response.read()
            self.send_response(response.status)
            self.send_header("Content-Type", response.getheader("Content-Type") or "")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        finally:
            onward.close()
