"""The jobs that messages of other systems become."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from app import db
from app.delivery.errors import PermanentError
from app.jobs.processors import BadProcessor, Context, processor, registers
from app.messages import service
from app.messages.entities import Change
from app.messages.schemas import (
    MAX_ATTRIBUTES,
    MAX_ENTITY_BYTES,
    DataSyncJob,
    NotificationJob,
    TaskJob,
)
from app.notifications import service as notifications

#: Runs one action on a task of another system; gets the task's id.
Action = Callable[[Context, str], None]
_actions: dict[str, Action] = {}


def action(name: str) -> Callable[[Action], Action]:
    """Register what `{"type": "task", "data": {"action": name}}` does.

    Raises:
        BadProcessor: the action is known already.
    """

    def register(run: Action) -> Action:
        if name in _actions and _actions[name].__module__ != run.__module__:
            raise BadProcessor(f"the action {name} is known: {_actions[name].__module__}")
        registers(run.__module__)
        _actions[name] = run
        return run

    return register


@action("process")
def process(context: Context, task_id: str) -> None:
    """Take note that the task was processed; once a message, however often its job runs."""
    with db.transaction() as session:
        service.handle_task(session, task_id, "process", context.idempotency_key)


@processor("task", TaskJob, reserved=True)
def task(context: Context, payload: dict[str, Any]) -> dict[str, Any]:
    run = _actions.get(payload["action"])
    if run is None:
        raise PermanentError("UNKNOWN_ACTION", f"one of {', '.join(sorted(_actions))} is known")
    run(context, payload["task_id"])
    return {"task_id": payload["task_id"], "action": payload["action"]}


@processor("notification", NotificationJob, reserved=True)
def notification(context: Context, payload: dict[str, Any]) -> dict[str, Any]:
    with db.transaction() as session:
        told = notifications.notify(
            session,
            recipient=payload["recipient_id"],
            title=payload["title"],
            body=payload["body"],
            occasion=context.idempotency_key,
        )
    return {"stored": told}


@processor("data-sync", DataSyncJob, reserved=True)
def data_sync(_context: Context, payload: dict[str, Any]) -> dict[str, Any]:
    change = Change(payload["operation"], payload["timestamp"], payload["attributes"])
    with db.transaction() as session:
        entity = service.sync(session, payload["entity_type"], payload["entity_id"], change)
        size = len(json.dumps(entity.attributes))
        if len(entity.attributes) > MAX_ATTRIBUTES or size > MAX_ENTITY_BYTES:
            session.rollback()
            limits = f"{MAX_ATTRIBUTES} attributes, {MAX_ENTITY_BYTES} bytes"
            raise PermanentError("ENTITY_TOO_LARGE", f"an entity may have at most {limits}")
    return {"is_deleted": entity.is_deleted}
