"""`stage()`, and `staging()` inside a statement, are the only ways to ask for a task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Insert,
    Select,
    String,
    bindparam,
    cast,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.observability import context
from app.outbox.models import OutboxRow

#: Half of what SQS took until 2025 (256 KiB): arguments are ids, and the envelope needs room too.
MAX_KWARGS_BYTES = 128 * 1024

#: A row that SQS refused this often is a mistake in its making: it waits for an operator.
MAX_REFUSALS = 10


@dataclass(frozen=True)
class Message:
    """A task that a domain may ask for. tests/unit prove that each is a registered task."""

    task: str
    queue: str


def stage(session: Session, message: Message, kwargs: Mapping[str, Any]) -> None:
    """Promise a task: it is published if and only if this transaction commits.

    Raises:
        ValueError: the arguments are larger than a message should be.
    """
    if len(json.dumps(kwargs)) > MAX_KWARGS_BYTES:
        raise ValueError(f"{message.task}: arguments over {MAX_KWARGS_BYTES} bytes; pass ids")
    session.execute(insert(OutboxRow).values(**_columns(message), kwargs=dict(kwargs)))


def staging(
    task: str,
    queue: ColumnElement[str],
    kwargs: ColumnElement[Any],
    headers: ColumnElement[Any],
    rows: Select[Any],
    *,
    delay: float | None = None,
) -> Insert:
    """The same as a statement, for one that stages what it has just changed.

    Args:
        queue: an expression over `rows`.
        kwargs: a JSONB expression over them.
        headers: another one; what the context carries is added, and it wins over the context.
        rows: a select whose rows are staged, one task each, in its order.
        delay: seconds for which the relay leaves them alone.
    """
    columns = ["queue", "task", "available_at", "headers", "kwargs"]
    return insert(OutboxRow).from_select(
        columns,
        rows.with_only_columns(
            queue,
            literal(task),
            func.now() + timedelta(seconds=delay) if delay else func.now(),
            # Asked for at each execution: the statement may be built once and kept.
            bindparam(None, callable_=context.carried, type_=JSONB).op("||")(headers),
            kwargs,
        ),
    )


def _columns(message: Message) -> dict[str, Any]:
    return {"queue": message.queue, "task": message.task, "headers": context.carried()}


_TAKE = text(
    """
    DELETE FROM outbox USING (
        SELECT id FROM outbox
        WHERE available_at <= now() AND queue <> ALL(:resting)
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE outbox.id = due.id
    RETURNING outbox.id, queue, task, kwargs, headers, refusals, created_at
    """
)


@dataclass(frozen=True)
class Taken:
    """A staged task, in the hands of one relay until its transaction ends."""

    id: int
    queue: str
    task: str
    kwargs: dict[str, Any]
    headers: dict[str, Any]
    refusals: int
    created_at: Any


def take(session: Session, *, limit: int, resting: Sequence[str] = ()) -> list[Taken]:
    """Take and delete up to `limit` due rows, oldest first, skipping what others hold.

    A rollback gives them back; a crash after publishing publishes twice, never zero times.

    Args:
        resting: queues to leave alone for now.
    """
    # Losing this commit in a crash of the database only publishes twice.
    session.execute(text("SET LOCAL synchronous_commit = off"))
    rows = session.execute(_TAKE, {"limit": limit, "resting": list(resting)})
    return sorted((Taken(**row) for row in rows.mappings()), key=lambda taken: taken.id)


def put_back(
    session: Session, rows: Sequence[Taken], *, refused_for: timedelta | None = None
) -> None:
    """Give back rows that were not published, in the transaction that took them.

    Args:
        refused_for: SQS refused these very rows: it is asked again after this time, and after
            `MAX_REFUSALS` times not until an operator has looked at them.
    """
    if rows:
        session.execute(
            insert(OutboxRow).values([_put_back_values(row, refused_for) for row in rows])
        )


def _put_back_values(row: Taken, refused_for: timedelta | None) -> dict[str, Any]:
    values = asdict(row)
    if refused_for is None:
        return {**values, "available_at": func.now()}
    refusals = row.refusals + 1
    later = func.now() + refused_for if refusals < MAX_REFUSALS else literal_column("'infinity'")
    return {**values, "refusals": refusals, "available_at": later}


@dataclass(frozen=True)
class Backlog:
    depth: int
    oldest_age: float
    """Seconds; 0 when nothing waits."""


def backlog(session: Session) -> Backlog:
    row = session.execute(
        select(
            func.count(),
            # What is to wait for its time does not wait for a relay; what is parked does.
            func.coalesce(
                func.extract(
                    "epoch",
                    func.now()
                    - func.min(OutboxRow.created_at).filter(
                        or_(
                            OutboxRow.available_at <= func.now(),
                            OutboxRow.refusals > 0,
                        )
                    ),
                ),
                0,
            ),
        )
    ).one()
    return Backlog(depth=row[0], oldest_age=float(row[1]))


def is_staged(
    task: str, queue: str, subject: str, subject_id: InstrumentedAttribute[Any]
) -> ColumnElement[bool]:
    """Whether a task for this row lies in the outbox, even a parked one. For a WHERE clause."""
    staged = select(OutboxRow.id).where(
        OutboxRow.queue == queue,
        OutboxRow.task == task,
        OutboxRow.kwargs[subject].astext == cast(subject_id, String),
    )
    return staged.exists()


def waits_for(session: Session, queue: str) -> bool:
    """Whether anything is due to be published to this queue. Parked rows are not."""
    waiting = select(OutboxRow.id).where(
        OutboxRow.queue == queue,
        OutboxRow.refusals < MAX_REFUSALS,
        or_(OutboxRow.available_at <= func.now(), OutboxRow.refusals > 0),
    )
    return bool(session.execute(select(waiting.exists())).scalar_one())
