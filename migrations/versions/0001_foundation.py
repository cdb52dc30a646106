"""Accounts, gifts and their deliveries, the outbox, dead letters.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The diagram of a deliverable's states, held by the database whatever the code does:
#
#   (insert) -> ready -> queued -> done
#                        queued -> failed
#                        failed -> done      the provider's answer came after the row was given up
#                        failed -> queued    an operator asked for it again: a new send number
#
# Arguments: the names of ready, queued, done, failed. Every change touches updated_at.
GUARD = """
CREATE FUNCTION guard_deliverable() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ready  CONSTANT text := TG_ARGV[0];
    queued CONSTANT text := TG_ARGV[1];
    done   CONSTANT text := TG_ARGV[2];
    failed CONSTANT text := TG_ARGV[3];
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> ready OR NEW.executions <> 0 THEN
            RAISE EXCEPTION '% cannot begin as % with % executions',
                TG_TABLE_NAME, NEW.status, NEW.executions
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.status <> OLD.status AND (OLD.status, NEW.status) NOT IN (
        (ready, queued), (queued, done), (queued, failed), (failed, done), (failed, queued)
    ) THEN
        RAISE EXCEPTION '% cannot go from % to %', TG_TABLE_NAME, OLD.status, NEW.status
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.send_no <> OLD.send_no + (NEW.status = queued AND OLD.status <> queued)::int THEN
        RAISE EXCEPTION '% takes a new send number when it becomes %, and only then',
            TG_TABLE_NAME, queued
            USING ERRCODE = 'check_violation';
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END
$$
"""

GUARD_GIFTS = """
CREATE TRIGGER guard_deliverable BEFORE INSERT OR UPDATE ON gifts
FOR EACH ROW EXECUTE FUNCTION guard_deliverable('CREATED', 'QUEUED', 'SENT', 'FAILED')
"""

# What a recipient was promised does not change, and a key that has sent stays known for ever.
GUARD_PROMISES = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: %', TG_OP, TG_TABLE_NAME, TG_ARGV[0]
        USING ERRCODE = 'check_violation';
END
$$;
CREATE TRIGGER keep_promise BEFORE UPDATE ON gifts FOR EACH ROW
WHEN ((OLD.code, OLD.account_id, OLD.amount) IS DISTINCT FROM
      (NEW.code, NEW.account_id, NEW.amount))
EXECUTE FUNCTION refuse_change('code, account and amount of a gift are for ever');
CREATE TRIGGER keep_key BEFORE UPDATE OF gift_id, request_id OR DELETE ON send_requests FOR EACH ROW
EXECUTE FUNCTION refuse_change('send keys are kept for ever');
"""

# Every row is deleted soon after it was inserted: without these, dead rows would slow each poll
# of the relays (ADR 1). vacuum_truncate would take a lock that stops them.
OUTBOX_STORAGE = """
ALTER TABLE outbox SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off
)
"""


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("send_no", sa.Integer(), nullable=False),
        sa.Column("receive_count", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.String(length=100), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(length=20), nullable=True),
        sa.Column("error_code", sa.String(length=80), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('sent', 'transient', 'permanent', 'lost', 'timeout', 'unknown')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint(
            "(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_ended")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index("ix_attempts_subject", "attempts", ["kind", "subject_id", "id"], unique=False)
    op.create_index(
        "uq_attempts_open",
        "attempts",
        ["kind", "subject_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "uq_attempts_sent",
        "attempts",
        ["kind", "subject_id", "send_no"],
        unique=True,
        postgresql_where=sa.text("outcome = 'sent'"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("message_id", sa.String(length=100), nullable=False),
        sa.Column("queue", sa.String(length=80), nullable=False),
        sa.Column("task", sa.String(length=200), nullable=True),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("request_id", sa.String(length=255), nullable=True),
        sa.Column("send_no", sa.Integer(), nullable=True),
        sa.Column("receive_count", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column(
            "first_seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "last_seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_dead_letters")),
    )
    op.create_index(
        "ix_dead_letters_queue", "dead_letters", ["queue", "first_seen_at"], unique=False
    )
    op.create_index(
        op.f("ix_dead_letters_subject_id"), "dead_letters", ["subject_id"], unique=False
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("queue", sa.String(length=80), nullable=False),
        sa.Column("task", sa.String(length=200), nullable=False),
        sa.Column("kwargs", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "headers", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column("refusals", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "available_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("jsonb_typeof(kwargs) = 'object'", name=op.f("ck_outbox_kwargs")),
        sa.CheckConstraint("jsonb_typeof(headers) = 'object'", name=op.f("ck_outbox_headers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_queue_id", "outbox", ["queue", "id"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
    )
    op.create_index("uq_users_email", "users", [sa.literal_column("lower(email)")], unique=True)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('user', 'operator')", name=op.f("ck_api_keys_role")),
        sa.CheckConstraint("octet_length(hash) = 32", name=op.f("ck_api_keys_hash")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_keys_hash")),
    )
    op.create_index(op.f("ix_api_keys_user_id"), "api_keys", ["user_id"], unique=False)
    op.create_table(
        "gifts",
        sa.Column("code", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.Column("message", sa.String(length=500), nullable=True),
        sa.Column("recipient", sa.String(length=320), nullable=True),
        sa.Column("status", sa.String(length=20), server_default="CREATED", nullable=False),
        sa.Column(
            "simulate", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("send_no", sa.Integer(), server_default="0", nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=True),
        sa.Column("carrier", sa.String(length=100), nullable=True),
        sa.Column("receive", sa.Integer(), server_default="0", nullable=False),
        sa.Column("executions", sa.Integer(), server_default="0", nullable=False),
        sa.Column("restages", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure", sa.String(length=20), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(failure IS NULL) = (status <> 'FAILED')"
            " AND failure IN ('permanent', 'exhausted', 'unknown')",
            name=op.f("ck_gifts_failure"),
        ),
        sa.CheckConstraint(
            "(status = 'CREATED') = (send_no = 0) AND (send_no = 0) = (accepted_at IS NULL)",
            name=op.f("ck_gifts_accepted"),
        ),
        sa.CheckConstraint(
            "status IN ('CREATED', 'QUEUED', 'SENT', 'FAILED')", name=op.f("ck_gifts_status")
        ),
        sa.CheckConstraint("amount > 0", name=op.f("ck_gifts_amount")),
        sa.CheckConstraint("executions BETWEEN 0 AND 5", name=op.f("ck_gifts_executions")),
        sa.CheckConstraint(
            "send_no >= 0 AND receive >= 0 AND restages >= 0", name=op.f("ck_gifts_counts")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["users.id"], name=op.f("fk_gifts_account_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gifts")),
        sa.UniqueConstraint("code", name=op.f("uq_gifts_code")),
    )
    op.create_index(
        "ix_gifts_account_created", "gifts", ["account_id", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_gifts_account_status_created",
        "gifts",
        ["account_id", "status", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_gifts_stalled",
        "gifts",
        ["updated_at"],
        unique=False,
        postgresql_where=sa.text("status = 'QUEUED'"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("scope", sa.String(length=100), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["users.id"], name=op.f("fk_idempotency_keys_account_id_users")
        ),
        sa.PrimaryKeyConstraint("account_id", "scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(
        op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"], unique=False
    )
    op.create_table(
        "send_requests",
        sa.Column("gift_id", sa.Uuid(), nullable=False),
        sa.Column("request_id", sa.String(length=255), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["gift_id"], ["gifts.id"], name=op.f("fk_send_requests_gift_id_gifts")
        ),
        sa.PrimaryKeyConstraint("gift_id", "request_id", name=op.f("pk_send_requests")),
    )
    op.execute(GUARD)
    op.execute(GUARD_GIFTS)
    op.execute(GUARD_PROMISES)
    op.execute(OUTBOX_STORAGE)


def downgrade() -> None:
    for table in (
        "send_requests",
        "idempotency_keys",
        "gifts",
        "api_keys",
        "users",
        "outbox",
        "dead_letters",
        "attempts",
    ):
        op.drop_table(table)
    op.execute("DROP FUNCTION guard_deliverable()")
    op.execute("DROP FUNCTION refuse_change()")
