"""Messages that were accepted, and what data-sync messages have told."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UtcDateTime

#: Ids, types and names of other systems.
MAX_FOREIGN = 255


class InboxMessage(Base):
    """A message that was accepted: remembered for ever, so that it never counts twice."""

    __tablename__ = "inbox_messages"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    external_id: Mapped[str] = mapped_column(
        String(MAX_FOREIGN), unique=True, doc="The id that its sender gave it."
    )
    type: Mapped[str] = mapped_column(String(40))
    version: Mapped[int] = mapped_column(Integer)
    sent_at: Mapped[datetime] = mapped_column(UtcDateTime, doc="As the message says.")
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, doc="SHA-256 of its JSON.")
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"), index=True)
    duplicates: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())

    __table_args__ = (
        CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint"),
        Index("ix_inbox_messages_created", "created_at", "id"),
        Index("ix_inbox_messages_type_created", "type", "created_at", "id"),
    )


class ExternalTask(Base):
    """A task of another system on which an action was run, once a job."""

    __tablename__ = "external_tasks"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    task_id: Mapped[str] = mapped_column(String(MAX_FOREIGN), index=True)
    action: Mapped[str] = mapped_column(String(40))
    idempotency_key: Mapped[str] = mapped_column(String(255), unique=True)
    handled_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())


class SyncedEntity(Base):
    """An entity of another system, as messages have told it so far (app/messages/entities.py)."""

    __tablename__ = "synced_entities"

    entity_type: Mapped[str] = mapped_column(String(MAX_FOREIGN), primary_key=True)
    entity_id: Mapped[str] = mapped_column(String(MAX_FOREIGN), primary_key=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    written_at: Mapped[dict[str, str]] = mapped_column(
        JSONB, server_default="{}", doc="The time of each attribute's last write."
    )
    cleared_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, doc="The last create or delete: what was written before is gone."
    )
    seen_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, doc="The last create or update: later than the delete, the entity exists."
    )
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime, doc="The last delete.")
    is_deleted: Mapped[bool] = mapped_column(Boolean, server_default="false")
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, server_default=func.now(), onupdate=func.now()
    )

    __table_args__ = (
        CheckConstraint("jsonb_typeof(attributes) = 'object'", name="attributes"),
        CheckConstraint("jsonb_typeof(written_at) = 'object'", name="written_at"),
    )
