"""The way up, the way down, and whether models and migrations agree."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from alembic import command
from click.testing import CliRunner, Result
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from app import db
from okuru.cli import main
from tests.factories import attempts, gifts
from tests.integration.api import eventually


@pytest.fixture
def empty_database(database_url: str) -> Iterator[str]:
    """The address of a database of its own, with nothing in it."""
    url = make_url(database_url)
    name = f"{url.database}_migrations"
    server = db.engine_for(url.set(database="postgres").render_as_string(False), db.OPERATOR)
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def things(url: str) -> set[tuple[str, str]]:
    """Every table, index, sequence, function, trigger and type of the database's own."""
    engine = db.engine_for(url, db.OPERATOR)
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT 'relation', relname FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace"
                " UNION ALL SELECT 'function', proname FROM pg_proc"
                " WHERE pronamespace = 'public'::regnamespace"
                " UNION ALL SELECT 'type', typname FROM pg_type"
                " WHERE typnamespace = 'public'::regnamespace"
                " UNION ALL SELECT 'trigger', tgname FROM pg_trigger WHERE NOT tgisinternal"
                " UNION ALL SELECT 'option', unnest(reloptions) FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace"
            )
        )
        return {(kind, name) for kind, name in found if not name.endswith("alembic_version")} - {
            ("relation", "alembic_version_pkc")
        }


def test_a_downgrade_leaves_nothing_behind_and_the_way_up_is_the_same_again(
    empty_database: str,
) -> None:
    db.upgrade(empty_database)
    once = things(empty_database)
    assert ("trigger", "guard_deliverable") in once
    assert ("option", "vacuum_truncate=off") in once
    command.downgrade(db.alembic_config(empty_database), "base")
    assert things(empty_database) == set()
    db.upgrade(empty_database)
    assert things(empty_database) == once


def test_one_step_back_keeps_what_the_older_schema_can_hold(empty_database: str) -> None:
    """And the way up again treats every key as one of a first send."""
    db.upgrade(empty_database)
    engine = db.engine_for(empty_database, db.OPERATOR)
    with Session(engine) as session, session.begin():
        gifts.queued(session)
        attempts.insert(session, {})
        of_no_row = {"kind": "message", "subject_id": None, "send_no": None}
        attempts.insert(session, {**of_no_row, **attempts.ENDED, "outcome": "permanent"})
    command.downgrade(db.alembic_config(empty_database), "0001")
    with engine.connect() as connection:
        kinds = connection.execute(text("SELECT kind FROM attempts")).scalars().all()
        keys = connection.execute(text("SELECT request_id FROM send_requests")).scalars().all()
    assert (kinds, keys) == (["gift"], ["key-1"])
    db.upgrade(empty_database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT send_no FROM send_requests")).scalar_one() == 1


def test_migrators_take_turns(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is at work: its session holds the lock of migrations/env.py.

    For longer than anybody else waits: for a table, and for an answer.
    """
    monkeypatch.setattr(db, "_answer_within", 1.0)
    waiting = text(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()"
        " AND wait_event = 'advisory' AND clock_timestamp() - query_start > interval '5 s')"
    )
    engine = db.engine_for(empty_database, db.OPERATOR)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
        other.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": 0x6F6B757275})
        migrator = threading.Thread(target=db.upgrade, args=[empty_database])
        migrator.start()
        eventually(
            lambda: other.execute(waiting).scalar_one() or not migrator.is_alive(),
            "a wait or an end",
        )
        assert things(empty_database) == set()
    migrator.join()
    assert things(empty_database)


def test_the_models_are_what_the_migrations_make(database_url: str) -> None:
    command.check(db.alembic_config(database_url))


def test_a_database_knows_whether_it_is_migrated(empty_database: str) -> None:
    engine = db.engine_for(empty_database, db.OPERATOR)

    def is_migrated() -> bool:
        with Session(engine) as session:
            return db.is_migrated(session)

    assert not is_migrated()
    db.upgrade(empty_database)
    assert is_migrated()
    with engine.begin() as connection:  # a later one, which this code does not know
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    assert is_migrated()


@pytest.fixture
def migrate(empty_database: str) -> Callable[..., Result]:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(
            main, ["migrate", *arguments], env={"DATABASE_URL": empty_database}
        )

    return run


def test_a_schema_of_a_later_release_stays_as_it_is(
    empty_database: str, migrate: Callable[..., Result]
) -> None:
    """A revert is deployed: its migration step must not stop it."""
    assert migrate("up").exit_code == 0
    with db.engine_for(empty_database, db.OPERATOR).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    said = migrate("up")
    assert said.exit_code == 0, said.output
    assert "of a later release" in said.output
    assert migrate("up", "0001").exit_code == 1


def test_a_table_in_use_is_said_to_be_in_use(
    empty_database: str, migrate: Callable[..., Result]
) -> None:
    assert migrate("up", "0001").exit_code == 0
    with db.engine_for(empty_database, db.OPERATOR).connect() as other:
        tables = "SELECT string_agg(tablename, ', ') FROM pg_tables WHERE schemaname = 'public'"
        names = other.execute(text(tables)).scalar_one()
        other.execute(text(f"LOCK TABLE {names} IN ACCESS SHARE MODE"))
        said = migrate("up")
    assert said.exit_code == 1
    assert "a table is in use" in said.output
    assert migrate("up").exit_code == 0
