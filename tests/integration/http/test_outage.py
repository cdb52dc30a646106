"""The database away, frozen, busy, empty: 503 in the envelope, and back by itself."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import psutil
import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url
from werkzeug.test import TestResponse

from app import create_app, db
from app.config import Settings
from app.http.errors import RETRY_AFTER
from okuru.stack.home import Home
from okuru.stack.postgres import Postgres
from tests.integration.api import contents, eventually, refused

#: An API that is less patient than ours, so that the tests are not either; except with statements:
#: no limit of theirs comes before that of a greeting.
IMPATIENT = replace(db.API, statement=30, lock=0.3, pool=0.3)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    home = Home(tmp_path_factory.mktemp("stack"))
    with home.locked():
        server = Postgres(home)  # not fast: that one may forget in a crash what it had committed
        server.start()
        server.wait_until_ready()
        db.upgrade(server.url)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def client(settings: Settings, postgres: Postgres) -> Iterator[FlaskClient]:
    """An API with two connections to that server."""
    mine = replace(settings, database_url=postgres.url, db_max_open_conns=2)
    app = create_app(mine)
    engine = db.configure(mine, IMPATIENT)
    yield app.test_client()
    engine.dispose()


@contextmanager
def stopped(postgres: Postgres, how: signal.Signals) -> Iterator[None]:
    postgres.child.signal(how)
    postgres.child.wait()
    try:
        yield
    finally:
        postgres.start()
        postgres.wait_until_ready()


@contextmanager
def frozen(postgres: Postgres) -> Iterator[None]:
    """Alive, listening, and silent: what a hanging disk or a lost network looks like."""
    server = psutil.Process(postgres.child.pid)
    processes = [server, *server.children(recursive=True)]

    def thaw() -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    # Whoever waits without a limit then fails the test, and does not hang it.
    watchdog = threading.Timer(60, thaw)
    for process in processes:
        process.suspend()
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()
        thaw()


def unavailable(response: TestResponse) -> None:
    refused(response, 503, "UNAVAILABLE")
    assert response.headers["Retry-After"] == str(RETRY_AFTER)


def not_ready(client: FlaskClient) -> str:
    response = client.get("/readyz")
    body = response.get_json()
    assert (response.status_code, body["status"], set(body)) == (
        503,
        "not_ready",
        {"status", "reason"},
    )
    return str(body["reason"])


def assert_away(client: FlaskClient) -> None:
    """What every route says while the database does not answer."""
    assert not_ready(client) == "the database cannot be reached"
    unavailable(client.post("/gifts", json={"amount": 5}))
    unavailable(client.get("/gifts"))
    unavailable(client.get("/gifts", headers={"X-API-Key": "okuru_x"}))
    for path in ("/healthz", "/health", "/openapi.json", "/docs"):
        assert client.get(path).status_code == 200, path
    refused(client.get("/nowhere"), 404, "NOT_FOUND")


def assert_back(client: FlaskClient) -> None:
    """It serves again, and nobody restarted it."""
    eventually(lambda: client.get("/readyz").status_code == 200, "ready again")
    assert client.get("/readyz").get_json() == {"status": "ready"}
    assert client.post("/gifts", json={"amount": 5}).status_code == 201


# --- health -------------------------------------------------------------------------------------


def test_a_healthy_process_says_so(client: FlaskClient) -> None:
    for path in ("/healthz", "/health"):
        response = client.get(path)
        assert (response.status_code, response.get_json()) == (200, {"status": "ok"})
    response = client.get("/readyz")
    assert (response.status_code, response.get_json()) == (200, {"status": "ready"})


def test_a_database_without_the_schema_is_not_ready(settings: Settings, postgres: Postgres) -> None:
    admin = create_engine(postgres.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE empty"))
    url = make_url(postgres.url).set(database="empty").render_as_string(hide_password=False)
    client = create_app(replace(settings, database_url=url)).test_client()

    assert not_ready(client) == "the database is not migrated"
    assert client.get("/healthz").status_code == 200

    db.upgrade(url)
    assert client.get("/readyz").get_json() == {"status": "ready"}
    admin.dispose()


@pytest.mark.parametrize(
    ("revision", "ready"),
    [("0001", True), ("of-tomorrow", True), (None, False)],
)
def test_a_schema_of_a_later_release_is_ready_and_none_is_not(
    client: FlaskClient, postgres: Postgres, revision: str | None, ready: bool
) -> None:
    """During a rolling deploy the old code meets the new schema."""
    engine = create_engine(postgres.url)

    def stamp(value: str | None) -> None:
        with engine.begin() as connection:
            connection.execute(text("DELETE FROM alembic_version"))
            if value:
                connection.execute(text("INSERT INTO alembic_version VALUES (:v)"), {"v": value})

    with engine.connect() as connection:
        head = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    stamp(head if revision == "0001" else revision)
    try:
        assert (client.get("/readyz").status_code == 200) == ready
    finally:
        stamp(head)
        engine.dispose()


# --- away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_a_stopped_database_is_503_and_back_by_itself(
    client: FlaskClient, postgres: Postgres, how: signal.Signals
) -> None:
    assert_back(client)  # so that the pool has connections to lose

    with stopped(postgres, how):
        assert_away(client)

    assert_back(client)


def test_after_a_restart_not_even_the_first_request_fails(
    client: FlaskClient, postgres: Postgres
) -> None:
    """The pool has connections to the server before; nobody asks in between."""
    assert_back(client)

    with stopped(postgres, signal.SIGINT):
        pass

    assert client.post("/gifts", json={"amount": 5}).status_code == 201


def test_a_frozen_database_is_503_within_bounds_and_back_by_itself(
    client: FlaskClient, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What answered less than TRUSTED ago waits for its statement's limit instead."""
    monkeypatch.setattr(db, "TRUSTED", 0.0)
    assert_back(client)

    with frozen(postgres):
        started = time.monotonic()
        assert not_ready(client) == "the database cannot be reached"
        unavailable(client.post("/gifts", json={"amount": 5}))
        # Each may wait for an old connection to answer, and then for a new one.
        assert time.monotonic() - started < 2 * 2 * db.GREETING + 5
        assert client.get("/healthz").status_code == 200

    assert_back(client)


def test_a_connection_that_ends_in_the_middle_of_a_statement_is_503(
    settings: Settings, engine: Engine
) -> None:
    client = create_app(settings).test_client()
    db.configure(settings, replace(db.API, statement=60, lock=60))
    gift_id = client.post("/gifts", json={"amount": 5}).get_json()["gift_id"]
    answers: list[TestResponse] = []

    def send() -> None:
        headers = {"Idempotency-Key": "order-1"}
        answers.append(client.post(f"/gifts/{gift_id}/send", headers=headers))

    with engine.begin() as other:
        other.execute(text("SELECT 1 FROM gifts FOR UPDATE"))
        thread = threading.Thread(target=send)
        thread.start()
        eventually(lambda: _end_whoever_waits_for_a_lock(engine), "the send waits for the lock")
        thread.join()

    unavailable(answers[0])
    assert contents(engine)["outbox"] == 0
    assert client.get(f"/gifts/{gift_id}").get_json()["status"] == "CREATED"


def _end_whoever_waits_for_a_lock(engine: Engine) -> bool:
    with engine.begin() as connection:
        return bool(
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            ).all()
        )


def test_a_database_that_takes_no_writes_is_503_and_not_ready(
    settings: Settings, postgres: Postgres
) -> None:
    """As during a failover, when the old primary has become a replica."""
    client = create_app(replace(settings, database_url=postgres.url)).test_client()
    admin = create_engine(postgres.superuser_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("ALTER DATABASE okuru SET default_transaction_read_only = on"))
        try:
            unavailable(client.post("/gifts", json={"amount": 5}))
            assert not_ready(client) == "the database takes no writes"
        finally:
            connection.execute(text("ALTER DATABASE okuru RESET default_transaction_read_only"))
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename='okuru'")
            )
    admin.dispose()
    assert_back(client)


# --- busy ---------------------------------------------------------------------------------------


def test_the_api_waits_for_a_lock_or_a_connection_no_longer_than_it_promises() -> None:
    """The contract: nobody waits more than 2 s before hearing 503.

    A request takes a connection twice: to know who asks, and to do what was asked.
    """
    assert 2 * db.API.pool + db.API.lock <= 2


def test_no_free_connection_is_503(settings: Settings, engine: Engine) -> None:
    mine = replace(settings, db_max_open_conns=1)
    client = create_app(mine).test_client()
    one = db.configure(mine, IMPATIENT)

    with db.transaction() as session:
        session.execute(text("SELECT 1"))
        unavailable(client.post("/gifts", json={"amount": 5}))
        assert not_ready(client) == "the database cannot be reached"

    assert client.post("/gifts", json={"amount": 5}).status_code == 201
    assert one.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_row_that_another_holds_for_too_long_is_503(settings: Settings, engine: Engine) -> None:
    """The real limit of the API for locks, with another that cannot come before it."""
    client = create_app(settings).test_client()
    db.configure(settings, replace(db.API, statement=60))
    gift_id = client.post("/gifts", json={"amount": 5}).get_json()["gift_id"]
    send = {"path": f"/gifts/{gift_id}/send", "headers": {"Idempotency-Key": "order-1"}}

    with engine.begin() as other:
        other.execute(text("SELECT 1 FROM gifts FOR UPDATE"))
        started = time.monotonic()
        unavailable(client.post(**send))
        assert time.monotonic() - started < 20, "the lock's limit, and not the statement's"
        assert client.get(f"/gifts/{gift_id}").status_code == 200, "reading waits for nobody"

    assert contents(engine)["outbox"] == 0, "what was answered with 503 was not done"
    assert client.post(**send).status_code == 202
    assert contents(engine)["outbox"] == 1


def test_a_replay_waits_for_nobody(settings: Settings, engine: Engine) -> None:
    client = create_app(settings).test_client()
    db.configure(settings, IMPATIENT)
    gift_id = client.post("/gifts", json={"amount": 5}).get_json()["gift_id"]
    send = {"path": f"/gifts/{gift_id}/send", "headers": {"Idempotency-Key": "order-1"}}
    first = client.post(**send)

    with engine.begin() as other:
        other.execute(text("SELECT 1 FROM gifts FOR UPDATE"))
        replay = client.post(**send)

    assert (replay.status_code, replay.data) == (200, first.data)
