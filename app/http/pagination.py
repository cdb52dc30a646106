"""Lists page by cursor: the place of the last row seen, so that new rows shift nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import marshmallow as ma
from marshmallow.validate import Range

from app.fields import Digits

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


class Place(NamedTuple):
    """Where a page ended, in the order (created_at, id), newest first."""

    created_at: datetime
    id: UUID


class Listed(Protocol):
    created_at: Any
    id: Any


class Cursor(ma.fields.String):
    """An opaque text for callers, a `Place` for us."""

    default_error_messages = {"invalid": "Not a cursor: use next_cursor of the page before."}

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> Place:  # type: ignore[override]
        try:
            moment, _, row_id = (
                base64.b64decode(value, altchars=b"-_", validate=True).decode().partition(" ")
            )
            created_at = datetime.fromisoformat(moment)
            if created_at.tzinfo is None:
                raise self.make_error("invalid")
            # PostgreSQL knows fewer time zones than Python does.
            return Place(created_at.astimezone(UTC), UUID(row_id))
        except (ValueError, TypeError, OverflowError):
            raise self.make_error("invalid") from None


class PageQuery(ma.Schema):
    limit = Digits(
        load_default=DEFAULT_LIMIT,
        validate=Range(1, MAX_LIMIT),
        metadata={"description": "Rows a page."},
    )
    cursor = Cursor(metadata={"description": "`next_cursor` of the page before."})


def page(rows: Sequence[Listed], limit: int) -> dict[str, Any]:
    """`rows` may hold one more than `limit`: then there is a next page."""
    items = rows[:limit]
    more = len(rows) > limit
    return {"items": items, "next_cursor": _encode(items[-1]) if more else None}


def _encode(row: Listed) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at.isoformat()} {row.id}".encode()).decode()
