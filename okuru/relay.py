"""`okuru relay`: the relay process of the Procfile."""

import click

from app import db
from app.observability import logs, metrics, tracing


@click.command()
def relay() -> None:
    """Publish what was staged in the outbox, until TERM."""
    # Importing tasks makes the Celery app, which reads the environment: not for `okuru --help`.
    from tasks.celery import app, engine, settings
    from tasks.engine.publisher import Publisher
    from tasks.relay import Relay

    logs.configure(service="relay", level=settings.log_level, style=settings.log_format)
    if settings.dd_trace_enabled:
        tracing.begin("relay")
    metrics.serve(settings.metrics_port, settings.host)
    db.configure(settings, db.RELAY)
    Relay(Publisher(app, engine.sqs)).run()
