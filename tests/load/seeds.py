"""Rows by the thousand, as SQL makes them. Gift N has the id md5(N): anyone can compute it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from hashlib import md5
from typing import Any

import psycopg2
from sqlalchemy.engine import make_url

from app import db
from okuru.stack.postgres import Postgres

_GIFTS = """
    INSERT INTO gifts (id, account_id, amount)
    SELECT md5(n::text)::uuid, %(account)s, 100 FROM generate_series(%(first)s, %(last)s) AS n
"""
_QUEUE = """
    WITH queued AS (
        UPDATE gifts SET status = 'QUEUED', send_no = send_no + 1, accepted_at = now(),
            request_id = 'key-' || id
        FROM generate_series(%(first)s, %(last)s) AS n WHERE id = md5(n::text)::uuid
        RETURNING id, send_no, request_id
    ), recorded AS (
        INSERT INTO send_requests (gift_id, request_id, send_no)
        SELECT id, request_id, send_no FROM queued
    )
    INSERT INTO outbox (queue, task, kwargs, headers)
    SELECT 'gifts', 'gifts.send',
        jsonb_build_object('gift_id', id, 'send_no', send_no, 'request_id', request_id),
        jsonb_build_object('request_id', request_id)
    FROM queued
"""
#: A past: gifts that were sent, with all that they left behind.
_SENT = (
    """
    INSERT INTO gifts (id, account_id, amount, status, send_no, accepted_at, request_id, carrier,
        receive, executions)
    SELECT md5(n::text)::uuid, %(account)s, 100, 'SENT', 1, now(), 'key-' || n, 'carrier-' || n,
        1, 1
    FROM generate_series(%(first)s, %(last)s) AS n
    """,
    """
    INSERT INTO send_requests (gift_id, request_id, send_no)
    SELECT md5(n::text)::uuid, 'key-' || n, 1 FROM generate_series(%(first)s, %(last)s) AS n
    """,
    """
    INSERT INTO attempts (kind, subject_id, send_no, receive_count, message_id, worker, ended_at,
        outcome)
    SELECT 'gift', md5(n::text)::uuid, 1, 1, 'carrier-' || n, 'celery@worker', now(), 'sent'
    FROM generate_series(%(first)s, %(last)s) AS n
    """,
)
_OUTBOX = """
    INSERT INTO outbox (queue, task, kwargs, headers)
    SELECT 'gifts', 'gifts.send',
        jsonb_build_object('gift_id', gen_random_uuid(), 'send_no', 1, 'request_id', 'key-' || n),
        jsonb_build_object('request_id', 'key-' || n)
    FROM generate_series(%(first)s, %(last)s) AS n
"""


def gift_id(number: int) -> uuid.UUID:
    return uuid.UUID(md5(str(number).encode()).hexdigest())


class Database:
    """A migrated database of its own on the run's server."""

    def __init__(self, postgres: Postgres, name: str) -> None:
        execute(postgres.url, f"CREATE DATABASE {name}")
        url = make_url(postgres.url).set(database=name)
        self.url = url.render_as_string(hide_password=False)
        db.upgrade(self.url)
        (self.account,) = execute(
            self.url, "INSERT INTO users (email) VALUES ('bench@example.com') RETURNING id"
        )[0]

    def execute(self, *statements: str, **values: Any) -> list[Any]:
        return execute(self.url, *statements, values={"account": self.account, **values})

    def create_gifts(self, first: int, last: int) -> None:
        self.execute(_GIFTS, first=first, last=last)

    def queue_gifts(self, first: int, last: int) -> None:
        """Accept the sends of gifts that exist."""
        self.execute(_QUEUE, first=first, last=last)

    def create_past(self, first: int, last: int) -> None:
        # The guard lets no gift begin as SENT.
        off, on = (f"ALTER TABLE gifts {word} TRIGGER USER" for word in ("DISABLE", "ENABLE"))
        self.execute(off, *_SENT, on, first=first, last=last)

    def create_backlog(self, rows: int) -> None:
        """Outbox rows for gifts that nobody has."""
        self.execute(_OUTBOX, first=1, last=rows)

    def count(self, query: str) -> int:
        ((number,),) = self.execute(f"SELECT count(*) FROM {query}")
        return int(number)


def execute(url: str, *statements: str, values: Mapping[str, Any] | None = None) -> list[Any]:
    """Run statements one by one, each in a transaction of its own. Returns the last one's rows."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = psycopg2.connect(plain, options="-c statement_timeout=0 -c lock_timeout=10s")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement, values)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()
