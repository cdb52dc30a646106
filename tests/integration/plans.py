"""How PostgreSQL runs the statements that a piece of code really executes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.orm import Session


@contextmanager
def statements(session: Session) -> Iterator[list[tuple[str, Any]]]:
    """The statements that the block really executes, with their parameters."""
    seen: list[tuple[str, Any]] = []

    def remember(
        _connection: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any
    ) -> None:
        seen.append((statement, parameters))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", remember)
    try:
        yield seen
    finally:
        event.remove(connection, "before_cursor_execute", remember)


def plans(session: Session, run: Callable[[], Any]) -> list[str]:
    with statements(session) as seen:
        run()
    connection = session.connection()
    # Not executed again: EXPLAIN only plans.
    return [
        "\n".join(
            row[0]
            for row in connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) {statement}", parameters)
        )
        for statement, parameters in seen
    ]
