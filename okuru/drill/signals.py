"""What Datadog would know of the local stack, and which monitors' conditions it makes true.

The numbers come from where production's come from: `/metrics` of each process, its log, and the
queues. The thresholds are those of terraform/datadog/monitors.

A drill's clock runs faster: every window, and every threshold that is a time, is divided by
`SPEED`. What is counted in a window is counted in a shorter one, so its threshold shrinks as well.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import requests
from prometheus_client.parser import text_string_to_metric_families

from okuru.stack.home import PROJECT
from okuru.stack.stack import Stack

SPEED = 30
PROGRAMS = Path(sys.executable).parent
MONITORS = PROJECT / "terraform" / "datadog" / "monitors"
#: Seconds: five minutes, fast.
WINDOW = 300 / SPEED
#: The share of failed requests that the API's objective allows (docs/observability.md).
BUDGET = 0.001
#: Messages that an execution must stand against, so that worker-not-consuming still rings.
MORE_THAN_WAIT = 1000
#: A query ends with what it is compared with.
_COMPARISON = re.compile(r"(<|>|>=|<=) *(-?[\d.]+)\s*$")


@dataclass
class Totals:
    """Counters at one moment."""

    at: float
    requests: float = 0
    failed_requests: float = 0
    executions: float = 0


@dataclass(frozen=True)
class Condition:
    """A monitor's, evaluated here."""

    monitor: str
    what: str
    value: float
    comparison: str
    threshold: float

    @property
    def is_true(self) -> bool:
        if self.comparison.startswith("<"):
            return self.value < self.threshold
        return self.value > self.threshold


class Signals:
    """Looks at the stack; a `with` block."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._http = requests.Session()
        self._http.trust_env = False
        self._history: deque[Totals] = deque()
        self._failures = {name: _Failures(stack.home.log_path(name)) for name in ("worker", "jobs")}
        self._queues: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        # One process that looks again and again: to start one for each look takes seconds.
        self._stats = subprocess.Popen(  # noqa: S603 - our own
            [PROGRAMS / "okuru", "queues", "stats", "--watch", "--every", "0.5", "--json"],
            env=self._stack.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read_stats, name="queue-stats", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # As Ctrl-C: it tidies up behind itself.
        self._stats.send_signal(signal.SIGINT)
        try:
            self._stats.wait(5)
        except subprocess.TimeoutExpired:
            self._stats.kill()
            self._stats.wait()

    def conditions(self) -> list[Condition]:
        """Every monitor that can be judged here, now."""
        totals = self._look()
        since = self._history[0]
        requested = totals.requests - since.requests
        failed = totals.failed_requests - since.failed_requests
        executed = totals.executions - since.executions
        gifts = self._queues.get("gifts", {})
        dead = [each["dead_letters"] or 0 for each in self._queues.values()]
        failures = sum(each.lately() for each in self._failures.values())
        values: dict[str, tuple[str, float, float]] = {
            "alb-5xx": ("answers of 5xx in the window", failed, SPEED),
            "healthy-hosts": ("API tasks that pass /healthz", self._healthy_hosts(), 1),
            "api-running-below-desired": ("running less desired", self._missing("web"), 1),
            "worker-running-below-desired": (
                "running less desired",
                self._missing("worker", "jobs", "relay", "beat"),
                1,
            ),
            "queue-backlog": ("age of the oldest gift, s", gifts.get("oldest_age") or 0, SPEED),
            "worker-failures": ("failures in the workers' logs", failures, SPEED),
            "outbox-age": ("age of the oldest row, s", self._outbox_age(), SPEED),
            "dead-letters": ("messages in dead-letter queues", max(dead, default=0), 1),
            "worker-not-consuming": (
                "gifts that wait, unless one is executed",
                waiting_unless_executed(gifts.get("depth") or 0, executed),
                1,
            ),
            "slo-burn-fast": ("times the budget", _rate(failed, requested) / BUDGET, 1),
        }
        return [
            Condition(monitor, what, value, *comparison(monitor, speed))
            for monitor, (what, value, speed) in values.items()
        ]

    @property
    def sees_traffic(self) -> bool:
        """Whether requests and executions were counted: else nothing could be told of them."""
        last = self._history[-1] if self._history else Totals(0)
        return last.requests > 0 and last.executions > 0

    def true(self) -> dict[str, Condition]:
        return {each.monitor: each for each in self.conditions() if each.is_true}

    def _look(self) -> Totals:
        web, worker = self._metrics("web"), self._metrics("worker")
        last = self._history[-1] if self._history else Totals(0)
        totals = Totals(
            at=time.monotonic(),
            # A process that does not answer has not counted backwards.
            requests=_sum(web, "okuru_http_requests_total", default=last.requests),
            failed_requests=_sum(
                web, "okuru_http_requests_total", default=last.failed_requests, status="5"
            ),
            executions=_sum(worker, "okuru_attempts_total", default=last.executions)
            + _sum(worker, "okuru_duplicates_total", default=0),
        )
        self._history.append(totals)
        while self._history[0].at < totals.at - WINDOW:
            self._history.popleft()
        return totals

    def _metrics(self, process: str) -> dict[str, list[Any]]:
        """Samples by name; none of a process that does not answer."""
        port = self._stack.processes[process].environment["METRICS_PORT"]
        try:
            answer = self._http.get(f"http://127.0.0.1:{port}/metrics", timeout=2)
            answer.raise_for_status()
        except requests.RequestException:
            return {}
        samples: dict[str, list[Any]] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(sample)
        return samples

    def _outbox_age(self) -> float:
        return _sum(self._metrics("relay"), "okuru_outbox_oldest_age_seconds", default=0)

    def _healthy_hosts(self) -> float:
        try:
            return float(self._http.get(f"{self._stack.api_url}/healthz", timeout=2).ok)
        except requests.RequestException:
            return 0.0

    def _missing(self, *names: str) -> float:
        return min(float(self._stack.processes[name].alive) - 1 for name in names)

    def _read_stats(self) -> None:
        for line in self._stats.stdout or ():
            self._queues = {each["queue"]: each for each in json.loads(line)["queues"]}


@dataclass
class _Failures:
    """Lines of a process's log that the log monitor counts."""

    path: Path
    _read_to: int = 0
    _seen_at: list[float] = field(default_factory=list)

    def lately(self) -> int:
        now = time.monotonic()
        if self.path.exists():
            with self.path.open("rb") as log:
                if log.seek(0, 2) < self._read_to:  # a restarted process has a fresh one
                    self._read_to = 0
                log.seek(self._read_to)
                whole, newline, _half = log.read().rpartition(b"\n")
                self._read_to += len(whole) + len(newline)
            self._seen_at += [now] * sum(map(_is_failure, whole.splitlines()))
        self._seen_at = [at for at in self._seen_at if at > now - WINDOW]
        return len(self._seen_at)


def _is_failure(line: bytes) -> bool:
    try:
        entry = json.loads(line)
        return entry["level"] in ("warning", "error") and "error_code" in entry
    except (ValueError, TypeError, KeyError):
        return False


def comparison(monitor: str, speed: float) -> tuple[str, float]:
    """The sign and the threshold of a monitor's query, on a clock that is so many times as fast."""
    (path,) = [*MONITORS.glob(f"{monitor}.json"), *MONITORS.glob(f"*/{monitor}.json")]
    sign, threshold = _COMPARISON.findall(json.loads(path.read_text())["query"])[0]
    return sign, float(threshold) / speed


def waiting_unless_executed(waiting: float, executed: float) -> float:
    """What worker-not-consuming compares: at least 1 if something waits and nothing is done."""
    return waiting / (1 + MORE_THAN_WAIT * executed)


def _sum(samples: dict[str, list[Any]], name: str, *, default: float, status: str = "") -> float:
    if not samples:
        return default
    return float(
        sum(
            sample.value
            for sample in samples.get(name, ())
            if sample.labels.get("status", "").startswith(status)
        )
    )


def _rate(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
