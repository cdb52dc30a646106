from __future__ import annotations

from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

ENDED = {"ended_at": "2026-01-01T00:00:00Z"}
OPEN = {
    "kind": "gift", "subject_id": uuid4(), "send_no": 1, "receive_count": 1, "message_id": "m1",
    "worker": "w", "ended_at": None, "outcome": None,
}  # fmt: skip


def insert(session: Session, row: dict[str, Any]) -> None:
    """An open attempt, always of the same subject, with the columns of `row` instead."""
    values = {**OPEN, **row}
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    session.execute(text(f"INSERT INTO attempts ({names}) VALUES ({marks})"), values)
