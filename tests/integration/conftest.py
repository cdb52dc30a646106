"""Fixtures for services and routes on a real database."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app import create_app, db
from app.config import Settings
from app.observability import logs
from tests.integration.api import Events
from tests.integration.outage import Outage


@pytest.fixture(scope="session")
def settings(database_url: str, sqs_url: str, worker_id: str) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", database_url)
        patch.setenv("AWS_ENDPOINT_URL", sqs_url)
        patch.setenv("QUEUE_URL_PREFIX", f"{sqs_url}/000000000000/test-{worker_id}-")
        return Settings.from_env()


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """The process's engine on an empty database."""
    engine = db.configure(settings, db.API)
    yield engine
    with engine.begin() as connection:
        tables = ", ".join(table.name for table in db.Base.metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {tables} CASCADE"))
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session whose work is committed by the test, or rolled back at its end."""
    with Session(engine, expire_on_commit=False) as session:
        yield session


@pytest.fixture
def app(settings: Settings, engine: Engine) -> Flask:
    return create_app(settings)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Without credentials: the local operator."""
    return app.test_client()


@pytest.fixture
def outage(database_url: str, engine: Engine) -> Iterator[Outage]:
    outage = Outage(database_url)
    yield outage
    outage.end()


@pytest.fixture
def events() -> Events:
    """The log of this process, as its lines are in production."""
    logs.configure(service="api", level="DEBUG", style="json")
    (stdout,) = [found for found in logging.getLogger().handlers if found.name == "stdout"]
    written = io.StringIO()
    stdout.setStream(written)  # type: ignore[attr-defined]

    def read() -> list[dict[str, Any]]:
        lines = written.getvalue().splitlines()
        written.seek(0)
        written.truncate()
        return [json.loads(line) for line in lines]

    return read
