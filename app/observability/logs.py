"""One JSON line an event, framework loggers included; plain text on a terminal.

The fields are those of docs/observability.md. A gift's `code`, a message's text and keys are
never among them: log calls pass ids.
"""

from __future__ import annotations

import logging
import logging.config
import sys
import time
from datetime import UTC, datetime
from typing import Any, Literal

from pythonjsonlogger.json import JsonFormatter

from app.observability import context, tracing

#: Loggers whose INFO lines repeat what ours say better.
QUIET = (
    "alembic",
    "boto3",
    "botocore",
    "celery.beat",
    "celery.worker.strategy",
    "ddtrace",
    "kombu",
    "urllib3",
    "werkzeug",
)
#: Its warnings are our own verdicts, which are outcomes and not mistakes.
VERY_QUIET = ("celery.app.trace",)


def configure(*, service: str, level: str, style: Literal["auto", "json", "text"] = "auto") -> None:
    """Send every logger of this process to stdout.

    Args:
        service: api, worker, relay or beat: who writes.
        style: `auto` is text on a terminal and JSON everywhere else.
    """
    logging.config.dictConfig(config(service=service, level=level, style=style))
    logging.captureWarnings(True)


def config(*, service: str, level: str, style: Literal["auto", "json", "text"]) -> dict[str, Any]:
    """The same for `logging.config.dictConfig`."""
    if style == "auto":
        style = "text" if sys.stdout.isatty() else "json"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            "context": {"()": ContextFilter, "service": service},
            "unquoted": {"()": Unquoted},
        },
        "formatters": {"json": {"()": JsonLine}, "text": {"()": TextLine}},
        "handlers": {
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": style,
                "filters": ["context"],
            }
        },
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            **{name: {"level": "WARNING"} for name in QUIET},
            **{name: {"level": "ERROR"} for name in VERY_QUIET},
            # It quotes a caller's header that it cannot read, whatever that holds.
            "ddtrace.propagation.http": {"level": "CRITICAL"},
            # These come with handlers of their own; without them their lines reach the root.
            "celery": {"handlers": [], "propagate": True, "level": level},
            "gunicorn.error": {
                "handlers": [],
                "propagate": True,
                "level": level,
                "filters": ["unquoted"],
            },
            # billiard keeps its own from propagating: it would write to stderr past everything.
            "multiprocessing": {"handlers": ["stdout"], "propagate": False, "level": level},
            # app/http/context.py writes a line for each request, with its ids.
            "gunicorn.access": {"handlers": [], "propagate": True, "level": "WARNING"},
        },
    }


class ContextFilter(logging.Filter):
    """Adds the service and the bound context to each record; what a call passes itself wins."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def filter(self, record: logging.LogRecord) -> bool:
        known = {"service": self.service, "status": "-", **context.fields(), **tracing.log_fields()}
        for name, value in known.items():
            if name not in record.__dict__:
                setattr(record, name, value)
        return True


class Unquoted(logging.Filter):
    """gunicorn quotes the header that it cannot read, and that may be a key."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if said.startswith("Invalid request"):
            record.msg, record.args = said.split(":", 1)[0], ()
        return True


class JsonLine(JsonFormatter):
    def __init__(self) -> None:
        super().__init__(
            ["timestamp", "level", "service", "message", "status", "name"],
            rename_fields={"name": "logger", "exc_info": "stack"},
            # Celery passes these; they repeat the message or hold arguments.
            reserved_attrs=[*_RESERVED, "data", "taskName", "color_message"],
        )

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        record.timestamp = _utc(record)
        record.level = record.levelname.lower()
        super().add_fields(log_data, record, message_dict)


class TextLine(logging.Formatter):
    """For people: time, level, message, then the fields that say which. One line, whatever they
    hold: a value from outside must not steer a terminal, or pass for another line."""

    HIDDEN = frozenset({"service", "timestamp", "level", "data", "taskName", "http_request_id"})

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_utc(record)[11:23]} {record.levelname:<7} {record.getMessage()}"
        extra = {
            name: value
            for name, value in record.__dict__.items()
            if name not in _RESERVED and name not in self.HIDDEN and value not in (None, "-")
        }
        line += "".join(f" {name}={value}" for name, value in extra.items())
        line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


_RESERVED = [*logging.LogRecord("", 0, "", 0, "", (), None).__dict__, "message", "asctime"]


def _utc(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def elapsed_ms(started: float) -> float:
    """Milliseconds since `started`, a reading of `time.perf_counter()`."""
    return round((time.perf_counter() - started) * 1000, 1)
