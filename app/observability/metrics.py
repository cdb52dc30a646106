"""Every metric: name, unit, buckets and meaning in one place.

gunicorn and Celery's prefork run many processes. Each writes into files under
`PROMETHEUS_MULTIPROC_DIR`, and whoever answers `/metrics` adds them up.
"""

from __future__ import annotations

import atexit
import os
import shutil
import struct
import tempfile
import time

if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # Before the first import of prometheus_client, which decides then. Children inherit it.
    _folder = tempfile.mkdtemp(prefix="okuru-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = _folder

    @atexit.register
    def _remove(folder: str = _folder, owner: int = os.getpid()) -> None:
        if os.getpid() == owner:  # and not a child, which inherits this too
            shutil.rmtree(folder, ignore_errors=True)


from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    start_http_server,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
#: Seconds; a file is empty for some microseconds.
READ_AGAIN_AFTER = (0.01, 0.05, 0.2)

# --- API ---

HTTP_REQUESTS = Counter(
    "okuru_http_requests_total", "Requests answered.", ["method", "route", "status"]
)
HTTP_DURATION = Histogram(
    "okuru_http_request_duration_seconds",
    "Seconds from the request's headers to the answer.",
    ["method", "route"],
    # 0.3 is the SLO of docs/observability.md; 2 is the longest a caller waits for a lock or pool.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10),
)

# --- deliveries ---

DELIVERIES = Counter(
    "okuru_deliveries_total",
    "Executions that ended, by outcome (sent, transient, permanent, timeout, unknown).",
    ["kind", "outcome"],
)
SETTLED = Counter(
    "okuru_settled_total", "Deliverables that reached a final state.", ["kind", "status"]
)
ATTEMPTS = Counter(
    "okuru_attempts_total",
    "Executions begun, by the message's receive count.",
    ["kind", "receive_count"],
)
DUPLICATES = Counter(
    "okuru_duplicates_total",
    "Deliveries that found nothing to do, by reason.",
    ["kind", "reason"],
)
LATENCY = Histogram(
    "okuru_delivery_latency_seconds",
    "Seconds from the accepted request to the final success.",
    ["kind"],
    # 300 is the SLO: 95 % within five minutes.
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
)

# --- jobs, messages, users ---

JOBS_PROCESSED = Counter(
    "jobs_processed_total",
    "Executions of processors that ended: success, error or cancelled.",
    ["job_type", "status"],
)
JOB_DURATION = Histogram(
    "job_duration_seconds",
    "Seconds that a processor took.",
    ["job_type"],
    # 900 is the time limit of tasks/jobs.py.
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900),
)
JOB_LATENESS = Histogram(
    "job_lateness_seconds",
    "Seconds from the time for which a job was scheduled to its first execution.",
    buckets=(0.1, 0.5, 1, 2.5, 5, 15, 60, 300, 1800, 7200),
)
JOBS_PENDING = Gauge(
    "jobs_pending",
    "Jobs that are due and wait for a worker.",
    ["band"],
    multiprocess_mode="mostrecent",
)
JOBS_OLDEST = Gauge(
    "jobs_oldest_pending_age_seconds",
    "Age of the job that has waited longest for a worker.",
    ["band"],
    multiprocess_mode="mostrecent",
)
MESSAGES_RECEIVED = Counter(
    "messages_received_total",
    "Messages of other systems: accepted, duplicate or refused, each receive.",
    ["type", "outcome"],
)
NOTIFICATIONS = Counter(
    "notifications_stored_total",
    "Notifications, by whether their recipient is known.",
    ["recipient"],
)
SIGNUPS = Counter("users_signed_up_total", "Users whose profile was initialised.")

# --- outbox and workers ---

OUTBOX_DEPTH = Gauge(
    "okuru_outbox_depth_rows", "Rows waiting to be published.", multiprocess_mode="mostrecent"
)
OUTBOX_AGE = Gauge(
    "okuru_outbox_oldest_age_seconds",
    "Age of the oldest row waiting to be published.",
    multiprocess_mode="mostrecent",
)
OUTBOX_PUBLISHED = Counter("okuru_outbox_published_total", "Messages handed to SQS.", ["queue"])
OUTBOX_REFUSED = Counter("okuru_outbox_refused_total", "Messages put back.", ["queue"])
BREAKER_OPEN = Gauge(
    "okuru_worker_breaker_open",
    "1 while the worker has stopped polling because the database does not answer, else 0.",
    multiprocess_mode="livemax",
)
PROGRESS = Gauge(
    "okuru_progress_timestamp_seconds",
    "Unix time at which the process last got on with its work: beat, receive (a worker), relay.",
    ["part"],
    multiprocess_mode="max",
)


class _AllProcesses(Collector):
    """Adds up the files. One that a new process is just making is empty for a moment, which
    prometheus_client takes for corrupted: then all of them are read again."""

    def __init__(self) -> None:
        self._files = MultiProcessCollector(None)

    def collect(self) -> list[Metric]:
        for pause in READ_AGAIN_AFTER:
            try:
                return list(self._files.collect())
            except struct.error:
                time.sleep(pause)
        return list(self._files.collect())


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_AllProcesses())
    return registry


def exposition() -> bytes:
    """The Prometheus text of all processes that share this one's folder."""
    return generate_latest(_registry())


def serve(port: int, host: str) -> None:
    """Answer `/metrics` on a thread of its own; port 0 means that nobody asked for it."""
    if port:
        start_http_server(port, addr=host, registry=_registry())


def process_died(pid: int) -> None:
    """Forget the live gauges of a child that is gone. Its counts stay."""
    mark_process_dead(pid)
