"""`/notifications`: HTTP only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from app import db
from app.accounts.principal import current
from app.http.blueprint import Blueprint
from app.http.pagination import page
from app.notifications import service
from app.notifications.models import Notification
from app.notifications.schemas import NotificationOut, NotificationPage, NotificationQuery

blueprint = Blueprint(
    "notifications", __name__, url_prefix="/notifications", description="What you were told."
)


@blueprint.get("")
@blueprint.arguments(NotificationQuery, location="query")
@blueprint.response(200, NotificationPage)
@blueprint.refuses(400)
def list_notifications(query: dict[str, Any]) -> dict[str, Any]:
    """List your notifications, newest first"""
    with db.transaction() as session:
        rows = service.list_notifications(
            session,
            current(),
            limit=query["limit"] + 1,
            unread=query["unread"],
            before=query.get("cursor"),
        )
    return page(rows, query["limit"])


@blueprint.post("/<uuid:notification_id>/read")
@blueprint.response(200, NotificationOut)
@blueprint.refuses(403, 404)
def read(notification_id: UUID) -> Notification:
    """Mark a notification as read

    May be asked again: the time of the first reading stays.
    """
    with db.transaction() as session:
        return service.mark_read(session, current(), notification_id)
