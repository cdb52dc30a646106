"""The Celery app of `celery -A tasks worker` and `celery -A tasks beat`.

Importing this reads the environment: a process that cannot be configured does not start.
"""

from __future__ import annotations

from typing import Any

from celery import Celery, signals

from app import db
from app.config import settings_or_exit
from app.jobs import processors
from app.observability import logs, metrics, tracing
from tasks.application import Okuru
from tasks.engine import control
from tasks.engine.catalogue import Catalogue
from tasks.engine.engine import Engine
from tasks.schedule import LONGEST_SLEEP, schedule

settings = settings_or_exit()
catalogue = Catalogue.load(settings.queue_url_prefix)
engine = Engine(
    catalogue=catalogue,
    region=settings.aws_region,
    application=Okuru(),
    retry_scale=settings.retry_scale,
    poll_wait=settings.poll_wait,
    grace=settings.worker_grace,
    ecs_agent_uri=settings.ecs_agent_uri,
)

processors.load_or_exit(settings.okuru_processors)

app = Celery(
    "okuru",
    task_cls="tasks.engine.task:Task",
    include=["tasks.gifts", "tasks.idempotency", "tasks.jobs", "tasks.messages", "tasks.sweeps"],
)
engine.install(app)
control.install(app, settings.redis_url, pool_size=settings.redis_pool_size)
app.conf.worker_concurrency = settings.worker_count
app.conf.beat_schedule = schedule(settings.sweep_interval)
app.conf.beat_scheduler = "tasks.schedule:Scheduler"
app.conf.beat_max_loop_interval = LONGEST_SLEEP


def _configure_logging(service: str) -> None:
    logs.configure(service=service, level=settings.log_level, style=settings.log_format)


@signals.celeryd_init.connect
def _worker_begins(**_: Any) -> None:
    # Celery says its first word, as a warning, before it asks for its logging.
    app.conf.okuru_service = "worker"
    _configure_logging("worker")
    if settings.dd_trace_enabled:
        tracing.begin("worker", "celery", "psycopg", "requests")


@signals.setup_logging.connect
def _celery_asks_for_logging(**_: Any) -> None:
    """Also from beat, which has no `celeryd_init`. A receiver here keeps Celery's own out."""
    _configure_logging(app.conf.get("okuru_service", "beat"))


@signals.beat_init.connect
def _beat_begins(**_: Any) -> None:
    metrics.serve(settings.metrics_port, settings.host)


@signals.worker_init.connect
def _connect(**_: Any) -> None:
    metrics.BREAKER_OPEN.set(0)
    metrics.serve(settings.metrics_port, settings.host)
    db.configure(settings, db.WORKER)


@signals.worker_process_init.connect
def _forked(**_: Any) -> None:
    db.forget_connections()
