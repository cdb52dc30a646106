"""What gunicorn refuses by itself, before any application sees it, in the one error envelope."""

from __future__ import annotations

import json
import uuid
from typing import Any

from gunicorn import util

from app.http.errors import FRAMEWORK_CODES


def install() -> None:
    """Make gunicorn answer bad requests (a NUL in a header, one that is too long) as we do."""
    util.write_error = _write


def _write(sock: Any, status_int: int, reason: str, _message: str) -> None:
    """In the place of `gunicorn.util.write_error`, which sends HTML that quotes the request."""
    request_id = str(uuid.uuid4())
    code = FRAMEWORK_CODES.get(
        status_int, "VALIDATION_ERROR" if status_int < 500 else "INTERNAL_ERROR"
    )
    message = "the request cannot be read" if status_int < 500 else "something went wrong"
    body = json.dumps({"error": {"code": code, "message": message}, "request_id": request_id})
    head = (
        f"HTTP/1.1 {status_int} {reason}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json\r\n"
        f"X-Request-ID: {request_id}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, (head + body).encode("latin1"))
