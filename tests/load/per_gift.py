"""`python -m tests.load.per_gift`: what one gift costs the database, for docs/scaling.md.

Statements, transactions, WAL, CPU and bytes, by the real functions in one process on a PostgreSQL
with its durability on; and what dead rows of the outbox cost the relay while a snapshot holds them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click
import psutil
import psycopg2
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app import db
from app.config import Settings
from app.outbox import service as outbox
from okuru.stack.home import Home
from okuru.stack.postgres import Postgres
from tests.load.environment import application
from tests.load.seeds import Database, execute

if TYPE_CHECKING:
    from tests.load.contenders import steps

#: Outbox rows of one turn, and turns between two looks.
TURN, TURNS = 100, 100
_SIZES = """
    SELECT relname, pg_relation_size(oid) FROM pg_class
    WHERE relkind IN ('r', 'i') AND relname ~ '(gifts|send_requests|attempts)'
"""
_COUNTS = """
    SELECT pg_current_wal_lsn() - '0/0'::pg_lsn, wal_fpi, xact_commit
    FROM pg_stat_wal, pg_stat_database WHERE datname = current_database()
"""
_TAKE = """
    EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT id FROM outbox
    WHERE available_at <= now() AND queue <> ALL('{}'::text[]) ORDER BY id LIMIT 100
"""


class Meter:
    """Counts what happens on a server between two looks."""

    def __init__(self, postgres: Postgres, database: Database) -> None:
        self._server = psutil.Process(postgres.child.pid)
        self._database = database
        self._statements = 0
        event.listen(Engine, "before_cursor_execute", self._count)

    def _count(self, *_: object) -> None:
        self._statements += 1

    def __call__(self) -> list[float]:
        execute(self._database.url, "SELECT pg_stat_force_next_flush()")
        time.sleep(0.3)  # sessions report within this
        ((wal, pages, commits),) = execute(self._database.url, _COUNTS)
        times = [
            each.cpu_times() for each in (self._server, *self._server.children(recursive=True))
        ]
        cpu = sum(each.user + each.system for each in times)
        return [float(wal), float(pages), float(commits), 1000 * cpu, float(self._statements)]


def create(place: steps.Place) -> UUID:
    request = EnvironBuilder(
        "/gifts", method="POST", headers={"X-API-Key": place.key}, json={"amount": 3000}
    )
    body, status, _ = run_wsgi_app(place.api, request.get_environ(), buffered=True)
    assert status.startswith("201"), status
    return UUID(json.loads(b"".join(body))["gift_id"])


def relay(_place: steps.Place) -> None:
    """Until nothing is left; publishing is left out."""
    taken = True
    while taken:
        with db.transaction() as session:
            taken = bool(outbox.take(session, limit=TURN))


def measure(postgres: Postgres, *, past: int, gifts: int, rounds: int) -> None:
    database = Database(postgres, "per_gift")
    database.create_past(1, past)
    database.execute("VACUUM (ANALYZE)")
    loaded = _sizes(database)
    click.echo(f"bulk: {_each(loaded, past)}")
    os.environ.update(application(database.url, "http://127.0.0.1:1", "http://127.0.0.1:1/0/none-"))
    os.environ |= {"LOG_LEVEL": "ERROR", "BENCH_QUEUE_URL": "none"}
    from tests.load.contenders import steps  # reads the environment

    place = steps.Place(Settings.from_env(), database.url, past + 1)
    db._sessions.configure(bind=place.engine)
    look = Meter(postgres, database)
    for number in range(rounds):
        if number == rounds - 1:
            execute(postgres.superuser_url, "CHECKPOINT")
            click.echo("just after a checkpoint:")
        before = look()
        subjects = [create(place) for _ in range(gifts)]
        before = _tell("create", before, look(), gifts)
        for subject in subjects:
            steps.accept(place, subject)
        before = _tell("accept", before, look(), gifts)
        relay(place)
        before = _tell("relay", before, look(), gifts)
        for subject in subjects:
            steps.send(place, subject)
        _tell("send", before, look(), gifts)
        database.execute("VACUUM (ANALYZE)")
        now = _sizes(database)
        grown = {name: size - loaded[name] for name, size in now.items()}
        click.echo(f"  rows and indexes: {_each(grown, gifts)}")
        loaded = now
    ((updates, hot),) = execute(
        database.url,
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'gifts'",
    )
    click.echo(f"updates of gifts: {updates}, HOT: {hot}")
    _outbox(database)


def _tell(step: str, before: list[float], after: list[float], gifts: int) -> list[float]:
    wal, pages, commits, cpu, statements = (
        (now - was) / gifts for now, was in zip(after, before, strict=True)
    )
    click.echo(
        f"  {step:7} WAL {wal:6.0f} bytes, {pages:.2f} whole pages, {commits:.1f} commits,"
        f" {cpu:.1f} ms CPU, {statements:.2f} statements"
    )
    return after


def _outbox(database: Database) -> None:
    """Pages that a take touches, with dead rows that a snapshot holds."""
    plain = make_url(database.url).set(drivername="postgresql")
    _turns(database, 20)
    click.echo(f"outbox, fresh: {_pages(database)} pages a take")
    with closing(psycopg2.connect(plain.render_as_string(hide_password=False))) as old:
        with old.cursor() as cursor:
            cursor.execute("SET idle_in_transaction_session_timeout = 0")
            cursor.execute("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM outbox")
        for number in range(1, 7):
            _turns(database, TURNS)
            click.echo(f"  {number * TURNS * TURN} dead rows: {_pages(database)} pages a take")
    database.execute("VACUUM outbox")
    _pages(database)
    click.echo(f"outbox, vacuumed: {_pages(database)} pages a take")


def _turns(database: Database, times: int) -> None:
    for _ in range(times):
        database.create_backlog(TURN)
        with db.transaction() as session:
            assert len(outbox.take(session, limit=TURN)) == TURN


def _pages(database: Database) -> int:
    database.create_backlog(TURN)
    for _ in range(2):  # the first plans, which touches pages too
        plan = "\n".join(line for (line,) in execute(database.url, _TAKE))
    found = re.search(r"Buffers: shared hit=(\d+)", plan)
    assert found, plan
    with db.transaction() as session:
        outbox.take(session, limit=TURN)
    return int(found[1])


def _sizes(database: Database) -> dict[str, int]:
    return dict(database.execute(_SIZES))


def _each(sizes: dict[str, int], gifts: int) -> str:
    each = {name: round(size / gifts) for name, size in sorted(sizes.items()) if size}
    return f"{sum(sizes.values()) / gifts:.0f} bytes a gift {each}"


@contextmanager
def _server() -> Iterator[Postgres]:
    # Short and traversable: PostgreSQL may have to run as another user.
    path = Path(tempfile.mkdtemp(prefix="okuru-per-gift-"))
    home = Home(path)
    with home.locked():
        postgres = Postgres(home)
        try:
            postgres.start()
            postgres.wait_until_ready()
            yield postgres
        finally:
            postgres.stop()
            home.forget_data()
            shutil.rmtree(path, ignore_errors=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--past", default=300_000, help="Gifts that were sent before.")
@click.option("--gifts", default=1_000, help="Of each round.")
@click.option("--rounds", default=3, help="The last one begins with a checkpoint.")
def main(past: int, gifts: int, rounds: int) -> None:
    """Measure what one gift costs the database. Some minutes."""
    with _server() as postgres:
        measure(postgres, past=past, gifts=gifts, rounds=rounds)


if __name__ == "__main__":
    main()
