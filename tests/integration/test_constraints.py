"""What the database refuses by itself, and what it finds by an index."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.gifts.models import STATUSES
from tests.factories import accounts, attempts, gifts

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


@pytest.mark.parametrize(
    ("rows", "refused_by"),
    [
        ([{}, {}], "uq_attempts_open"),
        (
            [{**attempts.ENDED, "outcome": "sent"}, {**attempts.ENDED, "outcome": "sent"}],
            "uq_attempts_sent",
        ),
        ([{**attempts.ENDED, "outcome": "bored"}], "ck_attempts_outcome"),
        ([attempts.ENDED], "ck_attempts_ended"),
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
        attempts.insert(session, row)
    with pytest.raises(IntegrityError, match=refused_by):
        attempts.insert(session, last)


def test_attempts_that_may_stand_beside_each_other(session: Session) -> None:
    attempts.insert(session, {})
    attempts.insert(session, {"subject_id": uuid4()})
    attempts.insert(session, {**attempts.ENDED, "outcome": "sent"})
    attempts.insert(session, {**attempts.ENDED, "outcome": "sent", "send_no": 2})
    attempts.insert(session, {**attempts.ENDED, "outcome": "lost"})
    for _ in range(2):
        of_no_row = {"kind": "message", "subject_id": None, "send_no": None}
        attempts.insert(session, {**of_no_row, **attempts.ENDED, "outcome": "permanent"})


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


# --- users, notifications, messages -------------------------------------------------------------

HASH = "'\\x" + "00" * 32 + "'::bytea"

#: A row of each table; :id is an account's, :job a job's.
ROWS: dict[str, dict[str, str]] = {
    "users": {"email": "'hanako@example.com'"},
    "notifications": {
        "account_id": ":id",
        "recipient": "'user-789'",
        "title": "'hi'",
        "body": "''",
        "occasion": "'job:1'",
    },
    "inbox_messages": {
        "external_id": "'msg-123'",
        "type": "'task'",
        "version": "1",
        "sent_at": "now()",
        "fingerprint": HASH,
        "job_id": ":job",
    },
    "synced_entities": {"entity_type": "'product'", "entity_id": "'prod-123'"},
    "external_tasks": {
        "task_id": "'task-456'",
        "action": "'process'",
        "idempotency_key": "'job:1'",
    },
}


@pytest.fixture
def parents(session: Session) -> dict[str, Any]:
    """What the rows belong to."""
    account_id = accounts.principal(session).account_id
    job_id = session.execute(
        text(
            "INSERT INTO jobs (account_id, job_type, payload) VALUES (:id, 'task', '{}')"
            " RETURNING id"
        ),
        {"id": account_id},
    ).scalar_one()
    return {"id": account_id, "job": job_id}


def add(session: Session, table: str, parents: dict[str, Any], **columns: str) -> None:
    row = {**ROWS[table], **columns}
    statement = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})"
    used = {name: value for name, value in parents.items() if f":{name}" in statement}
    session.execute(text(statement), used)


@pytest.mark.parametrize(
    ("table", "columns", "refused_by"),
    [
        ("users", {"age": "-1"}, "ck_users_age"),
        ("users", {"additional_data": "'[]'"}, "ck_users_additional_data"),
        ("users", {"additional_data": "'null'"}, "ck_users_additional_data"),
        ("users", {"additional_data": "NULL"}, "additional_data"),
        ("users", {"is_active": "NULL"}, "is_active"),
        ("users", {"email": "NULL"}, "email"),
        ("notifications", {"account_id": "gen_random_uuid()"}, "fk_notifications_account_id_users"),
        ("notifications", {"recipient": "NULL"}, "recipient"),
        ("notifications", {"title": "NULL"}, "title"),
        ("notifications", {"body": "NULL"}, "body"),
        ("notifications", {"occasion": "NULL"}, "occasion"),
        ("inbox_messages", {"fingerprint": "'a'::bytea"}, "ck_inbox_messages_fingerprint"),
        ("inbox_messages", {"fingerprint": "NULL"}, "fingerprint"),
        ("inbox_messages", {"job_id": "gen_random_uuid()"}, "fk_inbox_messages_job_id_jobs"),
        ("inbox_messages", {"job_id": "NULL"}, "job_id"),
        ("inbox_messages", {"sent_at": "NULL"}, "sent_at"),
        ("synced_entities", {"attributes": "'[]'"}, "ck_synced_entities_attributes"),
        ("synced_entities", {"attributes": "NULL"}, "attributes"),
        ("synced_entities", {"written_at": "'1'"}, "ck_synced_entities_written_at"),
        ("synced_entities", {"entity_id": "NULL"}, "entity_id"),
        ("external_tasks", {"idempotency_key": "NULL"}, "idempotency_key"),
        ("external_tasks", {"task_id": "NULL"}, "task_id"),
    ],
)
def test_the_database_refuses_impossible_rows(
    session: Session,
    parents: dict[str, Any],
    table: str,
    columns: dict[str, str],
    refused_by: str,
) -> None:
    with session.begin_nested() as savepoint:
        add(session, table, parents)  # it is the column that is refused
        savepoint.rollback()
    with pytest.raises(IntegrityError, match=refused_by):
        add(session, table, parents, **columns)


@pytest.mark.parametrize(
    ("table", "other", "refused_by"),
    [
        ("users", {"email": "'HANAKO@EXAMPLE.COM'"}, "uq_users_email"),
        ("notifications", {"title": "'other'"}, "uq_notifications_occasion"),
        ("inbox_messages", {"type": "'notification'"}, "uq_inbox_messages_external_id"),
        ("synced_entities", {"attributes": "'{\"a\": 1}'"}, "pk_synced_entities"),
        ("external_tasks", {"task_id": "'other'"}, "uq_external_tasks_idempotency_key"),
    ],
)
def test_the_database_keeps_what_is_one_once(
    session: Session,
    parents: dict[str, Any],
    table: str,
    other: dict[str, str],
    refused_by: str,
) -> None:
    add(session, table, parents)
    with pytest.raises(IntegrityError, match=refused_by):
        add(session, table, parents, **other)


def test_rows_that_may_stand_beside_each_other(session: Session, parents: dict[str, Any]) -> None:
    add(session, "notifications", parents)
    add(session, "notifications", parents, account_id="NULL", occasion="'job:2'")
    add(session, "inbox_messages", parents)
    add(session, "inbox_messages", parents, external_id="'MSG-123'")
    add(session, "synced_entities", parents)
    add(session, "synced_entities", parents, entity_type="'order'")
    add(session, "synced_entities", parents, entity_id="'prod-124'")
    add(session, "external_tasks", parents)
    add(session, "external_tasks", parents, idempotency_key="'job:2'")
    add(session, "users", parents, age="0")
    add(session, "users", parents, email="'taro@example.com'", age="2147483647")


def test_a_user_who_was_told_something_cannot_be_deleted(
    session: Session, parents: dict[str, Any]
) -> None:
    add(session, "notifications", parents)
    for table in ("jobs", "api_keys"):  # they would keep the user too
        session.execute(text(f"DELETE FROM {table}"))
    with pytest.raises(IntegrityError, match="fk_notifications_account_id_users"):
        session.execute(text("DELETE FROM users WHERE id = :id"), {"id": parents["id"]})


def test_the_job_of_a_message_cannot_be_deleted(session: Session, parents: dict[str, Any]) -> None:
    add(session, "inbox_messages", parents)
    with pytest.raises(IntegrityError, match="fk_inbox_messages_job_id_jobs"):
        session.execute(text("DELETE FROM jobs"))


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
    "user by address": (
        "SELECT id FROM users WHERE lower(email) = 'hanako@example.com'",
        "uq_users_email",
    ),
    "notifications": (
        (
            "SELECT * FROM notifications WHERE account_id = '{id}'"
            " AND (created_at, id) < (now(), '{id}') ORDER BY created_at DESC, id DESC LIMIT 51"
        ),
        "ix_notifications_account_created",
    ),
    "unread notifications": (
        (
            "SELECT * FROM notifications WHERE account_id = '{id}' AND read_at IS NULL"
            " AND (created_at, id) < (now(), '{id}') ORDER BY created_at DESC, id DESC LIMIT 51"
        ),
        "ix_notifications_unread",
    ),
    "messages": (
        (
            "SELECT * FROM inbox_messages WHERE (created_at, id) < (now(), '{id}')"
            " ORDER BY created_at DESC, id DESC LIMIT 51"
        ),
        "ix_inbox_messages_created",
    ),
    "messages of a type": (
        (
            "SELECT * FROM inbox_messages WHERE type = 'task'"
            " AND (created_at, id) < (now(), '{id}') ORDER BY created_at DESC, id DESC LIMIT 51"
        ),
        "ix_inbox_messages_type_created",
    ),
    "a message that came again": (
        (
            "UPDATE inbox_messages SET duplicates = duplicates + 1"
            " WHERE external_id = 'msg-123' AND fingerprint = 'a'"
        ),
        "uq_inbox_messages_external_id",
    ),
    "entity": (
        (
            "SELECT * FROM synced_entities WHERE entity_type = 'product' AND entity_id = 'prod-123'"
            " FOR UPDATE"
        ),
        "pk_synced_entities",
    ),
    "actions on a task": (
        "SELECT * FROM external_tasks WHERE task_id = 'task-456'",
        "ix_external_tasks_task_id",
    ),
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
