"""gunicorn's side of a request: how long it may take, and how gunicorn itself refuses one."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from contextlib import suppress
from functools import partial
from io import BytesIO
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from app.http.context import MAX_BODY_BYTES
from app.http.errors import FRAMEWORK_CODES

#: Seconds from a thread's taking a request until its last byte is read. A caller that drips bytes
#: would keep the thread for as long as it likes: gunicorn has no limit of its own.
READ_WITHIN = 5.0

#: Seconds from there to its answer. Above the longest request, which waits for a frozen database
#: (docs/architecture.md).
ANSWER_WITHIN = 15.0

#: Seconds to wait for a caller to close its side. gunicorn waits 2 s for each, in the one thread
#: that accepts connections: a few callers who never close would stop it for everyone.
LINGER = 0.05


class Worker(ThreadWorker):
    """gunicorn's worker of threads; hangs up on requests that take too long."""

    def init_process(self) -> None:
        self._deadlines: dict[socket.socket, float] = {}
        threading.Thread(target=self._hang_up, name="deadlines", daemon=True).start()
        util.write_error = _write_error
        util.close_graceful = partial(util.close_graceful, timeout=LINGER)
        super().init_process()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.wsgi: Any = partial(self._when_read, self.wsgi)

    def handle(self, conn: Any) -> Any:
        self._deadlines[conn.sock] = time.monotonic() + READ_WITHIN
        try:
            return super().handle(conn)
        finally:
            self._deadlines.pop(conn.sock, None)

    def _when_read(self, application: Any, environ: dict[str, Any], start_response: Any) -> Any:
        """The application, once the body is here: one byte more than allowed tells of too many."""
        environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(MAX_BODY_BYTES + 1))
        self._deadlines[environ["gunicorn.socket"]] = time.monotonic() + ANSWER_WITHIN
        return application(environ, start_response)

    def _hang_up(self) -> None:
        while True:
            time.sleep(1)
            now = time.monotonic()
            for connection, deadline in list(self._deadlines.items()):
                if now > deadline:
                    with suppress(OSError):  # it has ended meanwhile
                        connection.shutdown(socket.SHUT_RDWR)


def _write_error(sock: Any, status_int: int, reason: str, _message: str) -> None:
    """In the place of `gunicorn.util.write_error`, whose HTML quotes the request: our envelope."""
    request_id = str(uuid.uuid4())
    fallback = "VALIDATION_ERROR" if status_int < 500 else "INTERNAL_ERROR"
    message = "the request cannot be read" if status_int < 500 else "something went wrong"
    error = {"code": FRAMEWORK_CODES.get(status_int, fallback), "message": message}
    body = json.dumps({"error": error, "request_id": request_id})
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json\r\n"
        f"X-Request-ID: {request_id}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, (head + body).encode("latin1"))
