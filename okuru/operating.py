"""What the operator's commands share: the workers' engine, the database, readable outages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from app import db
from tasks.engine.engine import Engine
from tasks.engine.sqs import SQS_ERRORS


def engine() -> Engine:
    """The workers' engine, with every task registered and every deliverable known."""
    # Importing tasks makes the Celery app, which reads the environment: not for `okuru --help`.
    from tasks.celery import app, engine

    app.loader.import_default_modules()
    return engine


@contextmanager
def database() -> Iterator[None]:
    """Bind `db.transaction()` to the database of the environment for the duration."""
    from tasks.celery import settings

    bound = db.configure(settings, db.OPERATOR)
    try:
        yield
    finally:
        bound.dispose()


@contextmanager
def outages_explained() -> Iterator[None]:
    """Turn what is raised while a part does not answer into one line and exit code 1."""
    try:
        yield
    except db.NotReady as error:
        raise click.ClickException(f"{error} (okuru migrate up brings its schema up)") from error
    except db.OUTAGE_ERRORS as error:
        raise click.ClickException(
            "the database at DATABASE_URL does not answer: is it up, and is that its address?"
        ) from error
    except SQS_ERRORS as error:
        raise click.ClickException(f"SQS did not answer, or refused: {error}") from error
