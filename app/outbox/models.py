"""Tasks that a transaction has promised to publish."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, Integer, String, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UtcDateTime


class OutboxRow(Base):
    """Inserted with the state change that wants it, deleted by the relay that publishes it."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=False), primary_key=True)
    queue: Mapped[str] = mapped_column(String(80))
    task: Mapped[str] = mapped_column(String(200))
    kwargs: Mapped[dict[str, Any]] = mapped_column(JSONB)
    headers: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    refusals: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    available_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())

    __table_args__ = (
        # One row that the relay cannot read would stop all that are behind it.
        CheckConstraint("jsonb_typeof(kwargs) = 'object'", name="kwargs"),
        CheckConstraint("jsonb_typeof(headers) = 'object'", name="headers"),
        Index("ix_outbox_queue_id", "queue", "id"),
    )
