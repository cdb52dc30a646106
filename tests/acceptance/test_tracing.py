"""One trace from the HTTP request through the outbox and SQS to the sender's call, as a Datadog
Agent receives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from okuru.stack import ports
from okuru.stack.home import Home
from okuru.stack.stack import Stack
from tests.acceptance.chaos.provider import Provider
from tests.acceptance.chaos.stub import Rules
from tests.acceptance.client import Client, wait_until

AGENT = Path(sys.executable).parent / "ddapm-test-agent"


class Agent:
    """The Datadog Agent of tests: it can be asked what it was sent."""

    def __init__(self, folder: Path) -> None:
        self.port, otlp_http, otlp_grpc = (ports.choose(set()) for _ in range(3))
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = requests.Session()
        self._http.trust_env = False
        self._log = (folder / "agent.log").open("w")
        arguments = {
            "--port": str(self.port),
            "--otlp-http-port": str(otlp_http),
            "--otlp-grpc-port": str(otlp_grpc),
            "--vcr-cassettes-directory": str(folder),
        }
        self._process = subprocess.Popen(
            [AGENT, *(word for pair in arguments.items() for word in pair)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": os.environ["PATH"]},
        )
        wait_until(self._answers, within=30, what="the agent answers")

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the agent has ended"
        try:
            return self._http.get(f"{self.url}/info", timeout=5).ok
        except requests.ConnectionError:
            return False

    def spans(self) -> list[dict[str, Any]]:
        traces = self._http.get(f"{self.url}/test/traces", timeout=10).json()
        return [span for trace in traces for span in trace]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._log.close()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    running = Agent(tmp_path_factory.mktemp("agent"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with Provider(tmp_path_factory.mktemp("provider") / "ledger.jsonl") as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, agent: Agent, provider: Provider
) -> Iterator[Stack]:
    home = Home(tmp_path_factory.mktemp("traced"))
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SENDER": "webhook",
        "SENDER_URL": provider.url,
        "SENDER_SECRET": provider.secret,
        "DD_TRACE_ENABLED": "true",
        "DD_TRACE_AGENT_URL": agent.url,
        "DD_ENV": "test",
        "DD_VERSION": "7",
    }
    with Stack(home, environ=environ, fast=True) as stack:
        stack.processes.start()
        stack.wait_until_ready()
        yield stack
    home.forget_data()


def test_a_send_is_one_trace(traced: Stack, agent: Agent, provider: Provider) -> None:
    provider.obey(Rules(seed="trace"))
    client = Client(traced.api_url, traced.keys["API_KEY"])
    gift_id = client.create()
    client.send(gift_id, "one-trace")
    assert client.wait_until_final([gift_id], within=75) == {"SENT": 1}

    def trace() -> list[dict[str, Any]]:
        """The spans of the trace in which the send was asked for."""
        spans = agent.spans()
        found = {span["trace_id"] for span in spans if span["resource"].endswith("/send")}
        return [span for span in spans if span["trace_id"] in found]

    def names() -> set[tuple[str, str]]:
        return {(span["service"], span["name"]) for span in trace()}

    wanted = {
        ("okuru-api", "flask.request"),
        ("okuru-api", "postgres.query"),
        ("okuru-relay", "outbox.relay"),
        ("okuru-worker", "celery.run"),
        ("okuru-worker", "postgres.query"),
        ("okuru-worker", "requests.request"),
    }
    wait_until(lambda: wanted <= names(), within=30, what="all spans")
    spans = trace()
    assert len({span["trace_id"] for span in spans}) == 1

    def one(name: str) -> dict[str, Any]:
        (found,) = [span for span in spans if span["name"] == name]
        return found

    # Each step is the child of the one before it.
    request, relay, run, call = map(
        one, ("flask.request", "outbox.relay", "celery.run", "requests.request")
    )
    by_id = {span["span_id"]: span for span in spans}

    def ancestors(span: dict[str, Any]) -> list[str]:
        parent = by_id.get(span["parent_id"])
        return [] if parent is None else [parent["name"], *ancestors(parent)]

    assert ancestors(call)[0] == "celery.run"
    assert ancestors(run)[0] == "outbox.relay"
    assert ancestors(relay)[-1] == "flask.request"
    assert (relay["resource"], run["resource"]) == ("gifts.send", "gifts.send")
    assert {span["meta"]["env"] for span in (request, relay, run)} == {"test"}

    # The log lines of each process lead to the trace, and the trace tells no secret.
    for process in ("web", "relay", "worker"):
        lines = map(json.loads, traced.home.log_path(process).read_text().splitlines())
        ids = {
            int(line["dd.trace_id"][-16:], 16)
            for line in lines
            if line.get("gift_id") == gift_id and line.get("request_id") == "one-trace"
        }
        assert ids == {request["trace_id"]}, process
    told = json.dumps(agent.spans())
    for secret in (client.get(gift_id)["code"], traced.keys["API_KEY"], provider.secret):
        assert secret not in told


def test_a_stranger_decides_neither_what_is_kept_nor_under_which_id(
    traced: Stack, agent: Agent
) -> None:
    client = Client(traced.api_url, traced.keys["API_KEY"])
    theirs = "0af7651916cd43dd8448eb211c80319c"
    for headers in (
        {"traceparent": f"00-{theirs}-b7ad6b7169203331-00", "tracestate": "dd=s:-1;o:evil"},
        {"traceparent": "ff-ZZZ" + "Z" * 4000},
    ):
        answer = client.request("GET", "/gifts?limit=1&cursor=&x=MARYLOU", headers=headers)
        assert answer.status_code in (200, 400)

    def requests_of_theirs() -> list[dict[str, Any]]:
        return [span for span in agent.spans() if span["resource"] == "GET /gifts"]

    wait_until(lambda: len(requests_of_theirs()) >= 2, within=30, what="both requests")
    for span in requests_of_theirs():
        assert span["trace_id"] != int(theirs[-16:], 16)
        assert span["metrics"].get("_sampling_priority_v1", 1) >= 1
    told = json.dumps(agent.spans()) + traced.home.log_path("web").read_text()
    for words in ("evil", "MARYLOU", "ZZZ"):
        assert words not in told


def test_idle_processes_send_no_traces(traced: Stack, agent: Agent) -> None:
    """A relay asks ten times a second, and a worker polls."""
    strangers = {
        (span["service"], span["name"], span["resource"])
        for span in agent.spans()
        if not span["parent_id"] and span["name"] not in ("flask.request", "celery.run")
    }
    assert strangers == set()
