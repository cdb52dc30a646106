"""What the tests put into their own database: a log of moves, and a gate before the relay's commit.

The log is written by a trigger in the transaction of each move, so it misses none and invents none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2

#: The advisory lock on which a commit of the relay waits while the gate is closed.
GATE = 7_151_129

INSTALL = f"""
CREATE SCHEMA chaos;
CREATE TABLE chaos.moves (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gift_id uuid NOT NULL, before text, after text NOT NULL, send_no integer NOT NULL
);
CREATE FUNCTION chaos.log_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO chaos.moves (gift_id, before, after, send_no)
        VALUES (NEW.id, NULL, NEW.status, NEW.send_no);
    ELSIF NEW.status <> OLD.status OR NEW.send_no <> OLD.send_no THEN
        INSERT INTO chaos.moves (gift_id, before, after, send_no)
        VALUES (NEW.id, OLD.status, NEW.status, NEW.send_no);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER chaos_log_move AFTER INSERT OR UPDATE ON gifts
FOR EACH ROW EXECUTE FUNCTION chaos.log_move();

-- Deferred: it runs at COMMIT, which the relay asks for when SQS has taken the messages.
CREATE FUNCTION chaos.wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({GATE});
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER chaos_gate AFTER DELETE ON outbox DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION chaos.wait_at_gate();
"""

WAITING = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND objid = %s AND NOT granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

#: What a database raises that is being stopped.
OUTAGE = (psycopg2.OperationalError, psycopg2.InterfaceError)


class Database:
    """A connection for each question: an outage ends one question, and not those after it."""

    def __init__(self, url: str) -> None:
        self._url = url.replace("postgresql+psycopg2", "postgresql")

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        connection = psycopg2.connect(self._url, connect_timeout=5)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def install(self) -> None:
        with self.cursor() as cursor:
            cursor.execute(INSTALL)
