"""What the database refuses of a job by itself: illegal moves, send numbers, impossible rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.jobs.models import BANDS, LIVE, STATUSES
from tests.factories import accounts, jobs

# --- the moves ----------------------------------------------------------------------------------

LEGAL = {
    ("PENDING", "PROCESSING"),
    ("PENDING", "CANCELLED"),
    ("PENDING", "FAILED"),  # every message of it died before an execution
    ("PROCESSING", "COMPLETED"),
    ("PROCESSING", "RETRY_PENDING"),
    ("PROCESSING", "FAILED"),
    ("PROCESSING", "CANCELLED"),
    ("RETRY_PENDING", "PROCESSING"),
    ("RETRY_PENDING", "COMPLETED"),  # the answer of an execution that was taken for lost
    ("RETRY_PENDING", "FAILED"),
    ("RETRY_PENDING", "CANCELLED"),
    ("FAILED", "COMPLETED"),  # the same, later
    ("FAILED", "PENDING"),
}
#: How a staged job gets to each state by legal moves.
PATHS = {
    "PENDING": [],
    "PROCESSING": ["PROCESSING"],
    "RETRY_PENDING": ["PROCESSING", "RETRY_PENDING"],
    "COMPLETED": ["PROCESSING", "COMPLETED"],
    "FAILED": ["PROCESSING", "FAILED"],
    "CANCELLED": ["CANCELLED"],
}
#: Not a state: a job that waits in the database for its time.
UNSTAGED = "UNSTAGED"

MOVE = """
    UPDATE jobs SET status = :status, send_no = send_no + :raised,
        accepted_at = CASE send_no + :raised WHEN 0 THEN NULL ELSE now() END,
        failure = CASE :status WHEN 'FAILED' THEN 'exhausted' END
    WHERE id = :id
"""


def job_in(session: Session, status: str, **fields: Any) -> UUID:
    if status == UNSTAGED:
        return jobs.scheduled(session, **fields).id
    job_id = jobs.enqueued(session, **fields).id
    for step in PATHS[status]:
        move(session, job_id, step)
    return job_id


def move(session: Session, job_id: UUID, status: str, *, raised: int = 0) -> None:
    session.execute(text(MOVE), {"id": job_id, "status": status, "raised": raised})


def value(session: Session, job_id: UUID, expression: str) -> Any:
    query = text(f"SELECT {expression} FROM jobs WHERE id = :id")
    return session.execute(query, {"id": job_id}).scalar_one()


@pytest.mark.parametrize("new", STATUSES)
@pytest.mark.parametrize("old", STATUSES)
def test_the_database_refuses_illegal_moves(session: Session, old: str, new: str) -> None:
    job_id = job_in(session, old)
    raised = int((old, new) == ("FAILED", "PENDING"))
    if old == new or (old, new) in LEGAL:
        move(session, job_id, new, raised=raised)
        assert value(session, job_id, "status") == new
    else:
        with pytest.raises(IntegrityError, match=f"jobs cannot go from {old} to {new}"):
            move(session, job_id, new, raised=raised)


@pytest.mark.parametrize("new", STATUSES)
def test_a_job_that_was_not_staged_may_be_cancelled_and_nothing_else(
    session: Session, new: str
) -> None:
    job_id = job_in(session, UNSTAGED)
    if new in ("PENDING", "CANCELLED"):
        move(session, job_id, new)
        assert (value(session, job_id, "status"), value(session, job_id, "send_no")) == (new, 0)
    else:
        with pytest.raises(IntegrityError, match=f"jobs cannot go from PENDING to {new}"):
            move(session, job_id, new)


@pytest.mark.parametrize(
    ("old", "new", "raised"),
    [
        (UNSTAGED, "PENDING", 2),
        (UNSTAGED, "PENDING", -1),
        (UNSTAGED, "PROCESSING", 1),
        (UNSTAGED, "CANCELLED", 1),
        ("PENDING", "PENDING", 1),
        ("PENDING", "PENDING", -1),
        ("PENDING", "PROCESSING", 1),
        ("PROCESSING", "PENDING", 1),
        ("PROCESSING", "PROCESSING", 1),
        ("PROCESSING", "COMPLETED", 1),
        ("RETRY_PENDING", "PENDING", 1),
        ("RETRY_PENDING", "PROCESSING", 1),
        ("FAILED", "PENDING", 2),
        ("FAILED", "PENDING", -1),
        ("FAILED", "FAILED", 1),
        ("FAILED", "COMPLETED", 1),
        ("COMPLETED", "PENDING", 1),
        ("CANCELLED", "PENDING", 1),
    ],
)
def test_a_send_number_is_raised_by_staging_and_only_then(
    session: Session, old: str, new: str, raised: int
) -> None:
    job_id = job_in(session, old)
    with pytest.raises(IntegrityError, match="takes a new send number when it is staged"):
        move(session, job_id, new, raised=raised)


def test_a_failed_job_cannot_be_pending_again_without_a_new_send(session: Session) -> None:
    job_id = job_in(session, "FAILED")
    with pytest.raises(IntegrityError, match="jobs cannot go from FAILED to PENDING"):
        move(session, job_id, "PENDING", raised=0)


@pytest.mark.parametrize(
    "columns",
    [
        *({"status": f"'{status}'"} for status in STATUSES[1:]),
        {"executions": "1"},
        {"send_no": "1", "accepted_at": "now()"},
    ],
    ids=repr,
)
def test_a_job_begins_as_pending_and_not_staged(session: Session, columns: dict[str, str]) -> None:
    with pytest.raises(IntegrityError, match="a job cannot begin as"):
        copy(session, job_in(session, "PENDING"), columns)


def copy(session: Session, job_id: UUID, columns: dict[str, str]) -> None:
    """Another job like it, but for what SQL `columns` say."""
    values = {
        **dict.fromkeys(("account_id", "job_type", "payload"), ""),
        **columns,
    }
    session.execute(
        text(
            f"INSERT INTO jobs ({', '.join(values)})"
            f" SELECT {', '.join(sql or name for name, sql in values.items())}"
            " FROM jobs WHERE id = :id"
        ),
        {"id": job_id},
    )


# --- what the trigger keeps ---------------------------------------------------------------------


def test_the_first_execution_is_when_a_job_started(session: Session) -> None:
    job_id = job_in(session, "PROCESSING")
    session.commit()  # the time of the database stands still within a transaction
    first = value(session, job_id, "started_at")
    move(session, job_id, "RETRY_PENDING")
    move(session, job_id, "PROCESSING")
    assert value(session, job_id, "started_at = :first".replace(":first", f"'{first}'"))
    assert value(session, job_id, "started_at < now()")


@pytest.mark.parametrize(
    ("status", "started", "completed"),
    [
        ("PENDING", False, False),
        ("PROCESSING", True, False),
        ("RETRY_PENDING", True, False),
        ("COMPLETED", True, True),
        ("FAILED", True, True),
        ("CANCELLED", False, True),
    ],
)
def test_a_job_has_completed_when_it_has_ended(
    session: Session, status: str, started: bool, completed: bool
) -> None:
    job_id = job_in(session, status)
    assert value(session, job_id, "started_at IS NOT NULL") == started
    assert value(session, job_id, "completed_at IS NOT NULL") == completed


def test_what_is_run_again_has_neither_started_nor_got_anywhere(session: Session) -> None:
    job_id = job_in(session, "PROCESSING")
    session.execute(
        text(
            "UPDATE jobs SET progress = 70, progress_note = 'x', cancel_requested_at = now()"
            " WHERE id = :id"
        ),
        {"id": job_id},
    )
    move(session, job_id, "FAILED")
    move(session, job_id, "PENDING", raised=1)
    assert value(
        session,
        job_id,
        "(started_at, completed_at, progress_note, cancel_requested_at) IS NULL AND progress = 0",
    )


def test_every_change_touches_the_row(session: Session) -> None:
    job_id = job_in(session, "PROCESSING")
    session.commit()
    session.execute(
        text("UPDATE jobs SET progress = 1, updated_at = '2000-01-01' WHERE id = :id"),
        {"id": job_id},
    )
    assert value(session, job_id, "updated_at = now()")


@pytest.mark.parametrize(
    ("priority", "band"),
    [(-9, "low"), (-1, "low"), (0, "default"), (4, "default"), (5, "high"), (9, "high")],
)
def test_a_priority_is_in_one_of_three_bands_and_each_is_a_queue(
    session: Session, priority: int, band: str
) -> None:
    job_id = job_in(session, "PENDING", priority=priority)
    assert value(session, job_id, "band") == band
    assert band in BANDS
    queues = session.execute(text("SELECT queue FROM outbox")).scalars().all()
    assert queues == [f"jobs-{band}"]


@pytest.mark.parametrize(("executions", "retries"), [(0, 0), (1, 0), (2, 1), (4, 3)])
def test_retries_are_executions_after_the_first(
    session: Session, executions: int, retries: int
) -> None:
    job_id = job_in(session, "PENDING")
    session.execute(
        text("UPDATE jobs SET executions = :n WHERE id = :id"), {"n": executions, "id": job_id}
    )
    assert value(session, job_id, "retry_count") == retries


# --- constraints --------------------------------------------------------------------------------

CHECKS = [
    ("PENDING", "account_id = gen_random_uuid()", "for ever"),
    ("PENDING", "job_type = 'other'", "for ever"),
    ("PENDING", """payload = '{"a": 1}'""", "for ever"),
    ("PENDING", "priority = 1", "for ever"),
    ("FAILED", "max_retries = 20", "for ever"),
    ("COMPLETED", "unique_key = 'other'", "for ever"),
    ("PENDING", "executions = 5", "ck_jobs_executions"),  # of max_retries = 3
    ("PENDING", "executions = -1", "ck_jobs_executions"),
    ("PENDING", "receive = -1", "ck_jobs_counts"),
    ("PENDING", "restages = -1", "ck_jobs_counts"),
    ("PENDING", "progress = -1", "ck_jobs_progress"),
    ("PROCESSING", "progress = 101", "ck_jobs_progress"),
    ("PENDING", "failure = 'exhausted'", "ck_jobs_failure"),
    ("COMPLETED", "failure = 'exhausted'", "ck_jobs_failure"),
    ("CANCELLED", "failure = 'exhausted'", "ck_jobs_failure"),
    ("FAILED", "failure = NULL", "ck_jobs_failure"),
    ("FAILED", "failure = 'bored'", "ck_jobs_failure"),
    (UNSTAGED, "accepted_at = now()", "ck_jobs_accepted"),
    ("PENDING", "accepted_at = NULL", "ck_jobs_accepted"),
    ("PENDING", "scheduled_at = NULL", "scheduled_at"),
    ("PENDING", "status = NULL", "status"),
]


@pytest.mark.parametrize(("status", "change", "refused_by"), CHECKS)
def test_the_database_refuses_impossible_jobs(
    session: Session, status: str, change: str, refused_by: str
) -> None:
    job_id = job_in(session, status)
    with pytest.raises(IntegrityError, match=refused_by):
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": job_id})


@pytest.mark.parametrize(
    ("column", "sql", "refused_by"),
    [
        ("priority", "-10", "ck_jobs_priority"),
        ("priority", "10", "ck_jobs_priority"),
        ("max_retries", "-1", "ck_jobs_max_retries"),
        ("max_retries", "21", "ck_jobs_max_retries"),
        ("payload", "'[]'", "ck_jobs_payload"),
        ("payload", "'null'", "ck_jobs_payload"),
        ("payload", "NULL", "payload"),
        ("job_type", "NULL", "job_type"),
        ("account_id", "NULL", "account_id"),
        ("account_id", "gen_random_uuid()", "fk_jobs_account_id_users"),
    ],
)
def test_the_database_refuses_impossible_new_jobs(
    session: Session, column: str, sql: str, refused_by: str
) -> None:
    job_id = job_in(session, "PENDING")
    with pytest.raises(IntegrityError, match=refused_by):
        copy(session, job_id, {column: sql})


@pytest.mark.parametrize("status", [UNSTAGED, *LIVE])
def test_of_the_live_jobs_of_an_account_one_has_a_unique_key(session: Session, status: str) -> None:
    job_id = job_in(session, status, unique_key="k")
    with pytest.raises(IntegrityError, match="uq_jobs_live_key"):
        copy(session, job_id, {"unique_key": "'k'"})


@pytest.mark.parametrize("status", sorted(set(STATUSES) - set(LIVE)))
def test_the_unique_key_of_a_job_that_has_ended_is_free(session: Session, status: str) -> None:
    job_id = job_in(session, status, unique_key="k")
    copy(session, job_id, {"unique_key": "'k'"})
    if status == "FAILED":
        with pytest.raises(IntegrityError, match="uq_jobs_live_key"):
            move(session, job_id, "PENDING", raised=1)


def test_unique_keys_that_may_stand_beside_each_other(session: Session) -> None:
    job_id = job_in(session, "PENDING", unique_key="k")
    copy(session, job_id, {"unique_key": "'other'"})
    copy(session, job_id, {"unique_key": "'k'", "account_id": f"'{another(session)}'"})
    for _ in range(2):
        copy(session, job_id, {"unique_key": "NULL"})


def another(session: Session) -> UUID:
    return accounts.principal(session).account_id
