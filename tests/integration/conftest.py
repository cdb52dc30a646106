"""Fixtures for services and routes on a real database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app import create_app, db
from app.config import Settings


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
