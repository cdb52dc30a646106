"""Traces for Datadog, from the HTTP request through the outbox and SQS to the sender's call.

Off unless `DD_TRACE_ENABLED` asks for it: ddtrace is not even imported then. The context of a trace
travels as W3C Trace Context among the headers of the outbox row and of the message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddtrace.trace import Tracer

#: Headers of a message that carry a trace (W3C Trace Context).
HEADERS = ("traceparent", "tracestate")
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")

_tracer: Tracer | None = None


def begin(service: str, *libraries: str, for_strangers: bool = False) -> None:
    """Trace this process.

    Args:
        service: who it is, unless `DD_SERVICE` says otherwise.
        libraries: whose calls are spans, by the names of ddtrace's integrations.
        for_strangers: whether anybody may call it. Then a caller's trace context is ignored: it
            would decide what is kept, and under which id.
    """
    global _tracer
    defaults = {
        "DD_SERVICE": f"okuru-{service}",
        # One service a process, and not one a library that it uses.
        "DD_TRACE_REMOVE_INTEGRATION_SERVICE_NAMES_ENABLED": "true",
        "DD_CELERY_DISTRIBUTED_TRACING": "true",
        "DD_TRACE_PROPAGATION_STYLE": "tracecontext",
        "DD_TRACE_PROPAGATION_BEHAVIOR_EXTRACT": "ignore" if for_strangers else "continue",
        # It may hold what is somebody's own.
        "DD_HTTP_SERVER_TAG_QUERY_STRING": "false",
        # Its warnings are lines of our log, and not others beside it.
        "DD_TRACE_LOG_STREAM_HANDLER": "false",
        # It would tell Datadog which modules are installed, and how they are set.
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # It reads the environment when it is imported.
    import ddtrace
    from ddtrace.trace import Span, TraceFilter, tracer

    class NoStrayQueries(TraceFilter):
        """A query outside of a request or task belongs to no trace: a relay asks ten times a
        second, a breaker looks whether the database answers."""

        def process_trace(self, trace: list[Span]) -> list[Span] | None:
            root = trace[0]
            is_root = root.parent_id is None
            return None if is_root and root.name.startswith("postgres.") else trace

    tracer.configure(trace_processors=[NoStrayQueries()])
    ddtrace.patch(raise_errors=True, **dict.fromkeys(libraries, True))
    _tracer = tracer


def carried() -> dict[str, str]:
    """The headers by which the trace at hand goes on elsewhere; none when there is none."""
    if _tracer is None or (context := _tracer.current_trace_context()) is None:
        return {}
    return _injected(context)


def log_fields(headers: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What joins a log line to a trace, in Datadog's names.

    Args:
        headers: carry the trace; by default it is the one at hand.
    """
    if _tracer is None:
        return {}
    traceparent = (carried() if headers is None else headers).get("traceparent")
    # A redriven message has whatever its first sender wrote.
    found = TRACEPARENT.fullmatch(traceparent) if isinstance(traceparent, str) else None
    return {"dd.trace_id": found[1], "dd.span_id": str(int(found[2], 16))} if found else {}


@contextmanager
def relaying(rows: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """A span for each row that is relayed, in the trace that has staged it.

    Args:
        rows: (task, headers) of each.

    Yields:
        The headers with which each goes on.
    """
    if _tracer is None:
        yield [headers for _, headers in rows]
        return
    from ddtrace.propagation.http import HTTPPropagator

    with ExitStack() as spans:
        going_on = []
        for task, headers in rows:
            known = {name: headers[name] for name in HEADERS if name in headers}
            parent = HTTPPropagator.extract(known)  # type: ignore[no-untyped-call]
            span = _tracer.start_span("outbox.relay", child_of=parent, resource=task)
            spans.enter_context(span)
            going_on.append({**headers, **_injected(span.context)})
        yield going_on


def _injected(context: Any) -> dict[str, str]:
    from ddtrace.propagation.http import HTTPPropagator

    headers: dict[str, str] = {}
    HTTPPropagator.inject(context, headers)
    return {name: headers[name] for name in HEADERS if name in headers}
