"""What the database refuses by itself, how long it may keep anyone waiting, and its migrations."""

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
from typing import Any
from uuid import UUID, uuid4

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import db
from app.config import Settings
from app.db import Role
from app.gifts.models import STATUSES
from tests.factories import accounts, gifts

# --- the moves of a deliverable -----------------------------------------------------------------

LEGAL = {
    ("CREATED", "QUEUED"),
    ("QUEUED", "SENT"),
    ("QUEUED", "FAILED"),
    ("FAILED", "SENT"),
    ("FAILED", "QUEUED"),
}
#: How a row gets to each state by legal moves.
PATHS = {
    "CREATED": [],
    "QUEUED": ["QUEUED"],
    "SENT": ["QUEUED", "SENT"],
    "FAILED": ["QUEUED", "FAILED"],
}
MOVE = """
    UPDATE gifts SET status = :status, send_no = send_no + :raised,
        accepted_at = CASE :status WHEN 'CREATED' THEN NULL ELSE now() END,
        failure = CASE :status WHEN 'FAILED' THEN 'exhausted' END
    WHERE id = :id
"""


def gift_in(session: Session, status: str) -> UUID:
    gift_id = gifts.created(session).id
    for step in PATHS[status]:
        move(session, gift_id, step, raised=step == "QUEUED")
    return gift_id


def move(session: Session, gift_id: UUID, status: str, *, raised: int) -> None:
    session.execute(text(MOVE), {"id": gift_id, "status": status, "raised": int(raised)})


@pytest.mark.parametrize("new", STATUSES)
@pytest.mark.parametrize("old", STATUSES)
def test_the_database_refuses_illegal_moves(session: Session, old: str, new: str) -> None:
    gift_id = gift_in(session, old)
    raised = new == "QUEUED" and old != "QUEUED"
    if old == new or (old, new) in LEGAL:
        move(session, gift_id, new, raised=raised)
        now = session.execute(text("SELECT status FROM gifts WHERE id = :id"), {"id": gift_id})
        assert now.scalar_one() == new
    else:
        with pytest.raises(IntegrityError, match=f"gifts cannot go from {old} to {new}"):
            move(session, gift_id, new, raised=raised)


@pytest.mark.parametrize(
    ("old", "new", "raised"),
    [
        ("CREATED", "QUEUED", 0),
        ("CREATED", "QUEUED", 2),
        ("FAILED", "QUEUED", 0),
        ("FAILED", "QUEUED", -1),
        ("QUEUED", "QUEUED", 1),
        ("QUEUED", "QUEUED", -1),
        ("QUEUED", "SENT", 1),
        ("FAILED", "SENT", 1),
    ],
)
def test_a_send_number_is_raised_by_queueing_and_only_then(
    session: Session, old: str, new: str, raised: int
) -> None:
    gift_id = gift_in(session, old)
    with pytest.raises(IntegrityError, match="takes a new send number when it becomes QUEUED"):
        move(session, gift_id, new, raised=raised)


@pytest.mark.parametrize("status", STATUSES[1:])
def test_a_row_begins_as_created(session: Session, status: str) -> None:
    with pytest.raises(IntegrityError, match=f"gifts cannot begin as {status}"):
        session.execute(
            text(
                "INSERT INTO gifts (account_id, amount, status, send_no, accepted_at, failure)"
                " VALUES (:account, 1, :status, 1, now(),"
                " CASE :status WHEN 'FAILED' THEN 'unknown' END)"
            ),
            {"account": accounts.principal(session).account_id, "status": status},
        )


def test_every_change_touches_the_row(session: Session) -> None:
    gift_id = gift_in(session, "QUEUED")
    session.commit()
    session.execute(
        text("UPDATE gifts SET message = 'x', updated_at = '2000-01-01' WHERE id = :id"),
        {"id": gift_id},
    )
    touched = text("SELECT updated_at = now() FROM gifts WHERE id = :id")
    assert session.execute(touched, {"id": gift_id}).scalar_one()


# --- constraints --------------------------------------------------------------------------------

GIFT_CHECKS = [
    ("CREATED", "amount = 2", "for ever"),
    ("SENT", "code = gen_random_uuid()", "for ever"),
    ("CREATED", "executions = 6", "ck_gifts_executions"),
    ("CREATED", "executions = -1", "ck_gifts_executions"),
    ("CREATED", "receive = -1", "ck_gifts_counts"),
    ("CREATED", "restages = -1", "ck_gifts_counts"),
    ("CREATED", "failure = 'exhausted'", "ck_gifts_failure"),
    ("SENT", "failure = 'exhausted'", "ck_gifts_failure"),
    ("FAILED", "failure = NULL", "ck_gifts_failure"),
    ("FAILED", "failure = 'bored'", "ck_gifts_failure"),
    ("CREATED", "accepted_at = now()", "ck_gifts_accepted"),
    ("QUEUED", "accepted_at = NULL", "ck_gifts_accepted"),
    ("CREATED", "code = NULL", "code"),
    ("CREATED", "account_id = NULL", "account_id"),
    ("CREATED", "status = NULL", "status"),
    ("CREATED", "account_id = gen_random_uuid()", "for ever"),
]


@pytest.mark.parametrize(("status", "change", "refused_by"), GIFT_CHECKS)
def test_the_database_refuses_impossible_gifts(
    session: Session, status: str, change: str, refused_by: str
) -> None:
    gift_id = gift_in(session, status)
    with pytest.raises(IntegrityError, match=refused_by):
        session.execute(text(f"UPDATE gifts SET {change} WHERE id = :id"), {"id": gift_id})


@pytest.mark.parametrize(
    ("column", "value", "refused_by"),
    [
        ("amount", "0", "ck_gifts_amount"),
        ("amount", "-1", "ck_gifts_amount"),
        ("account_id", "gen_random_uuid()", "fk_gifts_account_id_users"),
        ("code", "code", "uq_gifts_code"),
        ("executions", "1", "cannot begin as CREATED with 1 executions"),
    ],
)
def test_the_database_refuses_impossible_new_gifts(
    session: Session, column: str, value: str, refused_by: str
) -> None:
    known = gifts.created(session)
    columns = {"account_id": "account_id", "amount": "amount", column: value}
    with pytest.raises(IntegrityError, match=refused_by):
        session.execute(
            text(
                f"INSERT INTO gifts ({', '.join(columns)})"
                f" SELECT {', '.join(columns.values())} FROM gifts WHERE id = :id"
            ),
            {"id": known.id},
        )


@pytest.mark.parametrize(
    "statement", ["DELETE FROM send_requests", "UPDATE send_requests SET request_id = 'other'"]
)
def test_a_send_key_is_kept_for_ever(session: Session, statement: str) -> None:
    gifts.queued(session)
    with pytest.raises(IntegrityError, match="kept for ever"):
        session.execute(text(statement))


@pytest.mark.parametrize("column", ["kwargs", "headers"])
def test_an_outbox_row_that_no_relay_could_read_is_refused(session: Session, column: str) -> None:
    gifts.queued(session)
    with pytest.raises(IntegrityError, match=f"ck_outbox_{column}"):
        session.execute(text(f"UPDATE outbox SET {column} = 'null'"))


ATTEMPT = {
    "kind": "gift", "subject_id": uuid4(), "send_no": 1, "receive_count": 1, "message_id": "m1",
    "worker": "w", "ended_at": None, "outcome": None,
}  # fmt: skip
ENDED = {"ended_at": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("rows", "refused_by"),
    [
        ([{}, {}], "uq_attempts_open"),
        ([{**ENDED, "outcome": "sent"}, {**ENDED, "outcome": "sent"}], "uq_attempts_sent"),
        ([{**ENDED, "outcome": "bored"}], "ck_attempts_outcome"),
        ([ENDED], "ck_attempts_ended"),
        ([{"outcome": "lost"}], "ck_attempts_ended"),
        ([{"subject_id": None}], "ck_attempts_subject"),
        ([{"send_no": None}], "ck_attempts_subject"),
        ([{"kind": "message"}], "ck_attempts_subject"),
        ([{"kind": "message", "subject_id": None}], "ck_attempts_subject"),
        ([{"kind": "message", "send_no": None}], "ck_attempts_subject"),
    ],
)
def test_the_database_refuses_impossible_attempts(
    session: Session, rows: list[dict[str, Any]], refused_by: str
) -> None:
    *before, last = rows
    for row in before:
        insert_attempt(session, row)
    with pytest.raises(IntegrityError, match=refused_by):
        insert_attempt(session, last)


def test_attempts_that_may_stand_beside_each_other(session: Session) -> None:
    insert_attempt(session, {})
    insert_attempt(session, {"subject_id": uuid4()})
    insert_attempt(session, {**ENDED, "outcome": "sent"})
    insert_attempt(session, {**ENDED, "outcome": "sent", "send_no": 2})
    insert_attempt(session, {**ENDED, "outcome": "lost"})
    for _ in range(2):
        of_no_row = {"kind": "message", "subject_id": None, "send_no": None}
        insert_attempt(session, {**of_no_row, **ENDED, "outcome": "permanent"})


REDRIVE = {
    "batch": uuid4(), "action": "redrive", "outcome": "redriven", "actor": "a", "reason": "r",
    "queue": "gifts", "message_id": "m1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "refused_by"),
    [
        ({"action": "purge"}, "ck_redrives_action"),
        ({"action": "retry"}, "ck_redrives_message"),
        ({"message_id": None}, "ck_redrives_message"),
        ({"actor": None}, "actor"),
        ({"reason": None}, "reason"),
    ],
)
def test_the_database_refuses_impossible_redrives(
    session: Session, row: dict[str, Any], refused_by: str
) -> None:
    insert = text(
        "INSERT INTO redrives (batch, action, outcome, actor, reason, queue, message_id)"
        " VALUES (:batch, :action, :outcome, :actor, :reason, :queue, :message_id)"
    )
    session.execute(insert, REDRIVE)
    session.execute(insert, {**REDRIVE, "action": "retry", "message_id": None})
    with pytest.raises(IntegrityError, match=refused_by):
        session.execute(insert, {**REDRIVE, **row})


def insert_attempt(session: Session, row: dict[str, Any]) -> None:
    values = {**ATTEMPT, **row}
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    session.execute(text(f"INSERT INTO attempts ({names}) VALUES ({marks})"), values)


def test_a_send_request_belongs_to_a_gift_and_is_kept_once(session: Session) -> None:
    insert = text("INSERT INTO send_requests (gift_id, request_id) VALUES (:gift, 'key')")
    with session.begin_nested() as savepoint:
        with pytest.raises(IntegrityError, match="fk_send_requests_gift_id_gifts"):
            session.execute(insert, {"gift": uuid4()})
        savepoint.rollback()
    gift = gifts.created(session)
    session.execute(insert, {"gift": gift.id})
    with pytest.raises(IntegrityError, match="pk_send_requests"):
        session.execute(insert, {"gift": gift.id})


def test_a_gift_that_was_asked_for_cannot_be_deleted(session: Session) -> None:
    gift = gifts.queued(session)
    with pytest.raises(IntegrityError, match="fk_send_requests_gift_id_gifts"):
        session.execute(text("DELETE FROM gifts WHERE id = :id"), {"id": gift.id})


# --- migrations ---------------------------------------------------------------------------------


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
        insert_attempt(session, {})
        of_no_row = {"kind": "message", "subject_id": None, "send_no": None}
        insert_attempt(session, {**of_no_row, **ENDED, "outcome": "permanent"})
    command.downgrade(db.alembic_config(empty_database), "0001")
    with engine.connect() as connection:
        kinds = connection.execute(text("SELECT kind FROM attempts")).scalars().all()
        keys = connection.execute(text("SELECT request_id FROM send_requests")).scalars().all()
    assert (kinds, keys) == (["gift"], ["key-1"])
    db.upgrade(empty_database)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT send_no FROM send_requests")).scalar_one() == 1


def test_migrators_take_turns(empty_database: str) -> None:
    """Another one is at work: its session holds the lock of migrations/env.py."""
    waiting = text(
        "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database"
        " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted)"
    )
    with db.engine_for(empty_database, db.OPERATOR).connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": 0x6F6B757275})
        migrator = threading.Thread(target=db.upgrade, args=[empty_database])
        migrator.start()
        wait_until(lambda: other.execute(waiting).scalar_one() or not migrator.is_alive())
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


# --- how long anything may wait -----------------------------------------------------------------

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
        wait_until(lambda: watching.execute(gone, {"pid": pid}).scalar_one())
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


def test_an_error_does_not_quote_its_parameters(session: Session) -> None:
    """They may hold a gift's code."""
    gift = gifts.created(session)
    with pytest.raises(IntegrityError) as refused:
        session.execute(
            text("UPDATE gifts SET status = :s WHERE code = :code"),
            {"s": "SENT", "code": gift.code},
        )
    assert str(gift.code) not in str(refused.value.orig)
    assert "SENT" in str(refused.value)
    assert f"'{gift.code}'" not in str(refused.value)


def backend(connection: Connection) -> int:
    return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()


def wait_until(true: Any) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- indexes ------------------------------------------------------------------------------------

QUERIES = {
    "claim": (
        "UPDATE gifts SET receive = 1 WHERE id = '{id}' AND send_no = 1",
        "pk_gifts",
    ),
    "attempts": (
        "SELECT * FROM attempts WHERE kind = 'gift' AND subject_id = '{id}' ORDER BY id",
        "ix_attempts_subject",
    ),
    "open attempts": (
        (
            "UPDATE attempts SET outcome = 'lost' WHERE kind = 'gift' AND subject_id = '{id}'"
            " AND ended_at IS NULL"
        ),
        "uq_attempts_open",
    ),
    "stalled": (
        (
            "SELECT id FROM gifts WHERE status = 'QUEUED' AND updated_at < now() - interval '150 s'"
            " ORDER BY updated_at LIMIT 500"
        ),
        "ix_gifts_stalled",
    ),
    "relay": (
        (
            "SELECT id FROM outbox WHERE available_at <= now() AND queue <> ALL('{{}}')"
            " ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED"
        ),
        "pk_outbox",
    ),
    "waits for": ("SELECT id FROM outbox WHERE queue = 'gifts' LIMIT 1", "ix_outbox_queue_id"),
    "list": (
        (
            "SELECT * FROM gifts WHERE account_id = '{id}' AND (created_at, id) < (now(), '{id}')"
            " ORDER BY created_at DESC, id DESC LIMIT 51"
        ),
        "ix_gifts_account_created",
    ),
    "list of a state": (
        (
            "SELECT * FROM gifts WHERE account_id = '{id}' AND status = 'SENT'"
            " ORDER BY created_at DESC, id DESC LIMIT 51"
        ),
        "ix_gifts_account_status_created",
    ),
    "letters of a row": (
        "SELECT * FROM dead_letters WHERE subject_id = '{id}'",
        "ix_dead_letters_subject_id",
    ),
    "what a letter died of": (
        (
            "SELECT error_code FROM attempts WHERE message_id = 'm1' AND error_code IS NOT NULL"
            " ORDER BY id DESC LIMIT 1"
        ),
        "ix_attempts_message",
    ),
    "letters of a queue": (
        "SELECT * FROM dead_letters WHERE queue = 'gifts' ORDER BY first_seen_at",
        "ix_dead_letters_queue",
    ),
    "redrives of a row": (
        "SELECT * FROM redrives WHERE subject_id = '{id}'",
        "ix_redrives_subject_id",
    ),
    "longest untouched": (
        "SELECT min(updated_at) FROM gifts WHERE status = 'QUEUED'",
        "ix_gifts_stalled",
    ),
    "letter": ("SELECT * FROM dead_letters WHERE message_id = 'm1'", "pk_dead_letters"),
    "replay": (
        "SELECT * FROM send_requests WHERE gift_id = '{id}' AND request_id = 'k'",
        "pk_send_requests",
    ),
}


@pytest.mark.parametrize(("query", "index"), QUERIES.values(), ids=QUERIES.keys())
def test_workers_and_lists_find_their_rows_by_an_index(
    engine: Engine, query: str, index: str
) -> None:
    with engine.connect() as connection:
        # On tables of a few rows reading them whole is cheaper; it must not be the only way.
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        connection.execute(text("SET LOCAL enable_bitmapscan = off"))
        connection.execute(text("SET LOCAL enable_sort = off"))
        rows = connection.exec_driver_sql("EXPLAIN " + query.format(id=uuid4()))
        plan = "\n".join(row[0] for row in rows)
    assert index in plan, plan
    assert "Seq Scan" not in plan
    assert "Sort" not in plan


def test_every_foreign_key_has_an_index(engine: Engine) -> None:
    """Else deleting a user would read every gift."""
    inspector = inspect(engine)
    for table in inspector.get_table_names():
        indexed = [index["column_names"][0] for index in inspector.get_indexes(table)]
        indexed.append(inspector.get_pk_constraint(table)["constrained_columns"][0])
        for key in inspector.get_foreign_keys(table):
            assert key["constrained_columns"][0] in indexed, table
