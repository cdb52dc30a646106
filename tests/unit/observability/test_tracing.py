"""The headers of a trace, as others may have written them."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from app.observability import tracing

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_tracer", object())


def test_a_log_line_leads_to_the_trace_of_the_headers(traced: None) -> None:
    assert tracing.log_fields({"traceparent": GOOD}) == {
        "dd.trace_id": "0af7651916cd43dd8448eb211c80319c",
        "dd.span_id": "13235353014750950193",
    }


@pytest.mark.parametrize(
    "traceparent",
    ["", "abc", "a-b-c-d", "00-zz-yy-01", GOOD + "-more", GOOD.upper(), None, 7, ["00"], {}],
)
def test_what_is_no_traceparent_leads_nowhere(traced: None, traceparent: Any) -> None:
    """A redriven message carries what its sender wrote: it must not end the relay."""
    assert tracing.log_fields({"traceparent": traceparent}) == {}


def test_untraced_processes_know_nothing_of_it() -> None:
    assert tracing.log_fields({"traceparent": GOOD}) == {}
    assert tracing.carried() == {}
    with tracing.relaying([("task", {"a": 1})]) as going_on:
        assert going_on == [{"a": 1}]


def test_without_tracing_ddtrace_is_not_imported() -> None:
    code = "import sys, app, app.server, tasks.celery; sys.exit('ddtrace' in sys.modules)"
    environment = {
        "ENVIRONMENT": "local",
        "DATABASE_URL": "postgresql://localhost/none",
        "QUEUE_URL_PREFIX": "http://127.0.0.1:1/000000000000/",
    }
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def trace_one_span(agent: str) -> subprocess.CompletedProcess[str]:
    """As a process of its own, whose log goes nowhere."""
    code = """
import logging
logging.basicConfig(handlers=[logging.NullHandler()])
from app.observability import tracing
tracing.begin("relay")
with tracing._tracer.trace("a span"):
    pass
tracing._tracer.flush()
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", "NO_PROXY": "127.0.0.1", "DD_TRACE_AGENT_URL": agent},
    )  # fmt: skip


def test_an_agent_that_is_away_is_a_line_of_our_log_and_none_beside_it() -> None:
    done = trace_one_span("http://127.0.0.1:9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_agent_is_told_traces_and_nothing_else(httpserver: HTTPServer) -> None:
    httpserver.expect_request(re.compile("")).respond_with_json({})
    done = trace_one_span(httpserver.url_for(""))
    assert done.returncode == 0, done.stderr
    told = [request.path for request, _ in httpserver.log]
    assert [path for path in told if path.endswith("/traces")]
    assert [path for path in told if not path.endswith(("/traces", "/info"))] == []


@pytest.mark.parametrize("traceparent", [GOOD, "nonsense", "", 7, ["x"]])
def test_the_relay_takes_whatever_a_row_carries(traceparent: Any) -> None:
    """With the real tracer, in a process of its own: it patches what it finds."""
    code = f"""
from app.observability import tracing
tracing.begin("relay")
with tracing.relaying([("task", {{"traceparent": {traceparent!r}, "request_id": "r"}})]) as rows:
    (headers,) = rows
assert headers["request_id"] == "r"
fields = tracing.log_fields(headers)
assert len(fields["dd.trace_id"]) == 32, fields
assert ({traceparent!r} == {GOOD!r}) == (fields["dd.trace_id"] == {GOOD.split("-")[1]!r}), fields
"""
    environment = {"DD_TRACE_ENABLED": "false", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
