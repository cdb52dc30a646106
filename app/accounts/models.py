"""Accounts and the keys that act for them."""

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
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base, UtcDateTime

#: RFC 5321: 64 + 1 + 255.
MAX_EMAIL = 320
MAX_KEY_NAME = 100
MAX_NAME = 200
MAX_BIO = 2000


class User(Base):
    """An account: rows belong to it."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    email: Mapped[str] = mapped_column(String(MAX_EMAIL))
    age: Mapped[int | None] = mapped_column(
        Integer, doc="None for an account that was made for a key."
    )
    name: Mapped[str | None] = mapped_column(String(MAX_NAME))
    bio: Mapped[str | None] = mapped_column(String(MAX_BIO))
    is_active: Mapped[bool] = mapped_column(Boolean, server_default=true())
    password_hash: Mapped[str | None] = mapped_column(String(255))
    additional_data: Mapped[dict[str, Any]] = mapped_column(
        JSONB, server_default="{}", doc="What VALIDATION_MODE=flexible has let in."
    )
    profile: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True), doc="None until the job user_created has made it."
    )
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())

    __table_args__ = (
        CheckConstraint("age >= 0", name="age"),
        CheckConstraint("jsonb_typeof(additional_data) = 'object'", name="additional_data"),
        Index("uq_users_email", func.lower(email), unique=True),
    )


class ApiKey(Base):
    """A key is a random secret: only its SHA-256 is kept, and a stolen row opens nothing."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"), index=True)
    role: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(MAX_KEY_NAME))
    hash: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (
        CheckConstraint("role IN ('user', 'operator')", name="role"),
        CheckConstraint("octet_length(hash) = 32", name="hash"),
    )
