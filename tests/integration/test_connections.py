"""How long the database may keep anyone waiting, and which connections are still good."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url

from app import db
from app.config import Settings
from app.db import Role
from tests.integration.api import eventually

ROLES = [db.API, db.WORKER, db.RELAY, db.OPERATOR]


@pytest.mark.parametrize("pool_size", [0, 2])
@pytest.mark.parametrize("role", ROLES, ids=[role.name for role in ROLES])
def test_every_role_has_its_timeouts(database_url: str, role: Role, pool_size: int) -> None:
    engine = db.engine_for(database_url, role, pool_size=pool_size)
    with engine.connect() as connection:
        shown = {
            name: connection.execute(
                text("SELECT setting::numeric / 1000 FROM pg_settings WHERE name = :name"),
                {"name": name},
            ).scalar_one()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        }
        zone = connection.execute(text("SHOW TimeZone")).scalar_one()
        named = connection.execute(text("SHOW application_name")).scalar_one()
    engine.dispose()
    assert {name: float(seconds) for name, seconds in shown.items()} == {
        "statement_timeout": role.statement,
        "lock_timeout": role.lock,
        "idle_in_transaction_session_timeout": role.idle_in_transaction,
    }
    assert (zone, named) == ("UTC", f"okuru-{role.name}")


#: As short as a test can bear, and in the same order as the real ones.
HASTY = Role("api", statement=0.5, lock=0.2, idle_in_transaction=0.5, pool=0.3)


@pytest.fixture
def hasty(settings: Settings, engine: Engine) -> Iterator[Engine]:
    """This process with a role that waits for nothing long. `engine` cleans up behind it."""
    made = db.configure(replace(settings, db_max_open_conns=1), HASTY)
    yield made
    made.dispose()
    db.configure(settings, db.API).dispose()


def test_the_client_waits_longer_than_any_statement_may_take(settings: Settings) -> None:
    for role in ROLES:
        db.configure(settings, role).dispose()
        assert db._answer_within == role.statement + 2
        assert role.lock < role.statement


@contextmanager
def raises_outage(*, within: float) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(db.OUTAGE_ERRORS):
        yield
    assert time.monotonic() - began < within


def test_a_slow_statement_ends_as_an_outage(hasty: Engine) -> None:
    with raises_outage(within=HASTY.statement + 5), hasty.connect() as connection:
        connection.execute(text("SELECT pg_sleep(60)"))


def test_a_lock_that_does_not_come_ends_as_an_outage(hasty: Engine, database_url: str) -> None:
    holder = db.engine_for(database_url, db.OPERATOR)
    with holder.begin() as holding:
        holding.execute(text("LOCK TABLE gifts"))
        with raises_outage(within=HASTY.lock + 5), hasty.connect() as connection:
            connection.execute(text("SELECT 1 FROM gifts"))


def test_a_transaction_that_forgets_itself_is_ended(hasty: Engine, database_url: str) -> None:
    observer = db.engine_for(database_url, db.OPERATOR)
    gone = text("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = :pid)")
    connection = hasty.connect()
    pid = backend(connection)
    with observer.connect().execution_options(isolation_level="AUTOCOMMIT") as watching:
        eventually(lambda: watching.execute(gone, {"pid": pid}).scalar_one(), "it is gone")
    with pytest.raises(db.OUTAGE_ERRORS):
        connection.execute(text("SELECT 1"))
    connection.invalidate()


def test_a_pool_that_is_empty_ends_as_an_outage(hasty: Engine) -> None:
    with hasty.connect(), raises_outage(within=HASTY.pool + 5):
        hasty.connect()


#: Seconds within which silence has to end, with room for a busy machine.
SILENCE = HASTY.statement + 2 + 5


@contextmanager
def at_last(release: Callable[[], object]) -> Iterator[None]:
    """Release after the block, or when it takes too long: then it fails instead of hanging."""
    timer = threading.Timer(SILENCE, release)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        with suppress(OSError):
            release()


def test_a_frozen_server_ends_as_an_outage(hasty: Engine) -> None:
    """It sends nothing, not even the error of its own statement_timeout."""
    with hasty.connect() as connection:
        pid = backend(connection)
        connection.rollback()
        os.kill(pid, signal.SIGSTOP)
        with at_last(lambda: os.kill(pid, signal.SIGCONT)), raises_outage(within=SILENCE):
            connection.execute(text("SELECT 1"))


def test_a_server_that_accepts_and_stays_silent_ends_as_an_outage(
    hasty: Engine, database_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = make_url(database_url).set(port=silent.getsockname()[1])
        engine = db.engine_for(url.render_as_string(hide_password=False), HASTY)
        hang_up = partial(silent.shutdown, socket.SHUT_RDWR)
        with at_last(hang_up), raises_outage(within=SILENCE):
            engine.connect()


# --- connections that were there before ---------------------------------------------------------


def reuse(engine: Engine) -> int:
    """The backend of the pool's only connection, which has answered just now."""
    with engine.connect():
        pass  # it may be new, which is as good as an answer
    with engine.connect() as connection:
        return backend(connection)


def test_a_connection_that_answered_just_now_is_not_asked_again(hasty: Engine) -> None:
    pid = reuse(hasty)
    os.kill(pid, signal.SIGSTOP)
    with at_last(lambda: os.kill(pid, signal.SIGCONT)), hasty.connect() as connection:
        os.kill(pid, signal.SIGCONT)
        assert backend(connection) == pid


def test_a_connection_that_was_quiet_is_asked_before_it_is_used(
    hasty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = reuse(hasty)
    monkeypatch.setattr(db, "TRUSTED", 0.0)
    os.kill(pid, signal.SIGSTOP)
    with at_last(lambda: os.kill(pid, signal.SIGCONT)), hasty.connect() as connection:
        assert backend(connection) != pid


def test_a_connection_that_the_server_ended_just_now_is_replaced(
    hasty: Engine, database_url: str
) -> None:
    pid = reuse(hasty)
    with db.engine_for(database_url, db.OPERATOR).connect() as killing:
        killing.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    with hasty.connect() as connection:
        assert backend(connection) != pid


def test_a_statement_in_autocommit_is_kept_whatever_comes_after_it(hasty: Engine) -> None:
    with suppress(ZeroDivisionError), db.autocommit() as session:
        session.execute(text("INSERT INTO users (email) VALUES ('kept@example.com')"))
        raise ZeroDivisionError
    with db.transaction() as session:
        assert session.execute(text("SELECT email FROM users")).scalars().all() == [
            "kept@example.com"
        ]


def test_after_autocommit_the_connection_knows_transactions_again(hasty: Engine) -> None:
    with db.autocommit() as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with suppress(ZeroDivisionError), db.transaction() as session:
        assert session.execute(text("SELECT pg_backend_pid()")).scalar_one() == pid
        session.execute(text("INSERT INTO users (email) VALUES ('undone@example.com')"))
        raise ZeroDivisionError
    with db.transaction() as session:
        assert session.execute(text("SELECT count(*) FROM users")).scalar_one() == 0


def test_autocommit_outlives_a_connection_that_ends_in_it(hasty: Engine) -> None:
    with pytest.raises(db.OUTAGE_ERRORS), db.autocommit() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with db.autocommit() as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def backend(connection: Connection) -> int:
    return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
