"""Failures of messages without a row, traces of dead letters, and who redrove what.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("attempts", "subject_id", existing_type=sa.Uuid(), nullable=True)
    op.alter_column("attempts", "send_no", existing_type=sa.Integer(), nullable=True)
    op.create_check_constraint(
        op.f("ck_attempts_subject"),
        "attempts",
        "(subject_id IS NULL) = (kind = 'message') AND (send_no IS NULL) = (kind = 'message')",
    )
    op.create_index("ix_attempts_message", "attempts", ["message_id", "id"], unique=False)
    op.add_column("dead_letters", sa.Column("trace", sa.String(length=255), nullable=True))
    op.add_column(
        "dead_letters", sa.Column("settled_at", sa.DateTime(timezone=True), nullable=True)
    )
    # Whatever was sent before was a first send.
    op.add_column(
        "send_requests", sa.Column("send_no", sa.Integer(), server_default="1", nullable=False)
    )
    op.create_table(
        "redrives",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("batch", sa.Uuid(), nullable=False),
        sa.Column("action", sa.String(length=20), nullable=False),
        sa.Column("outcome", sa.String(length=20), nullable=False),
        sa.Column("actor", sa.String(length=320), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("queue", sa.String(length=80), nullable=False),
        sa.Column("task", sa.String(length=200), nullable=True),
        sa.Column("message_id", sa.String(length=100), nullable=True),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("send_no", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "action IN ('redrive', 'discard', 'retry')", name=op.f("ck_redrives_action")
        ),
        sa.CheckConstraint(
            "(message_id IS NULL) = (action = 'retry')", name=op.f("ck_redrives_message")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redrives")),
    )
    for column in ("batch", "message_id", "subject_id"):
        op.create_index(op.f(f"ix_redrives_{column}"), "redrives", [column], unique=False)


def downgrade() -> None:
    op.drop_table("redrives")
    # Keys of retries stay: they must never send again, whatever the code knows.
    op.drop_column("send_requests", "send_no")
    op.drop_column("dead_letters", "settled_at")
    op.drop_column("dead_letters", "trace")
    op.drop_index("ix_attempts_message", table_name="attempts")
    op.execute("DELETE FROM attempts WHERE kind = 'message'")
    op.drop_constraint(op.f("ck_attempts_subject"), "attempts")
    op.alter_column("attempts", "send_no", existing_type=sa.Integer(), nullable=False)
    op.alter_column("attempts", "subject_id", existing_type=sa.Uuid(), nullable=False)
