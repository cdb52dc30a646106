"""gunicorn's settings: `gunicorn --config app/server.py 'app:create_app()'`."""

from __future__ import annotations

from typing import Any

# Imported here, in the master, so that the folder of the metrics exists before the forks.
from app.config import settings_or_exit
from app.jobs import processors
from app.observability import logs, metrics, tracing

settings = settings_or_exit(sends=False)
# Here too, where it is said once: each worker that does not boot would say it with a traceback.
processors.load_or_exit(settings.okuru_processors)
if settings.dd_trace_enabled:
    tracing.begin("api", "flask", "psycopg", "requests", for_strangers=True)

bind = f"{settings.host}:{settings.port}"
workers = settings.web_processes
worker_class = "app.http.worker.Worker"
threads = settings.web_threads
# The longest request waits 2 s for a connection and 7 s for its answer; ECS stops after 30 s.
timeout = 30
graceful_timeout = 20
# Above the load balancer's idle timeout (60 s), so that it never meets a closed connection.
keepalive = 75
# Its socket would stand in the home folder, one for all stacks.
control_socket_disable = True
# A request line holds a path and a cursor.
limit_request_line = 4094
limit_request_fields = 50
# Nobody in front of us speaks WSGI by headers.
forwarder_headers = ""
logconfig_dict = logs.config(service="api", level=settings.log_level, style=settings.log_format)


def when_ready(_server: Any) -> None:
    metrics.serve(settings.metrics_port, settings.host)


def child_exit(_server: Any, worker: Any) -> None:
    metrics.process_died(worker.pid)
