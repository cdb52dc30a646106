"""A Celery app on the engine with tasks that end in every way there is. Has no database.

`celery -A tests.acceptance.engine.application worker`; its environment comes from `site.py`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from celery import Celery, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, WorkerShutdown
from celery.worker import state

from tasks.engine import protection, visibility
from tasks.engine.application import Failure
from tasks.engine.engine import Engine
from tasks.engine.task import Task
from tests.acceptance.engine.ledger import Ledger
from tests.acceptance.engine.queues import RETRY_SCALE, catalogue

ledger = Ledger(Path(os.environ["LEDGER"]))
#: While this file exists, what the tasks need is out of reach.
OUTAGE = Path(os.environ["OUTAGE"])


class OutageError(Exception):
    """The database does not answer."""


@dataclass(frozen=True)
class Asked:
    """A verdict that a test's message asks for."""

    settle: str
    retry_after: float | None = None


class Application:
    outage_errors: tuple[type[Exception], ...] = (OutageError,)
    context_headers: tuple[str, ...] = ("request_id",)

    def probe(self) -> None:
        if OUTAGE.exists():
            raise OutageError

    def bind(self, **fields: Any) -> Any:
        return nullcontext()

    def on_progress(self) -> None:
        pass

    def on_breaker(self, is_open: bool) -> None:
        ledger.write("breaker", is_open=is_open)

    def on_failure(self, failure: Failure) -> Asked | None:
        """Writes it down; does what the failed task's arguments ask for."""
        kwargs = dict(failure.kwargs)
        self.probe()
        ledger.write("failure", **{**asdict(failure), "kwargs": kwargs}, n=kwargs.get("n"))
        match kwargs.get("when_failed"):
            case None:
                return None
            case "crash":
                raise ZeroDivisionError
            case settle:
                return Asked(settle)


# So that a test need not wait for half a minute.
visibility.HUNG_AFTER = float(os.environ.get("HUNG_AFTER", visibility.HUNG_AFTER))
protection.REST_AFTER = float(os.environ.get("REST_AFTER", protection.REST_AFTER))
protection.REST_FOR = float(os.environ.get("REST_FOR", protection.REST_FOR))

engine = Engine(
    catalogue=catalogue(os.environ["QUEUE_URL_PREFIX"]),
    region=os.environ["AWS_REGION"],
    retry_scale=RETRY_SCALE,
    application=Application(),
    poll_wait=int(os.environ["POLL_WAIT"]),
    grace=float(os.environ["GRACE"]),
    ecs_agent_uri=os.environ.get("ECS_AGENT_URI"),
)
app = Celery("engine-tests", task_cls="tasks.engine.task:Task")
engine.install(app)


# --- tasks: `n` is the test's own name for a message --------------------------------------------


@contextmanager
def recorded(task: Task, n: Any) -> Iterator[None]:
    """`start` before the work, `end` after it returned; the receipts are the ledger's."""
    delivery = task.delivery
    fields = {
        "task": task.name,
        "n": n,
        "main": os.getppid(),
        "message_id": delivery.message_id,
        "receive_count": delivery.receive_count,
    }
    ledger.write("start", **fields)
    yield
    ledger.write("end", **fields)


@app.task(bind=True, name="noop")
def noop(self: Task, n: Any = None, **_: Any) -> None:
    with recorded(self, n):
        pass


@app.task(bind=True, name="sleep")
def sleep(self: Task, n: Any = None, seconds: float = 1.0) -> None:
    with recorded(self, n):
        time.sleep(seconds)


@app.task(bind=True, name="raises")
def raises(self: Task, n: Any = None, **_: Any) -> None:
    with recorded(self, n):
        raise ValueError("as it was asked to")


@app.task(bind=True, name="raises_until")
def raises_until(self: Task, receive: int, n: Any = None) -> None:
    with recorded(self, n):
        if self.delivery.receive_count < receive:
            raise ValueError("not yet")


class Unpicklable(Exception):
    """Neither its copy nor its name can be had."""

    def __reduce__(self) -> Any:
        raise TypeError("no")

    def __repr__(self) -> str:
        raise TypeError("no")

    __str__ = __repr__


class TwoArguments(Exception):
    """Can be pickled and cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("one")


ODD_ERRORS: dict[str, Any] = {
    "unpicklable": lambda: Unpicklable(),
    "two-arguments": lambda: TwoArguments(1, 2),
    "huge": lambda: ValueError("x" * 5_000_000),
    "surrogate": lambda: ValueError("\ud800"),
    "shutdown": lambda: WorkerShutdown(0),
    "interrupt": lambda: KeyboardInterrupt(),
    "generator-exit": lambda: GeneratorExit(),
    "base": lambda: BaseException("base"),
    "group": lambda: ExceptionGroup("many", [ValueError(1), MemoryError()]),
}


@app.task(bind=True, name="raises_odd")
def raises_odd(self: Task, kind: str, n: Any = None) -> None:
    with recorded(self, n):
        error = ODD_ERRORS[kind]()
        raise error


@app.task(bind=True, name="memory")
def memory(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        raise MemoryError


@app.task(bind=True, name="exits")
def exits(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        sys.exit(3)


@app.task(bind=True, name="dies")
def dies(self: Task, n: Any = None, **_: Any) -> None:
    with recorded(self, n):
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(30)


@app.task(bind=True, name="soft", soft_time_limit=1, time_limit=20)
def soft(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        time.sleep(30)


@app.task(bind=True, name="hard", time_limit=1)
def hard(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        time.sleep(30)


@app.task(bind=True, name="stubborn", soft_time_limit=1, time_limit=2)
def stubborn(self: Task, n: Any = None) -> None:
    """Does not hear its soft limit."""
    with recorded(self, n):
        while True:
            try:
                time.sleep(30)
            except SoftTimeLimitExceeded:
                continue


@app.task(bind=True, name="outage")
def outage(self: Task, n: Any = None) -> None:
    """Needs what is out of reach."""
    with recorded(self, n):
        engine.application.probe()


@app.task(bind=True, name="verdict")
def verdict(
    self: Task, settle: str, n: Any = None, times: int = 99, retry_after: float | None = None
) -> None:
    """Asks for `settle` at its first `times` receives, then for its deletion."""
    with recorded(self, n):
        pass
    if self.delivery.receive_count > times:
        settle = "delete"
    self.settle(Asked(settle, retry_after))


@app.task(bind=True, name="retries", max_retries=3)
def retries(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        raise self.retry(countdown=0)


@app.task(bind=True, name="retries_by_itself", autoretry_for=(ValueError,), max_retries=3)
def retries_by_itself(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        raise ValueError("again")


@app.task(bind=True, name="ignores")
def ignores(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        raise Ignore


@app.task(bind=True, name="rejects")
def rejects(self: Task, n: Any = None, requeue: bool = False) -> None:
    with recorded(self, n):
        raise Reject("no", requeue=requeue)


@app.task(bind=True, name="replaces")
def replaces(self: Task, n: Any = None) -> None:
    with recorded(self, n):
        raise self.replace(noop.s(n="replaced"))


@app.task(bind=True, name="foreign")
def foreign(self: Task, body: str) -> None:
    """What somebody's system sends: a JSON object with an `n`."""
    with recorded(self, body):
        document = json.loads(body)
        if not isinstance(document, dict):
            raise TypeError("a JSON object is expected")


# --- what a test may do to a worker -------------------------------------------------------------

if os.environ.get("TASK_OPTIONS"):

    @app.task(name="misdeclared", **json.loads(os.environ["TASK_OPTIONS"]))
    def misdeclared() -> None: ...


class JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": time.monotonic(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


@signals.celeryd_init.connect  # Celery asks for its logging after the first checks
@signals.setup_logging.connect
def _log(**_: Any) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


@signals.worker_init.connect
def _revoke(**_: Any) -> None:
    """As if `control revoke` had come, or a state file of Celery's said so."""
    state.revoked.update(filter(None, os.environ.get("REVOKED", "").split(",")))


def _hang(signum: int, frame: FrameType | None) -> None:
    """The event loop stands still; the other threads of the main process go on."""
    ledger.write("hung")
    time.sleep(3600)


@signals.worker_ready.connect
def _ready(**_: Any) -> None:
    signal.signal(signal.SIGUSR2, _hang)
    ledger.write("ready")
