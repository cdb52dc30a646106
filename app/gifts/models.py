"""Gifts, and the keys under which they were sent."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, String, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from app.db import Base, UtcDateTime
from app.delivery.models import Deliverable, Lifecycle
from app.gifts import messages

#: The states in the order of a gift's life; the database's trigger holds the moves between them.
CREATED, QUEUED, SENT, FAILED = STATUSES = ("CREATED", "QUEUED", "SENT", "FAILED")

MAX_MESSAGE = 500
#: The longest email address (RFC 5321: 64 + 1 + 255).
MAX_RECIPIENT = 320


class Gift(Deliverable, Base):
    __tablename__ = "gifts"

    lifecycle = Lifecycle(
        kind="gift",
        ready=CREATED,
        queued=QUEUED,
        done=SENT,
        failed=FAILED,
        messages=(messages.SEND,),
        subject="gift_id",
    )

    # Whoever knows it owns the gift: it goes to its creator and to the provider, nowhere else.
    code: Mapped[UUID] = mapped_column(unique=True, server_default=func.gen_random_uuid())
    account_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    amount: Mapped[int] = mapped_column(Integer)
    message: Mapped[str | None] = mapped_column(String(MAX_MESSAGE))
    recipient: Mapped[str | None] = mapped_column(String(MAX_RECIPIENT))
    status: Mapped[str] = mapped_column(String(20), server_default=CREATED)
    simulate: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            *super().__table_args__,
            CheckConstraint("amount > 0", name="amount"),
            CheckConstraint(f"status IN {STATUSES}", name="status"),
            # The two lists: all of an account's gifts, and those in one state.
            Index("ix_gifts_account_created", "account_id", "created_at", "id"),
            Index("ix_gifts_account_status_created", "account_id", "status", "created_at", "id"),
        )


class SendRequest(Base):
    """A send or a retry that was accepted: kept for ever, so that its key never sends again."""

    __tablename__ = "send_requests"

    gift_id: Mapped[UUID] = mapped_column(ForeignKey("gifts.id"), primary_key=True)
    request_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    send_no: Mapped[int] = mapped_column(
        Integer, server_default="1", doc="1 is the owner's send; higher ones are retries."
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
