"""Jobs: deliverables whose effect is a processor's."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    Computed,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from app.db import Base, UtcDateTime
from app.delivery.models import Deliverable, Lifecycle
from app.jobs import messages

#: The states in the order of a job's life; the database's trigger holds the moves between them.
PENDING, PROCESSING, RETRY_PENDING, COMPLETED, FAILED, CANCELLED = STATUSES = (
    "PENDING", "PROCESSING", "RETRY_PENDING", "COMPLETED", "FAILED", "CANCELLED",
)  # fmt: skip
#: What may still run.
LIVE = (PENDING, PROCESSING, RETRY_PENDING)

MIN_PRIORITY, MAX_PRIORITY = -9, 9
MAX_RETRIES = 20
MAX_TYPE = 80
MAX_UNIQUE_KEY = 255
MAX_NOTE = 200

UNIQUE_LIVE_KEY = "uq_jobs_live_key"

#: By priority: below 0 low, from 5 high.
BAND = "CASE WHEN priority < 0 THEN 'low' WHEN priority >= 5 THEN 'high' ELSE 'default' END"
BANDS = ("high", "default", "low")


class Job(Deliverable, Base):
    __tablename__ = "jobs"

    lifecycle = Lifecycle(
        kind="job",
        ready=PENDING,
        queued=PENDING,
        running=PROCESSING,
        retrying=RETRY_PENDING,
        done=COMPLETED,
        failed=FAILED,
        cancelled=CANCELLED,
        messages=(messages.HIGH, messages.DEFAULT, messages.LOW),
        subject="job_id",
        # What has failed as often as its owner allows is told by the row; a letter adds nothing.
        buries=False,
    )
    execution_limit: ClassVar[str] = "(max_retries + 1)"

    account_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    job_type: Mapped[str] = mapped_column(String(MAX_TYPE))
    payload: Mapped[dict[str, Any]] = mapped_column(JSONB)
    status: Mapped[str] = mapped_column(String(20), server_default=PENDING)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    band: Mapped[str] = mapped_column(String(10), Computed(BAND, persisted=True))
    max_retries: Mapped[int] = mapped_column(Integer, server_default="3")
    retry_count: Mapped[int] = mapped_column(
        Integer, Computed("greatest(executions - 1, 0)", persisted=True)
    )
    unique_key: Mapped[str | None] = mapped_column(String(MAX_UNIQUE_KEY))
    progress: Mapped[int] = mapped_column(SmallInteger, server_default="0", doc="Per cent.")
    progress_note: Mapped[str | None] = mapped_column(String(MAX_NOTE))
    result: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    cancel_requested_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    scheduled_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, doc="When its first execution began. Kept by the trigger of the state moves."
    )
    completed_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, doc="When it reached a final state. Kept by the trigger of the state moves."
    )

    @classmethod
    def queue(cls) -> ColumnElement[str]:
        return "jobs-" + cls.band

    @property
    def cancel_requested(self) -> bool:
        return self.cancel_requested_at is not None

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        return (
            *super().__table_args__,
            CheckConstraint(f"status IN {STATUSES}", name="status"),
            CheckConstraint(f"priority BETWEEN {MIN_PRIORITY} AND {MAX_PRIORITY}", name="priority"),
            CheckConstraint(f"max_retries BETWEEN 0 AND {MAX_RETRIES}", name="max_retries"),
            CheckConstraint("jsonb_typeof(payload) = 'object'", name="payload"),
            CheckConstraint("progress BETWEEN 0 AND 100", name="progress"),
            # Of the live jobs of an account, one a key.
            Index(
                UNIQUE_LIVE_KEY,
                "account_id",
                "unique_key",
                unique=True,
                postgresql_where=text(f"unique_key IS NOT NULL AND status IN {LIVE}"),
            ),
            # What is to be staged, in the order in which it is.
            Index(
                "ix_jobs_due",
                "scheduled_at",
                text("priority DESC"),
                postgresql_where=text(f"status = '{PENDING}' AND send_no = 0"),
            ),
            # What waits for a worker.
            Index(
                "ix_jobs_waiting",
                "band",
                "accepted_at",
                postgresql_where=text(
                    f"status IN ('{PENDING}', '{RETRY_PENDING}') AND send_no > 0"
                ),
            ),
            Index(
                "ix_jobs_completed",
                "completed_at",
                postgresql_where=text(f"status = '{COMPLETED}'"),
            ),
            Index("ix_jobs_account_created", "account_id", "created_at", "id"),
            Index("ix_jobs_account_type_status", "account_id", "job_type", "status"),
        )
