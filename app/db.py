"""The database: engine, transactions, and how long anything may wait for it."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg2 import extensions
from sqlalchemy import DateTime, Engine, MetaData, NullPool, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from app.config import Settings


class NotReady(Exception):
    """The database answers, and cannot be worked with: it takes no writes, or its schema is old."""


#: What is raised when the database is gone, too slow, busy, or (InternalError) takes no writes, as
#: during a failover: worth another try later.
OUTAGE_ERRORS = (OperationalError, InterfaceError, InternalError, PoolTimeoutError, NotReady)

MIGRATIONS = Path(__file__).parent.parent / "migrations"


class Base(DeclarativeBase):
    # Constraints carry the names that Alembic would give them: it can then drop them.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


#: Every moment is kept with its time zone.
UtcDateTime = DateTime(timezone=True)


@dataclass(frozen=True)
class Role:
    """How long the connections of one kind of process may keep others waiting, in seconds."""

    name: str
    statement: float
    lock: float
    idle_in_transaction: float
    pool: float

    @property
    def options(self) -> str:
        milliseconds = {
            "statement_timeout": self.statement,
            "lock_timeout": self.lock,
            "idle_in_transaction_session_timeout": self.idle_in_transaction,
        }
        flags = [f"-c {name}={seconds * 1000:.0f}" for name, seconds in milliseconds.items()]
        return " ".join([*flags, "-c TimeZone=UTC"])


#: A caller waits at most 2 s before it hears 503 (docs/architecture.md): for a connection to be
#: recognised, for another one, and for a lock.
API = Role("api", statement=5, lock=1, idle_in_transaction=10, pool=0.5)
WORKER = Role("worker", statement=5, lock=3, idle_in_transaction=10, pool=3)
#: Its transaction is open while SQS answers: ten calls of at most 7 s, eight at a time.
RELAY = Role("relay", statement=10, lock=3, idle_in_transaction=30, pool=3)
OPERATOR = Role("operator", statement=60, lock=5, idle_in_transaction=60, pool=5)
#: A migration may build an index. One that waits for a lock makes everyone behind it wait: it gives
#: up, and is run again.
MIGRATOR = Role("migrator", statement=900, lock=4, idle_in_transaction=900, pool=5)

_sessions = sessionmaker(expire_on_commit=False)


def configure(settings: Settings, role: Role) -> Engine:
    """Bind this process's `transaction()` and `autocommit()` to the database of `settings`."""
    global _answer_within
    _answer_within = role.statement + 2
    engine = engine_for(settings.database_url, role, pool_size=settings.db_max_open_conns)
    _sessions.configure(bind=engine)
    return engine


def engine_for(database_url: str, role: Role, *, pool_size: int = 0) -> Engine:
    """An engine whose connections carry the timeouts of `role`; `pool_size` 0 keeps none open."""
    extensions.set_wait_callback(_wait_with_deadline)
    pool: dict[str, Any] = {"poolclass": NullPool}
    if pool_size:
        pool = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": role.pool}
    engine = create_engine(
        make_url(database_url).set(drivername="postgresql+psycopg2"),
        connect_args={
            "application_name": f"okuru-{role.name}",
            "options": role.options,
            "keepalives_idle": 30,
        },
        hide_parameters=True,  # an error's text must not carry a gift's code into a log
        pool_pre_ping=bool(pool_size),  # after a failover the first request must not fail
        **pool,
    )
    ping = engine.dialect.do_ping
    pinged: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def do_ping(connection: Any) -> bool:
        now = time.monotonic()
        if now - pinged.get(connection, -TRUSTED) < TRUSTED and not _hung_up(connection):
            return True
        with answering_within(GREETING):
            alive = bool(ping(connection))
        pinged[connection] = now
        return alive

    engine.dialect.do_ping = do_ping  # type: ignore[assignment,method-assign]
    return engine


@contextmanager
def autocommit() -> Iterator[Session]:
    """A session each of whose statements is a transaction of its own: no BEGIN, no COMMIT."""
    with _sessions() as session:
        # Not by SQLAlchemy's isolation_level, which is two round trips of SET (psycopg2 keeps it
        # in the server's session as soon as it is not the default).
        connection: Any = session.connection().connection.dbapi_connection
        connection.autocommit = True
        try:
            yield session
        finally:
            if not connection.closed:
                connection.autocommit = False


def transaction() -> AbstractContextManager[Session]:
    """A session that commits when the block ends well and rolls back when it raises."""
    return _sessions.begin()


def forget_connections() -> None:
    """Call in a forked child: it must not share its parent's sockets, nor close them."""
    engine: Engine = _sessions.kw["bind"]
    engine.dispose(close=False)


def require_ready() -> None:
    """Return if the database can be worked with.

    Raises:
        NotReady: it is not migrated, or takes no writes.
        One of the other `OUTAGE_ERRORS`: it cannot be reached.
    """
    with transaction() as session:
        if session.execute(text("SHOW transaction_read_only")).scalar_one() == "on":
            raise NotReady("the database takes no writes")
        if not is_migrated(session):
            raise NotReady("the database is not migrated")


#: Seconds to wait for what a healthy server does at once: take a connection, answer `SELECT 1`.
GREETING = 2.0
#: Seconds for which a connection that answered is taken to be alive: asking it at every checkout
#: would double the round trips of a request.
TRUSTED = 0.2
#: Seconds. A frozen server sends nothing, not even the error of its own statement_timeout, and
#: libpq would wait for ever. `configure()` sets it above the statement timeout of the role.
_answer_within = OPERATOR.statement + 2
_own = threading.local()
_POLL_EVENTS = {
    extensions.POLL_READ: select.POLLIN,
    extensions.POLL_WRITE: select.POLLOUT,
}


def _wait_with_deadline(connection: Any) -> None:
    """psycopg2's wait callback (its documentation, "Support for coroutine libraries")."""
    within = getattr(_own, "within", None) or _answer_within
    if connection.status == extensions.STATUS_SETUP:
        within = min(within, GREETING)
    deadline = time.monotonic() + within
    while (state := connection.poll()) != extensions.POLL_OK:
        poller = select.poll()
        poller.register(connection.fileno(), _POLL_EVENTS[state])
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise psycopg2.OperationalError(f"the database sent no answer for {within} s")


def _hung_up(connection: Any) -> bool:
    """Whether the server has ended an idle connection: it says so before it goes, as TCP does."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN)
    return bool(poller.poll(0))


@contextmanager
def answering_within(seconds: float) -> Iterator[None]:
    """Wait so long in this thread, and no longer, for each answer of the database."""
    before = getattr(_own, "within", None)
    _own.within = seconds
    try:
        yield
    finally:
        _own.within = before


# --- migrations ---------------------------------------------------------------------------------


def alembic_config(database_url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str, revision: str = "head") -> None:
    command.upgrade(alembic_config(database_url), revision)


@cache
def _scripts() -> ScriptDirectory:
    """Read once: `/readyz` is asked every few seconds."""
    return ScriptDirectory(str(MIGRATIONS))


def is_migrated(session: Session) -> bool:
    """Whether the schema is the code's, or a later one that the code does not know yet.

    During a rolling deploy the old code meets the new schema, and migrations only expand it.
    """
    scripts = _scripts()
    current = MigrationContext.configure(session.connection()).get_current_revision()
    if current is None:
        return False
    try:
        scripts.get_revision(current)
    except CommandError:
        return True
    return current == scripts.get_current_head()
