"""The statements of jobs find their rows by an index, whatever the table holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.accounts.service import Principal
from app.delivery import recovery
from app.delivery import service as delivery
from app.jobs import service, statistics
from app.jobs.models import Job
from tests.factories import accounts, jobs
from tests.integration.delivery.steps import Delivery
from tests.integration.jobs.steps import TYPE
from tests.integration.plans import plans

ACCOUNTS = 20  # account n has the jobs n, n + 20, …
JOBS = 5_000


@pytest.fixture
def owner(session: Session) -> Principal:
    """The owner of one of many accounts with many jobs: most of them have completed, of the others
    some wait for a worker, some for their time."""
    principals = [accounts.principal(session) for _ in range(ACCOUNTS)]
    session.execute(
        text(
            "INSERT INTO jobs (account_id, job_type, payload, priority, unique_key, created_at,"
            " scheduled_at) SELECT (:ids)[1 + n % :accounts], 'test.act', '{}', n % 10,"
            " 'key-' || n, now() - n * interval '1 s', now() + interval '1 day'"
            " FROM generate_series(1, :n) AS n"
        ),
        {"ids": [each.account_id for each in principals], "accounts": ACCOUNTS, "n": JOBS},
    )
    nth = "substr(unique_key, 5)::int / 20"
    session.execute(text(f"UPDATE jobs SET send_no = 1, accepted_at = now() WHERE {nth} % 5 <> 0"))
    for status in ("PROCESSING", "COMPLETED"):
        session.execute(
            text(f"UPDATE jobs SET status = '{status}' WHERE send_no = 1 AND {nth} % 7 <> 0")
        )
    session.execute(text("ANALYZE jobs"))
    return principals[0]


def listed(session: Session, owner: Principal, **filters: Any) -> None:
    page = service.list_jobs(session, owner, limit=5, **filters)
    service.list_jobs(session, owner, limit=5, before=(page[-1].created_at, page[-1].id), **filters)


@pytest.mark.parametrize("filters", [{}, {"status": "COMPLETED"}, {"job_type": TYPE}], ids=repr)
def test_a_page_is_read_from_its_index_in_order(
    session: Session, owner: Principal, filters: dict[str, Any]
) -> None:
    first, second = plans(session, lambda: listed(session, owner, **filters))
    for plan in (first, second):
        assert "Index Scan Backward using ix_jobs_account_created on jobs" in plan
        assert "Sort" not in plan, "the index has the order"
    # The place is part of the search: a late page costs as little as the first.
    assert "ROW(created_at, id) <" in second.replace("jobs.", "")


def recover(session: Session) -> None:
    recovery.recover_stalled(
        session, Job, "jobs-default", visible_depth=0, untouched_for=timedelta(minutes=20)
    )


def claim(session: Session) -> None:
    job = session.execute(text("SELECT id FROM jobs WHERE status = 'PENDING' LIMIT 1")).scalar_one()
    delivery.claim(session, Job, job, 1, Delivery())


ASKED: dict[str, tuple[Callable[[Session, Principal], Any], str]] = {
    "what is due": (lambda session, _: service.stage_due(session), "ix_jobs_due"),
    "what has stalled": (lambda session, _: recover(session), "ix_jobs_stalled"),
    "what waits": (lambda session, _: statistics.waiting(session), "ix_jobs_waiting"),
    "an account's counts": (
        lambda session, owner: service.summary(session, owner.account_id),
        "ix_jobs_account_",  # of one account, by whichever is smaller
    ),
    "the live job of a key": (
        lambda session, owner: jobs.enqueued(session, owner=owner, unique_key="key-140"),
        "uq_jobs_live_key",
    ),
    "what to claim": (lambda session, _: claim(session), "pk_jobs"),
    "what to cancel": (
        lambda session, owner: service.cancel(
            session, owner, service.list_jobs(session, owner, limit=1, status="PENDING")[0].id
        ),
        "pk_jobs",
    ),
}


@pytest.mark.parametrize(("ask", "index"), ASKED.values(), ids=ASKED.keys())
def test_each_question_is_answered_by_its_index(
    session: Session,
    owner: Principal,
    ask: Callable[[Session, Principal], Any],
    index: str,
) -> None:
    # On a table of this size reading it whole may be cheaper; it must not be the only way.
    session.execute(text("SET LOCAL enable_seqscan = off"))
    session.execute(text("SET LOCAL enable_hashagg = off"))
    session.execute(text("SET LOCAL enable_sort = off"))
    # A bitmap of the same index is as good, and named elsewhere in the plan.
    session.execute(text("SET LOCAL enable_bitmapscan = off"))
    found = plans(session, lambda: ask(session, owner))
    assert any(f"using {index}" in plan for plan in found), found


def test_the_numbers_of_all_jobs_are_read_from_the_newest_ones(
    session: Session, owner: Principal
) -> None:
    """An operator's throughput looks at the last hour, and not at what has ever completed."""
    session.execute(text("SET LOCAL enable_bitmapscan = off"))
    session.execute(text("UPDATE jobs SET completed_at = now() - interval '1 day'"))
    session.execute(text("ANALYZE jobs"))
    operator = Principal(owner.account_id, "operator")
    found = plans(session, lambda: statistics.stats(session, operator))
    assert [plan for plan in found if "using ix_jobs_completed on jobs" in plan] == found[-3:]


def test_what_is_due_is_read_in_its_order(session: Session, owner: Principal) -> None:
    """A look that finds more than it takes reads no more than it takes."""
    jobs.scheduled(session, owner=owner)
    (plan,) = plans(session, lambda: service.stage_due(session))
    due = plan[plan.index("CTE due") : plan.index("CTE queued")]
    assert "Index Scan using ix_jobs_due" in due
    assert "Sort" not in due


def test_a_new_job_with_a_time_is_one_look_up_and_one_insert(
    session: Session, owner: Principal
) -> None:
    moment = datetime.now(UTC) + timedelta(days=1)
    for plan in plans(session, lambda: jobs.enqueued(session, owner=owner, scheduled_at=moment)):
        assert "Seq Scan on jobs" not in plan
