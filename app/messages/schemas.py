"""What messages look like: those of other systems by type and version, and our list of them."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow.validate import Length, OneOf, Range

from app.fields import JsonObject, Text, Timestamp, WholeNumber
from app.jobs.models import STATUSES
from app.messages.models import MAX_FOREIGN
from app.notifications.models import MAX_BODY, MAX_TITLE

TYPES = ("task", "notification", "data-sync")
OPERATIONS = ("create", "update", "delete")
#: What `task` messages call their priorities, and the jobs' numbers of them.
PRIORITIES = {"high": 5, "normal": 0, "low": -5}
#: The column is a 32-bit integer; and a reason that names a version stays short.
MAX_VERSION = 2**31 - 1


#: Of one entity. Each write rewrites the whole row.
MAX_ATTRIBUTES = 1000
MAX_ENTITY_BYTES = 256 * 1024


def _foreign(**options: Any) -> Text:
    return Text(required=True, validate=Length(1, MAX_FOREIGN), **options)


class Envelope(ma.Schema):
    id = _foreign()
    type = ma.fields.String(required=True, validate=OneOf(TYPES))
    data = JsonObject(required=True)
    timestamp = Timestamp(required=True)
    version = WholeNumber(load_default=1, validate=Range(1, MAX_VERSION))


class TaskData(ma.Schema):
    task_id = _foreign(data_key="taskId")
    priority = ma.fields.String(load_default="normal", validate=OneOf(PRIORITIES))
    action = Text(load_default="process", validate=Length(1, 40))


class NotificationData(ma.Schema):
    recipient_id = _foreign(data_key="recipientId")
    title = Text(required=True, validate=Length(1, MAX_TITLE))
    body = Text(required=True, validate=Length(max=MAX_BODY))


class DataSyncData(ma.Schema):
    entity_type = _foreign(data_key="entityType")
    entity_id = _foreign(data_key="entityId")
    operation = ma.fields.String(required=True, validate=OneOf(OPERATIONS))
    attributes = JsonObject(load_default=dict, validate=Length(max=MAX_ATTRIBUTES))


# What the jobs take. A version's schema may call things as it likes: it loads into these names.


class TaskJob(ma.Schema):
    task_id = _foreign()
    action = Text(required=True)


class NotificationJob(ma.Schema):
    recipient_id = _foreign()
    title = Text(required=True, validate=Length(1, MAX_TITLE))
    body = Text(required=True, validate=Length(max=MAX_BODY))


class DataSyncJob(ma.Schema):
    entity_type = _foreign()
    entity_id = _foreign()
    operation = ma.fields.String(required=True, validate=OneOf(OPERATIONS))
    attributes = JsonObject(required=True, validate=Length(max=MAX_ATTRIBUTES))
    timestamp = Timestamp(required=True)


#: (type, version) -> the schema of its data, as sent. A new version stands beside the old one.
DATA: dict[tuple[str, int], type[ma.Schema]] = {
    ("task", 1): TaskData,
    ("notification", 1): NotificationData,
    ("data-sync", 1): DataSyncData,
}


_ID = {"example": "3f0c8a52-5d0c-4f4e-9f0e-0d6f6f1f9a11"}


class MessageOut(ma.Schema):
    message_id = ma.fields.UUID(attribute="id", required=True, metadata=_ID)
    external_id = ma.fields.String(
        required=True, metadata={"example": "msg-123", "description": "The id its sender gave it."}
    )
    type = ma.fields.String(required=True, validate=OneOf(TYPES), metadata={"example": "task"})
    version = ma.fields.Integer(required=True, metadata={"example": 1})
    status = ma.fields.String(
        required=True,
        validate=OneOf(STATUSES),
        metadata={"example": "COMPLETED", "description": "Its job's state."},
    )
    job_id = ma.fields.UUID(required=True, metadata=_ID)
    duplicates = ma.fields.Integer(
        required=True, metadata={"example": 0, "description": "How often it came again."}
    )
    sent_at = Timestamp(required=True, metadata={"example": "2023-01-01T12:00:00Z"})
    created_at = Timestamp(required=True, metadata={"example": "2026-01-31T09:30:00.123456Z"})
