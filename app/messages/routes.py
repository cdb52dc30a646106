"""`/messages`: HTTP only."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow.validate import OneOf

from app import db
from app.http.blueprint import Blueprint
from app.http.pagination import PageQuery, page
from app.jobs.models import STATUSES
from app.messages import service
from app.messages.schemas import TYPES, MessageOut

blueprint = Blueprint(
    "messages", __name__, url_prefix="/messages", description="What other systems have sent."
)


class MessageQuery(PageQuery):
    type = ma.fields.String(validate=OneOf(TYPES))
    status = ma.fields.String(validate=OneOf(STATUSES))


class MessagePage(ma.Schema):
    items = ma.fields.List(ma.fields.Nested(MessageOut), required=True)
    next_cursor = ma.fields.String(
        required=True,
        allow_none=True,
        metadata={"example": None, "description": "null on the last page."},
    )


@blueprint.get("")
@blueprint.arguments(MessageQuery, location="query")
@blueprint.response(200, MessagePage)
@blueprint.refuses(400, 403)
def list_messages(query: dict[str, Any]) -> dict[str, Any]:
    """List accepted messages, newest first (operators)

    Each with the state of the job that it became. Refused messages are dead letters:
    `okuru dlq list inbox`.
    """
    with db.transaction() as session:
        rows = service.list_messages(
            session,
            limit=query["limit"] + 1,
            kind=query.get("type"),
            status=query.get("status"),
            before=query.get("cursor"),
        )
    return page(rows, query["limit"])
