"""`okuru demo`: gifts through the whole stack, on real parts, with a provider that often fails."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from statistics import quantiles

import click
import requests
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sqlalchemy import Interval, func, select, type_coerce
from sqlalchemy.orm import Session

from app import db
from app.delivery.models import Attempt, DeadLetter
from app.gifts.models import FAILED, SENT, STATUSES, Gift
from okuru.stack.errors import StackError
from okuru.stack.home import Home
from okuru.stack.stack import Stack

#: Requests at a time: as a handful of API clients would.
CLIENTS = 8
#: Seconds between two looks at the gifts.
LOOK_EVERY = 0.25
#: Seconds without any change after which the demo gives up.
PATIENCE = 120.0

COLOURS = {"CREATED": "blue", "QUEUED": "yellow", "SENT": "green", "FAILED": "red"}


@click.command()
@click.option("--gifts", type=click.IntRange(1, 100_000), default=20, show_default=True)
@click.option(
    "--failure-rate",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="The share of the provider's calls that fail.",
)
def demo(gifts: int, failure_rate: float) -> None:
    """Start the stack, send some gifts, show how it went.

    Exits 0 when every gift is SENT or FAILED and every exhausted one has its dead letter.
    """
    environ = {**os.environ, "SENDER": "simulated", "SEND_FAILURE_RATE": str(failure_rate)}
    console = Console()
    with Stack(Home.from_environment(), environ=environ) as stack:
        with console.status("starting the processes"):
            stack.processes.start()
            stack.wait_until_ready()
        console.print(f"The API answers at {stack.api_url}")
        engine = db.engine_for(stack.environment["DATABASE_URL"], db.OPERATOR)
        columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn())
        with Session(engine) as session:
            with Progress(*columns, console=console) as bars:
                ids = _send(stack.api_url, stack.keys["API_KEY"], gifts, bars)
                _watch(session, ids, bars)
                _wait_for_dead_letters(session, ids)
            console.print(_table(session, ids))
        engine.dispose()


def _send(url: str, key: str, gifts: int, bars: Progress) -> list[uuid.UUID]:
    """Create and send each gift through the API. Returns their ids."""
    http = requests.Session()
    http.trust_env = False
    http.headers["X-API-Key"] = key

    def one(number: int) -> uuid.UUID:
        made = http.post(f"{url}/gifts", json={"amount": 100 * (number + 1)}, timeout=30)
        made.raise_for_status()
        gift_id = made.json()["gift_id"]
        sent = http.post(
            f"{url}/gifts/{gift_id}/send", headers={"Idempotency-Key": gift_id}, timeout=30
        )
        sent.raise_for_status()
        return uuid.UUID(gift_id)

    bar = bars.add_task("accepted", total=gifts)
    with ThreadPoolExecutor(CLIENTS) as clients:
        ids = []
        for gift_id in clients.map(one, range(gifts)):
            ids.append(gift_id)
            bars.advance(bar)
    return ids


def _watch(session: Session, ids: Sequence[uuid.UUID], bars: Progress) -> None:
    """Show a bar for each state until every gift is in a final one."""
    lines = {
        status: bars.add_task(f"[{COLOURS[status]}]{status}", total=len(ids)) for status in STATUSES
    }

    def look() -> bool:
        counts = _counts(session, ids)
        for status, line in lines.items():
            bars.update(line, completed=counts[status])
        return counts[SENT] + counts[FAILED] == len(ids)

    _until(look, lambda: _counts(session, ids), "the gifts do not move any more")


def _wait_for_dead_letters(session: Session, ids: Sequence[uuid.UUID]) -> None:
    exhausted = select(func.count()).where(Gift.id.in_(ids), Gift.failure == "exhausted")

    def arrived() -> bool:
        session.rollback()
        return _dead_letters(session, ids) >= session.scalars(exhausted).one()

    _until(arrived, lambda: _dead_letters(session, ids), "dead letters are missing")


def _until(condition: Callable[[], bool], progress: Callable[[], object], problem: str) -> None:
    """Wait for `condition`, for as long as `progress` still changes.

    Raises:
        StackError: nothing has changed for `PATIENCE` seconds.
    """
    last, changed_at = progress(), time.monotonic()
    while not condition():
        if (now := progress()) != last:
            last, changed_at = now, time.monotonic()
        if time.monotonic() - changed_at > PATIENCE:
            raise StackError(f"{problem} ({last}); see the logs")
        time.sleep(LOOK_EVERY)


def _counts(session: Session, ids: Sequence[uuid.UUID]) -> Counter[str]:
    session.rollback()  # the next look is a new one
    counts = select(Gift.status, func.count()).where(Gift.id.in_(ids)).group_by(Gift.status)
    return Counter(dict(session.execute(counts).tuples().all()))


def _dead_letters(session: Session, ids: Sequence[uuid.UUID]) -> int:
    return session.scalars(
        select(func.count()).select_from(DeadLetter).where(DeadLetter.subject_id.in_(ids))
    ).one()


def _table(session: Session, ids: Sequence[uuid.UUID]) -> Table:
    counts = _counts(session, ids)
    attempts = session.scalars(
        select(func.count()).select_from(Attempt).where(Attempt.subject_id.in_(ids))
    ).one()
    waits: Sequence[timedelta] = session.scalars(
        select(type_coerce(Attempt.ended_at - Gift.accepted_at, Interval))
        .join(Gift, Gift.id == Attempt.subject_id)
        .where(Attempt.subject_id.in_(ids), Attempt.outcome == "sent")
    ).all()
    table = Table(title="What became of the gifts", show_header=False)
    rows = {
        "gifts": len(ids),
        "sent": counts[SENT],
        "failed": counts[FAILED],
        "attempts": attempts,
        "retries": attempts - len(ids),
        "accepted to SENT, p50": _percentile(waits, 50),
        "accepted to SENT, p95": _percentile(waits, 95),
        "dead letters": _dead_letters(session, ids),
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _percentile(waits: Sequence[timedelta], percent: int) -> str:
    seconds = [wait.total_seconds() for wait in waits]
    if not seconds:
        return "-"
    if len(seconds) == 1:
        return f"{seconds[0]:.2f} s"
    return f"{quantiles(seconds, n=100, method='inclusive')[percent - 1]:.2f} s"
