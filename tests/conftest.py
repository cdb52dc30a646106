"""The real parts that tests talk to: one PostgreSQL and one SQS a run, a database a worker.

The first process to ask starts the servers and ends them; pytest-xdist's workers find them in the
environment.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

# Each process of the run counts for itself: pytest-xdist's workers would inherit the first one's.
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
# A plugin's, for its own output: the commands would make their tables as narrow.
os.environ.pop("COLUMNS", None)

# Before anything reads them: what is true for every test.
os.environ.update(
    {
        "ENVIRONMENT": "local",
        "AWS_REGION": "ap-northeast-1",
        "AWS_DEFAULT_REGION": "ap-northeast-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DD_TRACE_ENABLED": "false",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
)

from okuru.stack.home import Home
from okuru.stack.postgres import Postgres
from okuru.stack.sqs import Sqs

POSTGRES = "OKURU_TEST_POSTGRES"
SQS = "OKURU_TEST_SQS"
TEMPLATE = "okuru_template"
HERE = Path(__file__).parent


def pytest_sessionstart(session: pytest.Session) -> None:
    """In the process that pytest was started as: start the servers, migrate the template."""
    if os.environ.get("PYTEST_XDIST_WORKER") or session.config.option.collectonly:
        return
    # Short and traversable: PostgreSQL may have to run as another user.
    folder = tempfile.TemporaryDirectory(prefix="okuru-test-", ignore_cleanup_errors=True)
    home = Home(Path(folder.name))
    lock = home.locked()
    lock.__enter__()
    postgres, sqs = Postgres(home, fast=True), Sqs(home)
    for server in (postgres, sqs):
        server.start()
    for server in (postgres, sqs):
        server.wait_until_ready()
    os.environ[POSTGRES] = postgres.url
    os.environ[SQS] = sqs.url
    _create_template(postgres.url)

    def stop() -> None:
        sqs.stop()
        postgres.stop()
        home.forget_data()  # as root it lies elsewhere
        lock.__exit__(None, None, None)
        folder.cleanup()

    session.config.add_cleanup(stop)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders by name: whoever waits for processes and timers begins first, and the many short
    tests fill what is left of the time. Inside a folder the order stays as pytest-randomly has it.
    """
    items.sort(key=lambda item: item.path.relative_to(HERE).parts[0])


def _create_template(url: str) -> None:
    from app import db

    _execute(url, f"CREATE DATABASE {TEMPLATE}")
    db.upgrade(_in_database(url, TEMPLATE))


def _in_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _execute(url: str, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(scope="session")
def database_url(worker_id: str) -> Iterator[str]:
    """A migrated database that this test process has for itself."""
    server, name = os.environ[POSTGRES], f"okuru_{worker_id}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield _in_database(server, name)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqs_url() -> str:
    """The endpoint of a real SQS."""
    return os.environ[SQS]
