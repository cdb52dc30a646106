"""Each request's ids, its log line, its metrics, and how large it may be."""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextlib import ExitStack

from flask import Flask, Response, g, request

from app.errors import TooLarge
from app.observability import context, logs, metrics, tracing

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024

#: Asked every few seconds by machines: their lines are for those who debug.
PROBES = ("/healthz", "/health", "/readyz", "/metrics")

#: An id from outside goes into logs: printable ASCII, and no longer than it needs to be.
PRINTABLE = re.compile(r"[\x20-\x7e]{1,255}")


def install(app: Flask) -> None:
    # A body without a length is cut off at this, in silence: one byte more tells that it is too
    # large (app/http/blueprint.py).
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_forget)


def request_id() -> str:
    """The Idempotency-Key if one was sent, else the HTTP request's own id."""
    return str(g.request_id)


def _begin() -> None:
    g.started = time.perf_counter()
    http_request_id = _sane(request.headers.get("X-Request-ID")) or str(uuid.uuid4())
    g.request_id = _sane(request.headers.get("Idempotency-Key")) or http_request_id
    g.stack = ExitStack()
    traceparent = request.headers.get("traceparent", "")
    g.stack.enter_context(
        context.bound(
            request_id=g.request_id,
            http_request_id=http_request_id,
            **({"traceparent": traceparent} if tracing.TRACEPARENT.fullmatch(traceparent) else {}),
        )
    )
    check_size(request.content_length or 0)


def check_size(body_bytes: int) -> None:
    """Raises TooLarge for more than a body may have."""
    if body_bytes > MAX_BODY_BYTES:
        raise TooLarge(f"the body may have at most {MAX_BODY_BYTES} bytes")


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = request_id()
    route = _route()
    metrics.HTTP_REQUESTS.labels(_method(), route, response.status_code).inc()
    metrics.HTTP_DURATION.labels(_method(), route).observe(time.perf_counter() - g.started)
    log.log(
        logging.DEBUG if route in PROBES else logging.INFO,
        "%s %s",
        _method(),
        route,
        extra={
            "status": str(response.status_code),
            "duration_ms": logs.elapsed_ms(g.started),
            # Ids only: another name could be one of the log record's own, which logging refuses.
            **{
                name: str(value)
                for name, value in (request.view_args or {}).items()
                if name.endswith("_id")
            },
        },
    )
    return response


def _forget(_error: BaseException | None) -> None:
    if stack := g.pop("stack", None):
        stack.close()


def _route() -> str:
    """The rule and not the path: a path may hold anything, and each would be a time series."""
    return request.url_rule.rule if request.url_rule else "unmatched"


def _method() -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
    return request.method if request.method in known else "OTHER"


def _sane(header: str | None) -> str | None:
    return header if header and header.strip() and PRINTABLE.fullmatch(header) else None
