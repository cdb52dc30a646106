"""The columns that make a row deliverable, the record of its attempts, and its dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeGuard
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Identity,
    Index,
    Integer,
    String,
    Text,
    func,
    literal,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, declared_attr, mapped_column

from app.db import Base, UtcDateTime
from app.outbox.service import Message

#: Executions that one send may have, where a row does not say it itself (the customer's document,
#: section 6.3).
MAX_EXECUTIONS = 5

#: The largest that its column holds.
MAX_SEND_NO = 2**31 - 1


def is_send_no(value: object) -> TypeGuard[int]:
    """Whether a message can carry this send number. Messages may carry anything."""
    return type(value) is int and 1 <= value <= MAX_SEND_NO


OUTCOMES = ("sent", "transient", "permanent", "lost", "timeout", "unknown", "cancelled")


@dataclass(frozen=True)
class Lifecycle:
    """What a kind of deliverable calls its states, and the task that delivers it.

    A gift has one name for all that lies between queued and final; a job shows where it is.
    """

    kind: str
    ready: str
    """Not asked for yet: the send number is 0."""
    queued: str
    done: str
    failed: str
    messages: tuple[Message, ...]
    """The task, once for each queue that may carry it."""
    subject: str
    """The name of the task's argument that holds the row's id, such as `gift_id`."""
    running: str = ""
    """While an execution is at work; "" is as `queued`."""
    retrying: str = ""
    """Between two executions; "" is as `queued`."""
    cancelled: str = ""
    """Called off; "" where that cannot be."""
    buries: bool = True
    """Whether a row without executions left has its message made a dead letter, or deleted."""

    @property
    def task(self) -> str:
        return self.messages[0].task

    @property
    def queues(self) -> tuple[str, ...]:
        return tuple(message.queue for message in self.messages)

    @property
    def at_work(self) -> str:
        return self.running or self.queued

    @property
    def between(self) -> str:
        return self.retrying or self.queued

    @property
    def open(self) -> tuple[str, ...]:
        """The states in which a message carries the row, or is to carry it."""
        return tuple(dict.fromkeys((self.queued, self.at_work, self.between)))


class Deliverable:
    """Mixed into a model whose effect must happen once."""

    lifecycle: ClassVar[Lifecycle]
    __tablename__: str
    __table__: ClassVar[Any]

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    status: Mapped[str] = mapped_column(String(20))
    send_no: Mapped[int] = mapped_column(
        Integer, server_default="0", doc="Raised each time the row becomes queued."
    )
    request_id: Mapped[str | None] = mapped_column(
        String(255), doc="The Idempotency-Key of the send at hand."
    )
    carrier: Mapped[str | None] = mapped_column(
        String(100), doc="The SQS MessageId that claimed this send; another copy is a duplicate."
    )
    receive: Mapped[int] = mapped_column(
        Integer, server_default="0", doc="The carrier's receive count at the last claim."
    )
    executions: Mapped[int] = mapped_column(Integer, server_default="0")
    restages: Mapped[int] = mapped_column(
        Integer, server_default="0", doc="How often the reconciler staged this send again."
    )
    failure: Mapped[str | None] = mapped_column(
        String(20), doc="How a failed row failed: permanent, exhausted, or unknown."
    )
    last_error: Mapped[str | None] = mapped_column(Text)
    accepted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        UtcDateTime, server_default=func.now(), doc="Kept by the trigger of the state moves."
    )

    #: SQL: how many executions a send of the row may have.
    execution_limit: ClassVar[str] = str(MAX_EXECUTIONS)

    @classmethod
    def limit(cls) -> ColumnElement[int]:
        return literal_column(cls.execution_limit, Integer)

    @classmethod
    def queue(cls) -> ColumnElement[str]:
        """Which of the lifecycle's queues carries the row."""
        return literal(cls.lifecycle.queues[0])

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[Any, ...]:
        states = cls.lifecycle
        # A row that is ready was never asked for. Where queued rows have the same name, their send
        # number tells.
        ready = (
            f"(status = '{states.ready}') = (send_no = 0) AND "
            if states.ready != states.queued
            else f"(send_no > 0 OR status IN ('{states.ready}', '{states.cancelled}')) AND "
        )
        open_states = (
            f"status = '{states.queued}'" if len(states.open) == 1 else f"status IN {states.open}"
        )
        return (
            CheckConstraint(f"executions BETWEEN 0 AND {cls.execution_limit}", name="executions"),
            CheckConstraint("send_no >= 0 AND receive >= 0 AND restages >= 0", name="counts"),
            CheckConstraint(
                f"(failure IS NULL) = (status <> '{states.failed}')"
                " AND failure IN ('permanent', 'exhausted', 'unknown')",
                name="failure",
            ),
            CheckConstraint(f"{ready}(send_no = 0) = (accepted_at IS NULL)", name="accepted"),
            # recover_stalled() looks for open rows that nobody has touched.
            Index(
                f"ix_{cls.__tablename__}_stalled",
                "updated_at",
                postgresql_where=text(open_states),
            ),
        )


def deliverables() -> dict[str, type[Deliverable]]:
    """Every kind of deliverable that has been imported, by the name of its task."""
    return {model.lifecycle.task: model for model in Deliverable.__subclasses__()}


#: The kind of an attempt whose message belongs to no deliverable, or to none that can be read.
MESSAGE_KIND = "message"


class Attempt(Base):
    """The record of one execution: begun by a claim, ended by its outcome.

    Also of a message that failed and belongs to no deliverable: then it has neither subject nor
    send number, and is written when it has ended.
    """

    __tablename__ = "attempts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    subject_id: Mapped[UUID | None]
    send_no: Mapped[int | None]
    receive_count: Mapped[int]
    message_id: Mapped[str] = mapped_column(String(100))
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    outcome: Mapped[str | None] = mapped_column(String(20))
    error_code: Mapped[str | None] = mapped_column(String(80))
    error_message: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint(f"outcome IN {OUTCOMES}", name="outcome"),
        CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name="ended"),
        CheckConstraint(
            f"(subject_id IS NULL) = (kind = '{MESSAGE_KIND}')"
            f" AND (send_no IS NULL) = (kind = '{MESSAGE_KIND}')",
            name="subject",
        ),
        Index("ix_attempts_subject", "kind", "subject_id", "id"),
        # What a dead letter died of.
        Index("ix_attempts_message", "message_id", "id"),
        Index(
            "uq_attempts_open",
            "kind",
            "subject_id",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index(
            "uq_attempts_sent",
            "kind",
            "subject_id",
            "send_no",
            unique=True,
            postgresql_where=text("outcome = 'sent'"),
        ),
    )


class DeadLetter(Base):
    """A message that SQS moved to a DLQ, as the reconciler saw it there."""

    __tablename__ = "dead_letters"

    message_id: Mapped[str] = mapped_column(String(100), primary_key=True)
    queue: Mapped[str] = mapped_column(String(80))
    task: Mapped[str | None] = mapped_column(String(200))
    subject_id: Mapped[UUID | None] = mapped_column(index=True)
    request_id: Mapped[str | None] = mapped_column(String(255))
    send_no: Mapped[int | None]
    receive_count: Mapped[int]
    trace: Mapped[str | None] = mapped_column(
        String(255), doc="The message's traceparent (W3C Trace Context)."
    )
    body: Mapped[str] = mapped_column(Text)
    first_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    settled_at: Mapped[datetime | None] = mapped_column(
        UtcDateTime, doc="When an operator decided: from then on it may only be deleted."
    )

    __table_args__ = (Index("ix_dead_letters_queue", "queue", "first_seen_at"),)


#: What an operator may ask for.
ACTIONS = ("redrive", "discard", "retry")


class Redrive(Base):
    """What an operator did to one dead letter or one failed row: who, when, and why."""

    __tablename__ = "redrives"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    batch: Mapped[UUID] = mapped_column(
        index=True, doc="One command or request; how many it touched is how many rows have it."
    )
    action: Mapped[str] = mapped_column(String(20))
    outcome: Mapped[str] = mapped_column(String(20))
    actor: Mapped[str] = mapped_column(String(320))
    reason: Mapped[str] = mapped_column(Text)
    queue: Mapped[str] = mapped_column(String(80))
    task: Mapped[str | None] = mapped_column(String(200))
    message_id: Mapped[str | None] = mapped_column(String(100), index=True)
    subject_id: Mapped[UUID | None] = mapped_column(index=True)
    send_no: Mapped[int | None] = mapped_column(doc="The new one, where there is a new send.")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())

    __table_args__ = (
        CheckConstraint(f"action IN {ACTIONS}", name="action"),
        # A retry asks for a row; the others for a letter.
        CheckConstraint("(message_id IS NULL) = (action = 'retry')", name="message"),
    )
