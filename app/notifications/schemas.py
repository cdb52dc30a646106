"""What notifications look like in JSON."""

from __future__ import annotations

import marshmallow as ma

from app.fields import Timestamp
from app.http.pagination import PageQuery

_MOMENT = {"example": "2026-01-31T09:30:00.123456Z"}


class NotificationOut(ma.Schema):
    notification_id = ma.fields.UUID(
        attribute="id",
        required=True,
        metadata={"example": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"},
    )
    title = ma.fields.String(required=True, metadata={"example": "新着情報"})
    body = ma.fields.String(required=True, metadata={"example": "メッセージが届きました"})
    created_at = Timestamp(required=True, metadata=_MOMENT)
    read_at = Timestamp(required=True, allow_none=True, metadata=_MOMENT)


class NotificationQuery(PageQuery):
    unread = ma.fields.Boolean(
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        metadata={"description": "Only those that were not read."},
    )


class NotificationPage(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(NotificationOut), required=True)
    next_cursor = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"example": None, "description": "null on the last page."},
    )
