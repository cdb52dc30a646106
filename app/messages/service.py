"""The rules of typed messages."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import marshmallow as ma
from sqlalchemy import select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import flag_modified

from app import db, strict_json
from app.accounts import service as accounts
from app.delivery import failures
from app.delivery.service import Delivery, Settle, Verdict
from app.errors import Invalid
from app.fields import is_storable
from app.jobs import service as jobs
from app.messages.entities import Change, Entity, apply
from app.messages.errors import (
    MessageIdReused,
    MessageRefused,
    NotJson,
    UnknownMessageType,
    UnknownMessageVersion,
)
from app.messages.models import ExternalTask, InboxMessage, SyncedEntity
from app.messages.schemas import DATA, PRIORITIES, TYPES, Envelope
from app.observability import context, metrics

log = logging.getLogger(__name__)

ENVELOPE = Envelope(unknown=ma.RAISE)

#: As much as the API takes. A redriven message has to fit into the outbox, too.
MAX_MESSAGE_BYTES = 64 * 1024
#: Any age is right, and a little ahead: clocks differ.
MAX_AHEAD = timedelta(days=1)
#: What is told of a refused message, and of a name in it, at most.
MAX_REASON, MAX_NAME = 500, 60

#: How a receive ends: what `messages_received_total` counts by.
ACCEPTED, DUPLICATE, REFUSED = "accepted", "duplicate", "refused"


# --- receive ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """A message that is one."""

    external_id: str
    type: str
    version: int
    sent_at: datetime
    fingerprint: bytes
    payload: dict[str, Any]
    """Of the job that it becomes."""
    priority: int


def receive(body: str, delivered: Delivery) -> Verdict:
    """Take one message of the inbox: in one transaction it is remembered and becomes a job.

    One that is refused is delivered again until SQS makes it a dead letter, each time with its
    reason: an operator sees why, and what this version refuses a later one may accept.

    Raises:
        One of `db.OUTAGE_ERRORS`: nothing was done, and the message must come again.
    """
    try:
        message = read(body)
        with context.bound(external_id=message.external_id):
            outcome = _take(message)
    except MessageRefused as error:
        metrics.MESSAGES_RECEIVED.labels(error.kind, REFUSED).inc()
        return _refuse(error, delivered)
    metrics.MESSAGES_RECEIVED.labels(message.type, outcome).inc()
    return Verdict(Settle.DELETE, outcome, outcome)


def read(body: str) -> Received:
    """What a message says.

    Raises:
        MessageRefused: it is no message of ours; the text says why.
    """
    document = _object(body)
    _check_type(document)
    try:
        return _read(document)
    except MessageRefused as error:
        error.kind = str(document.get("type") or error.kind)
        raise


def _object(body: str) -> dict[str, Any]:
    if len(body.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_BYTES:
        raise MessageRefused(f"a message may have at most {MAX_MESSAGE_BYTES} bytes")
    try:
        document = strict_json.parse(body.encode("utf-8", "surrogatepass"), name="the message")
    except Invalid as error:
        raise NotJson(error.message) from None
    if not isinstance(document, dict):
        raise NotJson("the message is no JSON object")
    return document


def _read(document: dict[str, Any]) -> Received:
    envelope = _load(ENVELOPE, document)
    kind, version, sent_at = envelope["type"], envelope["version"], envelope["timestamp"]
    if sent_at - datetime.now(UTC) > MAX_AHEAD:
        # It would win over all that is said until then.
        raise MessageRefused("timestamp: more than a day ahead of our clock")
    schema = DATA.get((kind, version))
    if schema is None:
        raise UnknownMessageVersion(f"no version {version} of {kind} is known")
    payload = _load(schema(unknown=ma.RAISE), envelope["data"], "data")
    priority = payload.pop("priority", "normal")
    if kind == "data-sync":
        payload["timestamp"] = sent_at.isoformat()
    return Received(
        external_id=envelope["id"],
        type=kind,
        version=version,
        sent_at=sent_at,
        fingerprint=hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest(),
        payload=payload,
        priority=PRIORITIES[priority],
    )


def _check_type(document: dict[str, Any]) -> None:
    kind = document.get("type")
    if isinstance(kind, str) and kind not in TYPES:
        shown = kind[:40] if is_storable(kind) and kind.isprintable() else "unprintable"
        raise UnknownMessageType(f"type {shown} is none of {', '.join(TYPES)}")


def _load(schema: ma.Schema, document: dict[str, Any], place: str = "") -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = schema.load(document)
    except ma.ValidationError as error:
        reasons = "; ".join(_told(error.normalized_messages(), place))  # type: ignore[no-untyped-call]
        raise MessageRefused(_shortened(reasons, MAX_REASON)) from None
    return loaded


def _told(messages: Any, place: str) -> list[str]:
    """`data.taskId: Missing data for required field.`"""
    if isinstance(messages, dict):
        return [
            text
            for name, child in messages.items()
            for text in _told(child, f"{place}.{_shortened(str(name), MAX_NAME)}".lstrip("."))
        ]
    return [f"{place}: {' '.join(map(str, messages))}"]


def _shortened(text: str, length: int) -> str:
    """Names are their sender's: they go into logs, columns and terminals."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= length else f"{shown[:length]}…"


def _take(message: Received) -> str:
    with db.transaction() as session:
        if _is_known(session, message):
            log.info("message came again: nothing to do")
            return DUPLICATE
        job = jobs.enqueue(
            session,
            account_id=accounts.system_account(session),
            job_type=message.type,
            payload=message.payload,
            priority=message.priority,
        ).job
        made = session.execute(
            insert(InboxMessage)
            .values(
                external_id=message.external_id,
                type=message.type,
                version=message.version,
                sent_at=message.sent_at,
                fingerprint=message.fingerprint,
                job_id=job.id,
            )
            .on_conflict_do_nothing(index_elements=[InboxMessage.external_id])
            .returning(InboxMessage.id)
        ).scalar_one_or_none()
        if made is None:  # another worker has taken a copy of it meanwhile
            session.rollback()
            return _take(message)
    log.info("message accepted", extra={"job_id": str(job.id), "job_type": message.type})
    return ACCEPTED


def _is_known(session: Session, message: Received) -> bool:
    """
    Raises:
        MessageIdReused: its id was another message's.
    """
    same_id = InboxMessage.external_id == message.external_id
    counted = session.scalar(
        update(InboxMessage)
        .where(same_id, InboxMessage.fingerprint == message.fingerprint)
        .values(duplicates=InboxMessage.duplicates + 1)
        .returning(InboxMessage.id)
    )
    if counted is None and session.scalar(select(InboxMessage.id).where(same_id)):
        reused = MessageIdReused("another message had this id")
        reused.kind = message.type
        raise reused
    return counted is not None


def _refuse(error: MessageRefused, delivered: Delivery) -> Verdict:
    log.warning("message refused", extra={"error_code": error.code, "error_message": error.message})
    with db.transaction() as session:
        failures.record_message_failure(
            session,
            message_id=delivered.message_id,
            receive_count=delivered.receive_count,
            worker=delivered.worker,
            code=error.code,
            reason=error.message,
            permanent=True,
        )
    return Verdict(Settle.RETRY, "refused", "-")


# --- watch --------------------------------------------------------------------------------------


def list_messages(
    session: Session,
    *,
    limit: int,
    kind: str | None = None,
    status: str | None = None,
    before: tuple[datetime, UUID] | None = None,
) -> Sequence[Any]:
    """Accepted messages, newest first, each with the state of its job.

    The caller has made sure that an operator asks.

    Args:
        before: (created_at, id) of the last message that the caller has seen.
    """
    state = jobs.status_of(InboxMessage.job_id)
    query = select(
        InboxMessage.id,
        InboxMessage.external_id,
        InboxMessage.type,
        InboxMessage.version,
        InboxMessage.job_id,
        InboxMessage.duplicates,
        InboxMessage.sent_at,
        InboxMessage.created_at,
        state.label("status"),
    )
    if kind is not None:
        query = query.where(InboxMessage.type == kind)
    if status is not None:
        query = query.where(state == status)
    if before is not None:
        query = query.where(tuple_(InboxMessage.created_at, InboxMessage.id) < before)
    return session.execute(
        query.order_by(InboxMessage.created_at.desc(), InboxMessage.id.desc()).limit(limit)
    ).all()


# --- what the jobs of messages do ---------------------------------------------------------------


def handle_task(session: Session, task_id: str, action: str, idempotency_key: str) -> bool:
    """Remember that an action was run on a task of another system. Returns whether only now."""
    handled = session.execute(
        insert(ExternalTask)
        .values(task_id=task_id, action=action, idempotency_key=idempotency_key)
        .on_conflict_do_nothing(index_elements=[ExternalTask.idempotency_key])
        .returning(ExternalTask.id)
    )
    return handled.one_or_none() is not None


def sync(session: Session, entity_type: str, entity_id: str, change: Change) -> Entity:
    """Apply one change to an entity, whatever came before; any order has the same outcome."""
    place = {"entity_type": entity_type, "entity_id": entity_id}
    session.execute(insert(SyncedEntity).values(place).on_conflict_do_nothing())
    row = session.scalars(select(SyncedEntity).filter_by(**place).with_for_update()).one()
    entity = apply(_entity(row), change)
    row.attributes = entity.attributes
    # Python, in which it would be compared, takes 1, 1.0 and True for the same.
    flag_modified(row, "attributes")
    row.written_at = {name: at.isoformat() for name, at in entity.written_at.items()}
    row.cleared_at = entity.cleared_at
    row.seen_at = entity.seen_at
    row.deleted_at = entity.deleted_at
    row.is_deleted = entity.is_deleted
    session.flush()
    return entity


def _entity(row: SyncedEntity) -> Entity:
    return Entity(
        attributes=dict(row.attributes),
        written_at={name: datetime.fromisoformat(at) for name, at in row.written_at.items()},
        cleared_at=row.cleared_at,
        seen_at=row.seen_at,
        deleted_at=row.deleted_at,
    )
