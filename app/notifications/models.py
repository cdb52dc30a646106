"""Notifications, one an occasion."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, Index, String, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UtcDateTime

MAX_RECIPIENT = 255
MAX_TITLE = 200
MAX_BODY = 4000
MAX_OCCASION = 255


class Notification(Base):
    __tablename__ = "notifications"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    account_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.id"), doc="None if nobody here is known as the recipient."
    )
    recipient: Mapped[str] = mapped_column(
        String(MAX_RECIPIENT), doc="As the sender called them: an account's id, or anything."
    )
    title: Mapped[str] = mapped_column(String(MAX_TITLE))
    body: Mapped[str] = mapped_column(Text)
    occasion: Mapped[str] = mapped_column(
        String(MAX_OCCASION), unique=True, doc="What it is about: told once, however often it runs."
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    read_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_notifications_account_created", "account_id", "created_at", "id"),
        Index(
            "ix_notifications_unread",
            "account_id",
            "created_at",
            "id",
            postgresql_where=text("read_at IS NULL"),
        ),
    )
