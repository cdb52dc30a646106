"""Jobs, typed messages, notifications, and what users are beside their email.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


# The states of a job, held by the database whatever the code does. FAILED -> COMPLETED and
# RETRY_PENDING -> COMPLETED: an answer that came after the row was given up (ADR 5). A job that
# was called off stays so.
GUARD = """
CREATE FUNCTION guard_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'PENDING' OR NEW.executions <> 0 OR NEW.send_no <> 0 THEN
            RAISE EXCEPTION 'a job cannot begin as % with % executions and send number %',
                NEW.status, NEW.executions, NEW.send_no
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF (OLD.account_id, OLD.job_type, OLD.payload, OLD.priority, OLD.max_retries, OLD.unique_key)
        IS DISTINCT FROM
       (NEW.account_id, NEW.job_type, NEW.payload, NEW.priority, NEW.max_retries, NEW.unique_key)
    THEN
        RAISE EXCEPTION 'what a job was asked to do is for ever'
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.send_no <> OLD.send_no AND NOT (
        NEW.send_no = OLD.send_no + 1 AND NEW.status = 'PENDING'
        AND ((OLD.status = 'PENDING' AND OLD.send_no = 0) OR OLD.status = 'FAILED')
    ) THEN
        RAISE EXCEPTION 'a job takes a new send number when it is staged, and only then'
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.status <> OLD.status THEN
        IF (OLD.status, NEW.status) NOT IN (
            ('PENDING', 'PROCESSING'), ('PENDING', 'CANCELLED'), ('PENDING', 'FAILED'),
            ('PROCESSING', 'COMPLETED'), ('PROCESSING', 'RETRY_PENDING'),
            ('PROCESSING', 'FAILED'), ('PROCESSING', 'CANCELLED'),
            ('RETRY_PENDING', 'PROCESSING'), ('RETRY_PENDING', 'CANCELLED'),
            ('RETRY_PENDING', 'FAILED'), ('RETRY_PENDING', 'COMPLETED'),
            ('FAILED', 'COMPLETED'), ('FAILED', 'PENDING')
        ) OR (NEW.send_no = 0 AND NEW.status <> 'CANCELLED')
          OR (OLD.status = 'FAILED' AND NEW.status = 'PENDING' AND NEW.send_no = OLD.send_no)
        THEN
            RAISE EXCEPTION 'jobs cannot go from % to %', OLD.status, NEW.status
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.status = 'PROCESSING' THEN
            NEW.started_at := coalesce(OLD.started_at, now());
        ELSIF NEW.status IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN
            NEW.completed_at := now();
        ELSIF OLD.status = 'FAILED' THEN  -- it is run again, as if for the first time
            NEW.accepted_at := now();
            NEW.started_at := NULL;
            NEW.completed_at := NULL;
            NEW.cancel_requested_at := NULL;
            NEW.progress := 0;
            NEW.progress_note := NULL;
        END IF;
    END IF;
    NEW.updated_at := now();
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_job BEFORE INSERT OR UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION guard_job()
"""

OUTCOMES = ("sent", "transient", "permanent", "lost", "timeout", "unknown")


def _set_outcomes(outcomes: tuple[str, ...]) -> None:
    """Without a long lock: writers go on while the constraint is validated."""
    op.drop_constraint(op.f("ck_attempts_outcome"), "attempts")
    op.execute(
        "ALTER TABLE attempts ADD CONSTRAINT ck_attempts_outcome"
        f" CHECK (outcome IN {outcomes}) NOT VALID"
    )
    op.execute("ALTER TABLE attempts VALIDATE CONSTRAINT ck_attempts_outcome")


def upgrade() -> None:
    op.create_table(
        "external_tasks",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("task_id", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=False),
        sa.Column(
            "handled_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_external_tasks")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_external_tasks_idempotency_key")),
    )
    op.create_index(op.f("ix_external_tasks_task_id"), "external_tasks", ["task_id"], unique=False)
    op.create_table(
        "synced_entities",
        sa.Column("entity_type", sa.String(length=255), nullable=False),
        sa.Column("entity_id", sa.String(length=255), nullable=False),
        sa.Column(
            "attributes",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
        sa.Column(
            "written_at",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
        sa.Column("cleared_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_deleted", sa.Boolean(), server_default="false", nullable=False),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "jsonb_typeof(attributes) = 'object'", name=op.f("ck_synced_entities_attributes")
        ),
        sa.CheckConstraint(
            "jsonb_typeof(written_at) = 'object'", name=op.f("ck_synced_entities_written_at")
        ),
        sa.PrimaryKeyConstraint("entity_type", "entity_id", name=op.f("pk_synced_entities")),
    )
    op.create_table(
        "jobs",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("job_type", sa.String(length=80), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("status", sa.String(length=20), server_default="PENDING", nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "band",
            sa.String(length=10),
            sa.Computed(
                "CASE WHEN priority < 0 THEN 'low' WHEN priority >= 5 THEN 'high'"
                " ELSE 'default' END",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.Column("max_retries", sa.Integer(), server_default="3", nullable=False),
        sa.Column(
            "retry_count",
            sa.Integer(),
            sa.Computed("greatest(executions - 1, 0)", persisted=True),
            nullable=False,
        ),
        sa.Column("unique_key", sa.String(length=255), nullable=True),
        sa.Column("progress", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("progress_note", sa.String(length=200), nullable=True),
        sa.Column(
            "result", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "scheduled_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
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
            name=op.f("ck_jobs_failure"),
        ),
        sa.CheckConstraint(
            "(send_no > 0 OR status IN ('PENDING', 'CANCELLED'))"
            " AND (send_no = 0) = (accepted_at IS NULL)",
            name=op.f("ck_jobs_accepted"),
        ),
        sa.CheckConstraint("jsonb_typeof(payload) = 'object'", name=op.f("ck_jobs_payload")),
        sa.CheckConstraint(
            "status IN ('PENDING', 'PROCESSING', 'RETRY_PENDING', 'COMPLETED', 'FAILED',"
            " 'CANCELLED')",
            name=op.f("ck_jobs_status"),
        ),
        sa.CheckConstraint(
            "executions BETWEEN 0 AND (max_retries + 1)", name=op.f("ck_jobs_executions")
        ),
        sa.CheckConstraint("max_retries BETWEEN 0 AND 20", name=op.f("ck_jobs_max_retries")),
        sa.CheckConstraint("priority BETWEEN -9 AND 9", name=op.f("ck_jobs_priority")),
        sa.CheckConstraint("progress BETWEEN 0 AND 100", name=op.f("ck_jobs_progress")),
        sa.CheckConstraint(
            "send_no >= 0 AND receive >= 0 AND restages >= 0", name=op.f("ck_jobs_counts")
        ),
        sa.ForeignKeyConstraint(
            ["account_id"], ["users.id"], name=op.f("fk_jobs_account_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(
        "ix_jobs_account_created", "jobs", ["account_id", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_jobs_account_type_status", "jobs", ["account_id", "job_type", "status"], unique=False
    )
    op.create_index(
        "ix_jobs_completed",
        "jobs",
        ["completed_at"],
        unique=False,
        postgresql_where=sa.text("status = 'COMPLETED'"),
    )
    op.create_index(
        "ix_jobs_due",
        "jobs",
        ["scheduled_at", sa.literal_column("priority DESC")],
        unique=False,
        postgresql_where=sa.text("status = 'PENDING' AND send_no = 0"),
    )
    op.create_index(
        "ix_jobs_stalled",
        "jobs",
        ["updated_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('PENDING', 'PROCESSING', 'RETRY_PENDING')"),
    )
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["band", "accepted_at"],
        unique=False,
        postgresql_where=sa.text("status IN ('PENDING', 'RETRY_PENDING') AND send_no > 0"),
    )
    op.create_index(
        "uq_jobs_live_key",
        "jobs",
        ["account_id", "unique_key"],
        unique=True,
        postgresql_where=sa.text(
            "unique_key IS NOT NULL AND status IN ('PENDING', 'PROCESSING', 'RETRY_PENDING')"
        ),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=True),
        sa.Column("recipient", sa.String(length=255), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("occasion", sa.String(length=255), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["account_id"], ["users.id"], name=op.f("fk_notifications_account_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notifications")),
        sa.UniqueConstraint("occasion", name=op.f("uq_notifications_occasion")),
    )
    op.create_index(
        "ix_notifications_account_created",
        "notifications",
        ["account_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_notifications_unread",
        "notifications",
        ["account_id", "created_at", "id"],
        unique=False,
        postgresql_where=sa.text("read_at IS NULL"),
    )
    op.create_table(
        "inbox_messages",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("external_id", sa.String(length=255), nullable=False),
        sa.Column("type", sa.String(length=40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("duplicates", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "octet_length(fingerprint) = 32", name=op.f("ck_inbox_messages_fingerprint")
        ),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_inbox_messages_job_id_jobs")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_inbox_messages")),
        sa.UniqueConstraint("external_id", name=op.f("uq_inbox_messages_external_id")),
    )
    op.create_index(
        "ix_inbox_messages_created", "inbox_messages", ["created_at", "id"], unique=False
    )
    op.create_index(op.f("ix_inbox_messages_job_id"), "inbox_messages", ["job_id"], unique=False)
    op.create_index(
        "ix_inbox_messages_type_created",
        "inbox_messages",
        ["type", "created_at", "id"],
        unique=False,
    )
    op.add_column("users", sa.Column("age", sa.Integer(), nullable=True))
    op.add_column("users", sa.Column("name", sa.String(length=200), nullable=True))
    op.add_column("users", sa.Column("bio", sa.String(length=2000), nullable=True))
    op.add_column(
        "users",
        sa.Column("is_active", sa.Boolean(), server_default=sa.text("true"), nullable=False),
    )
    op.add_column("users", sa.Column("password_hash", sa.String(length=255), nullable=True))
    op.add_column(
        "users",
        sa.Column(
            "additional_data",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
    )
    op.add_column(
        "users",
        sa.Column(
            "profile", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True
        ),
    )
    op.create_check_constraint(op.f("ck_users_age"), "users", "age >= 0")
    op.create_check_constraint(
        op.f("ck_users_additional_data"), "users", "jsonb_typeof(additional_data) = 'object'"
    )
    _set_outcomes((*OUTCOMES, "cancelled"))
    op.execute(GUARD)


def downgrade() -> None:
    for table in ("inbox_messages", "notifications", "jobs", "synced_entities", "external_tasks"):
        op.drop_table(table)
    op.execute("DROP FUNCTION guard_job()")
    op.execute("DELETE FROM attempts WHERE kind = 'job'")
    _set_outcomes(OUTCOMES)
    for column in (
        "profile", "additional_data", "password_hash", "is_active", "bio", "name", "age",
    ):  # fmt: skip
        op.drop_column("users", column)
