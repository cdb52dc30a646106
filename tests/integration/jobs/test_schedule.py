"""When jobs are staged, and what finds those whose message has vanished."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app import db
from app.delivery import recovery, schedule
from app.jobs import service, statistics
from app.jobs.models import Job
from app.outbox import service as outbox_service
from tests.factories import accounts, jobs
from tests.integration.jobs.steps import (
    TYPE,
    Work,
    cancel,
    change,
    claim,
    enqueue,
    look,
    outbox,
    perform,
    publish_all,
    staged_ids,
)


def wait(days: float = 1, **fields: Any) -> Job:
    """A job that waits in the database for its time."""
    with db.transaction() as session:
        job = jobs.scheduled(session, days=days, job_type=TYPE, **fields)
        session.expunge_all()
    return job


def due(seconds: float, **fields: Any) -> Job:
    """A job that has waited in the database, and whose time has come since."""
    job = wait(**fields)
    change(job, scheduled_at=datetime.now(UTC) - timedelta(seconds=seconds))
    return job


def stage_due() -> int:
    with db.transaction() as session:
        return service.stage_due(session)


def test_jobs_are_staged_by_their_time_and_then_by_their_priority() -> None:
    moment = datetime.now(UTC) - timedelta(seconds=20)
    late, latest = due(30, priority=-9), due(40, priority=0)
    together = {priority: due(0, priority=priority) for priority in (0, 9, -9, 5, 4, -1)}
    for job in together.values():
        change(job, scheduled_at=moment)

    assert stage_due() == 8

    by_priority = [together[priority].id for priority in (9, 5, 4, 0, -1, -9)]
    assert staged_ids() == [latest.id, late.id, *by_priority]
    assert [row.queue for row in outbox()] == [
        "jobs-default", "jobs-low",
        "jobs-high", "jobs-high", "jobs-default", "jobs-default", "jobs-low", "jobs-low",
    ]  # fmt: skip


def test_a_staged_job_is_a_send_of_its_own_request() -> None:
    job = due(1)
    stage_due()
    row = look(job)
    assert (row.status, row.send_no) == ("PENDING", 1)
    assert row.accepted_at is not None
    assert [(row.task, row.kwargs) for row in outbox()] == [
        ("jobs.run", {"job_id": str(job.id), "send_no": 1, "request_id": None})
    ]
    assert stage_due() == 0, "once"


@pytest.mark.parametrize("days", [0.001, 1, 400])
def test_a_job_of_the_future_waits_in_the_database_alone(days: float) -> None:
    job = wait(days)
    assert stage_due() == 0
    assert (outbox(), look(job).send_no, look(job).accepted_at) == ([], 0, None)


def test_a_job_whose_time_has_passed_is_staged_by_its_enqueue() -> None:
    job = enqueue(scheduled_at=datetime(2000, 1, 1, tzinfo=UTC))
    assert staged_ids() == [job.id]
    assert stage_due() == 0


def test_an_enqueue_stages_its_own_job_and_no_other() -> None:
    due(60)
    job = enqueue()
    assert staged_ids() == [job.id]


def test_nothing_is_staged_of_an_enqueue_that_is_undone(session: Session) -> None:
    jobs.enqueued(session, job_type=TYPE)
    session.rollback()
    assert outbox() == []


def test_two_stagers_at_once_take_each_job_once(engine: Engine) -> None:
    """The second does not wait for the first: it takes what is left."""
    first_ones = [due(100 - number) for number in range(3)]
    with pytest.MonkeyPatch.context() as patch, Session(engine) as first:
        patch.setattr(schedule, "LIMIT", 2)
        assert service.stage_due(first) == 2
        assert stage_due() == 1
        assert staged_ids() == [first_ones[2].id]
        first.commit()
    assert set(staged_ids()) == {job.id for job in first_ones}
    assert len(staged_ids()) == 3


def test_a_look_takes_a_portion_and_the_next_one_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "LIMIT", 2)
    waiting = [due(100 - number) for number in range(5)]
    assert [stage_due() for _ in range(4)] == [2, 2, 1, 0]
    assert staged_ids() == [job.id for job in waiting]


def test_a_portion_of_one_moment_is_the_highest_priorities(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedule, "LIMIT", 2)
    moment = datetime.now(UTC) - timedelta(seconds=20)
    waiting = {priority: due(0, priority=priority) for priority in (0, 9, -9, 5)}
    for job in waiting.values():
        change(job, scheduled_at=moment)
    assert stage_due() == 2
    assert staged_ids() == [waiting[9].id, waiting[5].id]


def test_a_job_that_is_cancelled_before_its_time_is_never_staged() -> None:
    job = wait()
    assert cancel(job).status == "CANCELLED"
    change(job, scheduled_at=datetime(2000, 1, 1, tzinfo=UTC))
    assert stage_due() == 0
    assert (look(job).send_no, outbox()) == (0, [])


def test_a_cancel_and_a_stager_at_once_leave_nothing_half_done(engine: Engine, work: Work) -> None:
    """The stager passes over the row that is being cancelled."""
    job = due(1)
    with Session(engine) as first:
        first.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": job.id})
        assert stage_due() == 0
    assert stage_due() == 1
    cancel(job)
    assert perform(job).reason == "cancelled"
    assert work.executions == []


def test_what_waits_is_told_by_band_and_not_before_its_time(work: Work) -> None:
    wait(priority=9)
    for priority in (9, 5, 0):
        enqueue(priority=priority)
    runs = enqueue(priority=-1)
    claim(runs)
    with db.transaction() as session:
        session.execute(
            text("UPDATE jobs SET accepted_at = now() - interval '1 hour' WHERE priority = 5")
        )
        found = {each.band: each for each in statistics.waiting(session)}
    assert {band: each.pending for band, each in found.items()} == {
        "high": 2, "default": 1, "low": 0,
    }  # fmt: skip
    assert 3600 <= found["high"].oldest_age < 3660
    assert found["default"].oldest_age < 60
    assert found["low"].oldest_age == 0


# --- messages that have vanished ----------------------------------------------------------------


def recover(queue: str = "jobs-default", **options: Any) -> list[Any]:
    values = {"visible_depth": 0, "untouched_for": timedelta(0), **options}
    with db.transaction() as session:
        return list(recovery.recover_stalled(session, Job, queue, **values))


def restaged(work: Work, priority: int) -> Job:
    job = enqueue(priority=priority)
    work.raises(RuntimeError())
    perform(job)
    return job


def test_a_sweep_finds_what_is_open_and_belongs_to_its_queue(work: Work) -> None:
    expected = {}
    for queue, priority in (("jobs-high", 5), ("jobs-default", 4), ("jobs-low", -1)):
        pending, runs = enqueue(priority=priority), enqueue(priority=priority)
        claim(runs)
        expected[queue] = {pending.id, runs.id, restaged(work, priority).id}
    publish_all()
    for queue, ids in expected.items():
        assert set(recover(queue)) == ids
    assert {row.queue for row in outbox()} == expected.keys()
    for queue in expected:
        assert recover(queue) == [], "they are on their way"


@pytest.mark.parametrize(
    ("executions", "status"), [(0, "PENDING"), (1, "RETRY_PENDING")], ids=["never ran", "ran"]
)
def test_what_is_recovered_keeps_its_send_and_its_executions(executions: int, status: str) -> None:
    job = enqueue()
    if executions:
        claim(job)
    publish_all()
    assert recover() == [job.id]
    row = look(job)
    assert (row.status, row.executions, row.send_no, row.carrier, row.receive, row.restages) == (
        status, executions, 1, None, 0, 0,
    )  # fmt: skip
    assert perform(job, message="m2").reason == "done"


def test_a_sweep_never_touches_what_waits_for_its_time() -> None:
    future, come = wait(), due(3600)
    assert recover() == []
    assert (look(future).send_no, look(come).send_no) == (0, 0)


def test_a_sweep_leaves_what_has_ended(work: Work) -> None:
    done, cancelled, failed = enqueue(), enqueue(), enqueue(max_retries=0)
    perform(done)
    cancel(cancelled)
    work.raises(RuntimeError())
    perform(failed, message="m3")
    publish_all()
    assert recover() == []


def test_nothing_is_recovered_while_something_may_be_on_its_way() -> None:
    job = enqueue()
    assert recover() == [], "it is in the outbox"
    publish_all()
    assert recover(visible_depth=1) == []
    assert recover(untouched_for=timedelta(minutes=20)) == []
    assert recover() == [job.id]


def test_progress_is_a_touch() -> None:
    """A processor that tells how far it is has not vanished, however long it takes."""
    with db.transaction() as session:
        owner = accounts.principal(session)
        job = jobs.enqueued(session, owner=owner, job_type=TYPE)
        session.expunge_all()
    claim(job)
    publish_all()
    with db.transaction() as session:
        # The trigger would not let its clock be turned back.
        session.execute(text("ALTER TABLE jobs DISABLE TRIGGER guard_job"))
        session.execute(text("UPDATE jobs SET updated_at = now() - interval '1 hour'"))
        session.execute(text("ALTER TABLE jobs ENABLE TRIGGER guard_job"))
    change(job, progress=10)
    assert recover(untouched_for=timedelta(minutes=20)) == []


def test_what_waits_out_its_back_off_in_the_outbox_is_not_staged_twice(work: Work) -> None:
    work.raises(RuntimeError())
    job = enqueue(max_retries=20)
    publish_all()
    assert perform(job, 5, last=True, delay=120).reason == "restaged"
    assert recover() == []
    assert len(outbox()) == 1


def test_a_job_whose_own_task_is_parked_waits_for_an_operator() -> None:
    enqueue()
    with db.transaction() as session:
        session.execute(
            text("UPDATE outbox SET refusals = :n, available_at = 'infinity'"),
            {"n": outbox_service.MAX_REFUSALS},
        )
    assert recover() == []
    assert len(outbox()) == 1
