"""The accept path: `POST /gifts/{id}/send` beside what it could be instead, and its bare SQL."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from app import db
from app.accounts import service as accounts
from okuru.stack import ports
from okuru.stack.errors import StackError
from okuru.stack.home import Home
from okuru.stack.postgres import Postgres
from okuru.stack.postgres_place import BINARIES
from tests.load.consumer import Stopwatch, run_to_end, running
from tests.load.emulator import Emulator
from tests.load.environment import PROGRAMS, application, common
from tests.load.http_load import Answers, ask, drive
from tests.load.seeds import Database, execute, gift_id

#: Requests at a time.
CONNECTIONS = 16
#: Requests before the first measured one: every thread and connection of the server exists then.
WARM_UP = 200

OUTBOX, INLINE, SQL = "this API", "inline publish", "pgbench"
#: A Flask app of nothing else; and a public route of this API that asks no database.
BARE, HEALTH = "bare route", "this API's /healthz"
WEB = [
    str(PROGRAMS / "gunicorn"),
    *("--config", "app/server.py", "tests.load.contenders.accept:create()"),
]


def measure(
    home: Home,
    emulator: Emulator,
    postgres: Postgres,
    *,
    requests: int,
    rounds: int,
    done: Callable[[], None],
) -> dict[str, list[dict[str, Any]]]:
    requests -= requests % CONNECTIONS  # pgbench gives each client as many
    database = Database(postgres, "accept")
    database.create_gifts(1, 3 * rounds * requests + 2 * WARM_UP + 1)
    taken = 0

    def take(count: int) -> range:
        """Gifts that nobody has sent yet."""
        nonlocal taken
        taken += count
        return range(taken - count + 1, taken + 1)

    emulator.create_queue("accept-gifts")
    samples: dict[str, list[dict[str, Any]]] = {
        name: [] for name in (BARE, HEALTH, OUTBOX, INLINE, SQL)
    }
    with serving(home, emulator, database) as (port, key, pid):

        def load(name: str, count: int) -> dict[str, Any]:
            numbers = take(count) if name in (OUTBOX, INLINE) else range(count)
            bodies = [request(name, number, port, key) for number in numbers]
            watch = Stopwatch(server=pid, postgres=postgres.child.pid, emulator=emulator.child.pid)
            answers = drive(port, bodies, connections=CONNECTIONS)
            return _sample(answers, watch.stop(), count)

        for name in (BARE, HEALTH, OUTBOX, INLINE):
            load(name, WARM_UP)
        (number,) = take(1)
        script = home.path / "accept.sql"
        with _recorded(postgres, home) as statements:
            drive(port, [request(OUTBOX, number, port, key)], connections=1)
        script.write_text(_script(statements, str(gift_id(number))))
        for _ in range(rounds):
            for name in (BARE, HEALTH, OUTBOX, INLINE):
                samples[name].append(load(name, requests))
                done()
            samples[SQL].append(_pgbench(database.url, script, take(requests)))
            done()
    return samples


@contextmanager
def serving(home: Home, emulator: Emulator, database: Database) -> Iterator[tuple[int, str, int]]:
    """gunicorn with two processes; gives its port, an API key, and its pid."""
    engine = db.engine_for(database.url, db.OPERATOR)
    with Session(engine) as session, session.begin():
        _, key = accounts.create_key(session, email="bench@example.com", role="user", name="bench")
    engine.dispose()
    port = ports.choose(taken=set())
    environment = {
        **application(database.url, emulator.url, emulator.queue_url("accept-")),
        "PORT": str(port),
    }
    with running(home, "web", WEB, environment) as child:
        _wait_until_it_listens(child, port)
        yield port, key, child.pid


def _wait_until_it_listens(child: Any, port: int) -> None:
    deadline = time.monotonic() + 30
    while not child.listens_on(port):
        if time.monotonic() > deadline or not child.alive:
            raise StackError("gunicorn does not listen: see its log")
        time.sleep(0.05)


def request(name: str, number: int, port: int, key: str) -> bytes:
    if name == BARE:
        return ask("POST /bare/", port)
    if name == HEALTH:
        return ask("GET /healthz", port)
    subject = gift_id(number)
    path = f"/gifts/{subject}/send"
    path = path if name == OUTBOX else f"/inline{path}"
    return ask(f"POST {path}", port, X_API_Key=key, Idempotency_Key=f"key-{subject}")


def _sample(answers: Answers, cpu: dict[str, float], count: int) -> dict[str, Any]:
    if not set(answers.statuses) <= {200, 202}:
        raise StackError(f"not every request was accepted: {dict(answers.statuses)}")
    latencies = sorted(answers.latencies)
    return {
        "per_second": count / answers.seconds,
        "p50_ms": 1000 * median(latencies),
        "p95_ms": 1000 * latencies[int(0.95 * len(latencies))],
        "cpu_ms_per_request": {name: 1000 * used / count for name, used in cpu.items()},
    }


# --- the SQL of one request, as the server heard it ---------------------------------------------


@contextmanager
def _recorded(postgres: Postgres, home: Home) -> Iterator[list[str]]:
    """Fills the list with the statements that reach PostgreSQL in the block."""
    heard: list[str] = []
    _configure(postgres, "SET log_statement = 'all'")
    log = home.log_path("postgres")
    begin = log.stat().st_size
    yield heard
    time.sleep(0.3)  # the log is written by another process
    heard += _statements(log.read_bytes()[begin:].decode())
    _configure(postgres, "RESET log_statement")


def _configure(postgres: Postgres, setting: str) -> None:
    execute(postgres.superuser_url, f"ALTER SYSTEM {setting}", "SELECT pg_reload_conf()")
    time.sleep(0.3)  # each session reads it before its next statement


def _statements(log: str) -> list[str]:
    found = re.findall(r"^\S+ \S+ \S+ \[\d+\] LOG:  statement: (.*(?:\n\t.*)*)", log, re.MULTILINE)
    return [statement.replace("\n\t", "\n") for statement in found]


def _script(statements: list[str], subject: str) -> str:
    """The same for any gift: pgbench counts through those of a round."""
    if not any(subject in statement for statement in statements):
        raise StackError(f"the log of PostgreSQL does not show a send: {statements}")
    lines = ["\\set i :i + 1", "\\set n :first + :client_id * :each + :i - 1"]
    for statement in statements:
        general = statement.replace(f"'key-{subject}'", "('key-' || md5((:n)::text)::uuid::text)")
        lines.append(general.replace(f"'{subject}'", "md5((:n)::text)") + ";")
    return "\n".join(lines) + "\n"


def _pgbench(url: str, script: Path, numbers: range) -> dict[str, Any]:
    place = make_url(url)
    each = len(numbers) // CONNECTIONS
    output = run_to_end(
        [
            str(BINARIES / "pgbench"), "--no-vacuum", "--protocol=simple", f"--file={script}",
            f"--client={CONNECTIONS}", "--jobs=1", f"--transactions={each}",
            "--define=i=0", f"--define=first={numbers.start}", f"--define=each={each}",
            f"--host={place.host}", f"--port={place.port}", f"--username={place.username}",
            str(place.database),
        ],
        {**common(), "PGPASSWORD": str(place.password), "PGOPTIONS": "-c TimeZone=UTC"},
    )  # fmt: skip
    if f"{len(numbers)}/{len(numbers)}" not in output:
        raise StackError(f"pgbench did not do all: {output}")
    (rate,) = re.findall(r"tps = ([\d.]+)", output)
    (latency,) = re.findall(r"latency average = ([\d.]+)", output)
    return {"per_second": float(rate), "mean_ms": float(latency)}
