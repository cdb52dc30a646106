"""`perform()`: what becomes of a job, its attempts and its message, whatever its processor does."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import marshmallow as ma
import pytest
from sqlalchemy import select, text

from app import db
from app.delivery import service as delivery
from app.delivery.errors import CalledOff, PermanentError, TimedOut, TransientError
from app.delivery.models import DeadLetter, Redrive
from app.delivery.service import NEVER_EXECUTED, OUTCOME_UNKNOWN, Settle, Verdict
from app.jobs import processors, service
from app.jobs.errors import NotRetryable
from app.jobs.processors import Context, JobView
from app.observability import context as log_context
from app.observability import metrics
from app.outbox import service as outbox
from tests.integration.api import Events, samples
from tests.integration.jobs.steps import (
    TYPE,
    Work,
    attempts,
    cancel,
    change,
    claim,
    enqueue,
    look,
    outcomes,
    perform,
    publish_all,
    reconcile,
    retry,
)
from tests.integration.jobs.steps import outbox as staged
from tests.integration.outage import Outage

BUSY = TransientError("BUSY", "later")
REFUSED = PermanentError("REFUSED", "never")

#: Receives that a queue of jobs gives a message (queues.json).
RECEIVES = 5


class Interrupted(Exception):
    """What a time limit raises."""


def state(job: Any) -> tuple[str, str | None, str | None]:
    row = look(job)
    return row.status, row.failure, row.last_error


# --- success ------------------------------------------------------------------------------------


def test_what_a_processor_returns_is_the_result(work: Work) -> None:
    work.act = lambda *_: {"sum": [1, 2.5, None, True, "鍵 🔑"]}
    job = enqueue(payload={"number": "7"}, priority=3)

    assert perform(job) == Verdict(Settle.DELETE, "done", "COMPLETED")

    row = look(job)
    assert (row.status, row.progress, row.last_error) == ("COMPLETED", 100, None)
    assert row.result == {"sum": [1, 2.5, None, True, "鍵 🔑"]}
    assert row.scheduled_at <= row.started_at <= row.completed_at
    assert work.payloads == [{"number": 7}], "as its schema reads it"
    assert row.payload == {"number": "7"}, "as it was asked for"
    assert outcomes(job) == ["sent"]


@pytest.mark.parametrize("result", [None, 0, "", [], {}, False, "\\u0000 is no NUL", "x" * 65534])
def test_any_small_json_is_a_result(work: Work, result: Any) -> None:
    work.act = lambda *_: result
    job = enqueue()
    assert perform(job).reason == "done"
    assert look(job).result == result


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


NO_RESULTS: dict[str, Any] = {
    "no JSON": object(),
    "a set": {1},
    "a key that is no text": {(1, 2): 3},
    "NaN": float("nan"),
    "infinite": [float("inf")],
    "too large": "x" * 65535,
    "NUL": "a\x00b",
    "NUL, deep down": {"a": [{"b\x00": 1}]},
    "half of a surrogate pair": {"a": "\ud83d"},
    "half of a surrogate pair as a key": {"\udc00": 1},
    "nested too deeply": nested(20_000),
}


@pytest.mark.parametrize("result", NO_RESULTS.values(), ids=NO_RESULTS.keys())
def test_what_cannot_be_kept_is_no_result_and_no_retry_would_make_it_one(
    work: Work, result: Any
) -> None:
    work.act = lambda *_: result
    job = enqueue()
    assert perform(job) == Verdict(Settle.DELETE, "permanent", "FAILED")
    row = look(job)
    assert (row.failure, row.result, row.progress) == ("permanent", None, 0)
    assert (row.last_error or "").startswith("INVALID_RESULT: ")
    assert outcomes(job) == ["permanent"]


def test_a_result_that_holds_itself_is_none(work: Work) -> None:
    ring: list[Any] = []
    ring.append(ring)
    work.act = lambda *_: ring
    job = enqueue()
    assert perform(job).reason == "permanent"
    assert (look(job).last_error or "").startswith("INVALID_RESULT: ")


def test_a_processor_knows_its_job_and_nothing_more(work: Work) -> None:
    seen: list[JobView] = []
    work.act = lambda context, _: seen.append(context.job)
    job = enqueue(priority=-3)
    perform(job)
    assert seen == [JobView(job.id, TYPE, job.account_id, -3, 1)]


def test_the_idempotency_key_is_the_same_at_each_execution_and_of_no_other_job(work: Work) -> None:
    work.raises(BUSY)
    job, other = enqueue(), enqueue()
    for receive in (1, 2, 3):
        perform(job, receive)
    perform(other, message="m2")
    first, second, third, others = work.idempotency_keys
    assert first == second == third != others
    assert work.executions == [1, 2, 3, 1]


# --- progress -----------------------------------------------------------------------------------


def test_progress_is_seen_while_the_processor_runs(work: Work) -> None:
    seen = []

    def act(context: Context, _: Any) -> None:
        for percent, note in ((10, "begun"), (250, None), (-1, "字" * 300), (55.9, "half")):
            context.progress(percent, note)
            row = look(job)
            seen.append((row.status, row.progress, row.progress_note))
        raise BUSY

    work.act = act
    job = enqueue()
    perform(job)
    assert seen == [
        ("PROCESSING", 10, "begun"),
        ("PROCESSING", 100, None),
        ("PROCESSING", 0, "字" * 200),
        ("PROCESSING", 55, "half"),
    ]
    row = look(job)
    assert (row.status, row.progress, row.progress_note) == ("RETRY_PENDING", 55, "half")


@pytest.mark.parametrize("note", ["a\x00b", "a\ud83db"], ids=["NUL", "half of a pair"])
def test_a_note_that_cannot_be_kept_stops_no_processor(work: Work, note: str) -> None:
    def act(context: Context, _: Any) -> str:
        context.progress(50, note)
        return look(job).progress_note or ""

    work.act = act
    job = enqueue()
    assert perform(job).reason == "done"
    assert look(job).result in ("a\ufffdb", "a?b")


def overtaken(job: Any, work: Work, then: Callable[[Context], Any]) -> Callable[..., Any]:
    """The first execution goes on while the next receive runs, fails and is to be retried."""

    def act(context: Context, _: Any) -> Any:
        if context.job.execution == 2:
            context.progress(20, "second")
            raise BUSY
        context.progress(10, "first")
        assert perform(job, 2).status == "RETRY_PENDING"
        return then(context)

    return act


def test_the_progress_of_an_overtaken_execution_changes_nothing(work: Work) -> None:
    job = enqueue()

    def go_on(context: Context) -> None:
        context.progress(90, "zombie")
        raise BUSY

    work.act = overtaken(job, work, go_on)
    assert perform(job) == Verdict(Settle.LEAVE, "fenced", "-")
    row = look(job)
    assert (row.status, row.progress, row.progress_note) == ("RETRY_PENDING", 20, "second")
    assert outcomes(job) == ["lost", "transient"]


def test_two_executions_at_once_show_the_progress_of_the_newer_one(work: Work) -> None:
    zombie: list[Context] = []

    def act(context: Context, _: Any) -> None:
        if context.job.execution == 1:
            zombie.append(context)
            perform(job, 2)
            return
        context.progress(20, "second")
        zombie[0].progress(90, "zombie")
        row = look(job)
        assert (row.progress, row.progress_note) == (20, "second")

    work.act = act
    job = enqueue()
    perform(job)
    assert outcomes(job) == ["lost", "sent"]


def test_the_progress_of_a_job_that_was_given_up_changes_nothing(work: Work) -> None:
    def act(context: Context, _: Any) -> None:
        assert reconcile(job) == "failed"
        context.progress(90, "zombie")
        raise BUSY

    work.act = act
    job = enqueue(max_retries=0)
    perform(job)
    row = look(job)
    assert (row.status, row.progress, row.progress_note) == ("FAILED", 0, None)


def test_the_success_of_an_overtaken_execution_counts(work: Work) -> None:
    """The effect has happened, whoever is asked."""
    job = enqueue()
    work.act = overtaken(job, work, lambda _: "late")
    assert perform(job) == Verdict(Settle.DELETE, "done", "COMPLETED")
    assert look(job).result == "late"
    assert outcomes(job) == ["sent", "transient"]
    assert perform(job, 3).reason == "already_done"


# --- failure and retry --------------------------------------------------------------------------


def test_a_failure_is_retried_until_the_retries_are_spent(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue(max_retries=3)
    for receive in (1, 2, 3):
        assert perform(job, receive) == Verdict(Settle.RETRY, "transient", "RETRY_PENDING")
        row = look(job)
        assert (row.status, row.retry_count, row.last_error, row.completed_at) == (
            "RETRY_PENDING", receive - 1, "BUSY: later", None,
        )  # fmt: skip
    assert perform(job, 4) == Verdict(Settle.DELETE, "exhausted", "FAILED")
    row = look(job)
    assert (row.failure, row.last_error, row.retry_count) == ("exhausted", "BUSY: later", 3)
    assert row.completed_at is not None
    assert outcomes(job) == ["transient"] * 4
    assert work.executions == [1, 2, 3, 4]
    assert len(staged()) == 1, "the visibility timeout retries, and not the outbox"


def test_a_job_without_retries_has_one_execution(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue(max_retries=0)
    assert perform(job) == Verdict(Settle.DELETE, "exhausted", "FAILED")
    assert perform(job, 2) == Verdict(Settle.DELETE, "exhausted", "FAILED")
    assert work.executions == [1]


def test_more_retries_than_a_queue_has_receives_go_on_with_another_message(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue(max_retries=20)
    verdicts: list[str] = []
    for number in range(5):
        publish_all()
        for receive in range(1, RECEIVES + 1):
            last = receive == RECEIVES
            verdict = perform(job, receive, message=f"m{number}", last=last, delay=120)
            verdicts.append(verdict.reason)
            if verdict.reason == "restaged":
                assert verdict.settle is Settle.DELETE
                [row] = staged()
                assert row.available_at - row.created_at == timedelta(seconds=120)
                with db.transaction() as session:
                    assert outbox.take(session, limit=10) == [], "not before its back-off"
                assert (look(job).carrier, look(job).receive) == (None, 0)
            if verdict.status == "FAILED":
                break
    rounds = ["transient"] * 4 + ["restaged"]
    assert verdicts == [*rounds, *rounds, *rounds, *rounds, "exhausted"]
    assert work.executions == list(range(1, 22))
    row = look(job)
    assert (row.status, row.retry_count, row.restages, row.send_no) == ("FAILED", 20, 0, 1)
    assert staged() == []


def test_the_message_before_a_restaged_one_is_a_duplicate(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue(max_retries=20)
    perform(job, 5, last=True)
    perform(job, 1, message="m2")
    assert perform(job, 6) == Verdict(Settle.DELETE, "another_carrier", "RETRY_PENDING")


def test_success_at_a_retry_forgets_the_error(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue()
    perform(job)
    first = look(job).started_at
    work.act = lambda *_: 1
    assert perform(job, 2).reason == "done"
    row = look(job)
    assert (row.last_error, row.retry_count, row.started_at) == (None, 1, first)
    assert outcomes(job) == ["transient", "sent"]


ERRORS: list[tuple[Exception, str, str, str]] = [
    (BUSY, "RETRY_PENDING", "transient", "BUSY: later"),
    (TimedOut("SLOW", "no answer"), "RETRY_PENDING", "timeout", "SLOW: no answer"),
    (REFUSED, "FAILED", "permanent", "REFUSED: never"),
    (ZeroDivisionError("secret"), "RETRY_PENDING", "transient", "UNEXPECTED: ZeroDivisionError"),
    (MemoryError("secret"), "RETRY_PENDING", "transient", "UNEXPECTED: MemoryError"),
    (
        Interrupted("secret"),
        "RETRY_PENDING",
        "timeout",
        "TIME_LIMIT: the execution passed its time limit",
    ),
    # Whatever text a processor gives is kept as far as it can be.
    (PermanentError("NO", "a\x00b"), "FAILED", "permanent", "NO: a\ufffdb"),
    (PermanentError("NO", "a\ud83db"), "FAILED", "permanent", "NO: a?b"),
    (TransientError("X" * 100, "no"), "RETRY_PENDING", "transient", f"{'X' * 80}: no"),
]


@pytest.mark.parametrize(
    ("error", "status", "outcome", "said"), ERRORS, ids=[repr(case[0]) for case in ERRORS]
)
def test_what_a_processor_raises_decides(
    work: Work, error: Exception, status: str, outcome: str, said: str
) -> None:
    work.raises(error)
    job = enqueue()
    perform(job, interruptions=(Interrupted,))
    row = look(job)
    assert (row.status, row.last_error) == (status, said)
    [attempt] = attempts(job)
    assert (attempt.outcome, f"{attempt.error_code}: {attempt.error_message}") == (outcome, said)


def test_a_permanent_failure_is_not_tried_again(work: Work) -> None:
    work.raises(REFUSED)
    job = enqueue(max_retries=20)
    assert perform(job, last=True) == Verdict(Settle.DELETE, "permanent", "FAILED")
    assert perform(job, 2) == Verdict(Settle.DELETE, "already_failed", "FAILED")
    assert len(staged()) == 1


class Younger(ma.Schema):
    number = ma.fields.Integer(validate=ma.validate.Range(min=2))


def test_a_payload_that_its_schema_no_longer_takes_fails_at_once(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema may be younger than the job."""
    job = enqueue(payload={"number": 1})
    known = processors.find(TYPE)
    assert known is not None
    younger = replace(known, schema=Younger(unknown=ma.RAISE))
    monkeypatch.setitem(processors._registry, TYPE, younger)
    assert perform(job) == Verdict(Settle.DELETE, "permanent", "FAILED")
    status, failure, error = state(job)
    assert (status, failure) == ("FAILED", "permanent")
    assert error is not None
    code, _, details = error.partition(": the payload is not valid: ")
    assert code == "INVALID_PAYLOAD"
    assert json.loads(details).keys() == {"number"}
    assert work.executions == [], "the processor never saw it"


def test_a_type_that_this_worker_does_not_know_fails_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = enqueue()
    monkeypatch.delitem(processors._registry, TYPE)
    assert perform(job) == Verdict(Settle.DELETE, "permanent", "FAILED")
    assert state(job)[2] == "UNKNOWN_JOB_TYPE: this worker has no processor for it"
    assert outcomes(job) == ["permanent"]


# --- killed workers, lost and buried messages ---------------------------------------------------


def test_the_next_receive_takes_over_from_a_killed_worker(work: Work) -> None:
    job = enqueue()
    claim(job)
    assert look(job).status == "PROCESSING"
    assert perform(job, 1) == Verdict(Settle.LEAVE, "not_newer", "PROCESSING")
    assert perform(job, 2).reason == "done"
    assert outcomes(job) == ["lost", "sent"]
    assert work.executions == [2]


def test_a_worker_killed_at_the_last_execution_leaves_an_unknown_outcome(work: Work) -> None:
    job = enqueue(max_retries=1)
    work.raises(BUSY)
    perform(job, 1)
    claim(job, 2)
    assert perform(job, 3) == Verdict(Settle.DELETE, "exhausted", "FAILED")
    assert state(job) == ("FAILED", "unknown", OUTCOME_UNKNOWN)
    assert outcomes(job) == ["transient", "lost"]
    assert work.executions == [1]
    assert perform(job, 4) == Verdict(Settle.DELETE, "exhausted", "FAILED")


def test_a_success_that_comes_after_the_job_was_given_up_completes_it(work: Work) -> None:
    def act(context: Context, _: Any) -> str:
        assert perform(job, 2) == Verdict(Settle.DELETE, "exhausted", "FAILED")
        assert state(job)[0] == "FAILED"
        return "late"

    work.act = act
    job = enqueue(max_retries=0)
    assert perform(job) == Verdict(Settle.DELETE, "done", "COMPLETED")
    assert (*state(job), look(job).result) == ("COMPLETED", None, None, "late")
    assert outcomes(job) == ["sent"]


def test_a_dead_letter_with_executions_left_is_staged_again(work: Work) -> None:
    job = enqueue()
    claim(job)
    publish_all()
    assert reconcile(job) == "restaged"
    row = look(job)
    assert (row.status, row.carrier, row.receive, row.restages) == ("RETRY_PENDING", None, 0, 1)
    assert [(row.queue, row.kwargs["job_id"]) for row in staged()] == [
        ("jobs-default", str(job.id))
    ]
    assert reconcile(job) is None, "only the first sight decides"
    assert perform(job, message="m2").reason == "done"
    assert outcomes(job) == ["lost", "sent"]


def test_a_dead_letter_of_a_job_that_no_execution_touched_leaves_it_pending() -> None:
    job = enqueue()
    for number in range(3):
        assert reconcile(job, f"m{number}") == "restaged"
        assert look(job).status == "PENDING"
    assert reconcile(job, "m3") == "failed"
    assert state(job) == ("FAILED", "unknown", NEVER_EXECUTED)


def test_a_dead_letter_without_executions_left_fails_its_job() -> None:
    job = enqueue(max_retries=0)
    claim(job)
    assert reconcile(job) == "failed"
    assert state(job) == ("FAILED", "unknown", OUTCOME_UNKNOWN)
    assert outcomes(job) == ["lost"]


SETTLED: dict[str, Callable[[Any, Work], Any]] = {
    "COMPLETED": lambda job, _: perform(job),
    "CANCELLED": lambda job, _: cancel(job),
    "FAILED": lambda job, work: (work.raises(REFUSED), perform(job)),
}


@pytest.mark.parametrize("status", SETTLED)
def test_a_dead_letter_of_a_job_that_has_ended_is_only_remembered(work: Work, status: str) -> None:
    job = enqueue()
    SETTLED[status](job, work)
    publish_all()
    assert reconcile(job) is None
    assert (look(job).status, staged()) == (status, [])
    with db.transaction() as session:
        assert session.get(DeadLetter, "m1") is not None


# --- cancel -------------------------------------------------------------------------------------


def test_a_cancelled_job_never_starts_and_its_message_is_deleted(work: Work) -> None:
    job = enqueue()
    cancel(job)
    assert perform(job) == Verdict(Settle.DELETE, "cancelled", "CANCELLED")
    assert (work.executions, attempts(job)) == ([], [])


def test_a_job_between_two_executions_is_cancelled_at_once(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue()
    perform(job)
    assert cancel(job).status == "CANCELLED"
    assert perform(job, 2) == Verdict(Settle.DELETE, "cancelled", "CANCELLED")
    assert work.executions == [1]


def stop_when_asked(context: Context) -> None:
    assert context.is_cancelled()
    context.stop_if_cancelled()


def raise_busy(_: Context) -> None:
    raise BUSY


def raise_bug(_: Context) -> None:
    raise ZeroDivisionError


def raise_time_limit(_: Context) -> None:
    raise Interrupted


@pytest.mark.parametrize(
    "then", [stop_when_asked, raise_busy, raise_bug, raise_time_limit], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("last", [False, True])
def test_a_job_that_runs_ends_as_cancelled_when_its_processor_stops(
    work: Work, then: Callable[[Context], None], last: bool
) -> None:
    def act(context: Context, _: Any) -> None:
        assert not context.is_cancelled()
        context.stop_if_cancelled()
        assert cancel(job).status == "PROCESSING"
        then(context)
        pytest.fail("went on")

    work.act = act
    job = enqueue(max_retries=0 if last else 3)
    verdict = perform(job, last=last, interruptions=(Interrupted,))
    assert verdict == Verdict(Settle.DELETE, "cancelled", "CANCELLED")
    row = look(job)
    assert (row.failure, row.last_error, row.result) == (None, None, None)
    assert row.completed_at is not None
    assert outcomes(job) == ["cancelled"]
    assert len(staged()) == 1


def test_a_job_that_was_asked_to_stop_and_did_not_look_has_completed(work: Work) -> None:
    def act(*_: Any) -> str:
        cancel(job)
        return "done anyway"

    work.act = act
    job = enqueue()
    assert perform(job).reason == "done"
    row = look(job)
    assert (row.status, row.result, row.cancel_requested) == ("COMPLETED", "done anyway", True)


def test_a_job_that_was_asked_to_stop_and_failed_for_good_has_failed(work: Work) -> None:
    def act(*_: Any) -> None:
        cancel(job)
        raise REFUSED

    work.act = act
    job = enqueue()
    perform(job)
    assert state(job) == ("FAILED", "permanent", "REFUSED: never")


def test_a_cancelled_job_whose_worker_died_is_cancelled_at_the_next_receive(work: Work) -> None:
    job = enqueue()
    claim(job)
    assert cancel(job).status == "PROCESSING"
    assert perform(job, 2) == Verdict(Settle.DELETE, "cancelled", "CANCELLED")
    assert work.executions == []
    assert outcomes(job) == ["lost", "cancelled"]


def test_a_cancelled_job_whose_message_died_with_its_worker_is_cancelled(work: Work) -> None:
    job = enqueue()
    claim(job)
    cancel(job)
    assert reconcile(job) == "restaged"
    assert perform(job, message="m2") == Verdict(Settle.DELETE, "cancelled", "CANCELLED")
    assert work.executions == []


def test_a_cancelled_job_whose_worker_died_at_the_last_execution_has_an_unknown_outcome() -> None:
    """CANCELLED would say that nothing was done."""
    job = enqueue(max_retries=0)
    claim(job)
    cancel(job)
    assert perform(job, 2).settle is Settle.DELETE
    assert state(job) == ("FAILED", "unknown", OUTCOME_UNKNOWN)


def test_a_late_success_of_a_cancelled_job_changes_nothing(work: Work) -> None:
    job = enqueue()

    def called_off(_: Context) -> str:
        assert cancel(job).status == "CANCELLED"
        return "late"

    work.act = overtaken(job, work, called_off)
    assert perform(job).settle is Settle.DELETE
    row = look(job)
    assert (row.status, row.result) == ("CANCELLED", None)


def test_a_processor_may_call_itself_off(work: Work) -> None:
    work.raises(CalledOff())
    job = enqueue()
    assert perform(job).status == "CANCELLED"


# --- retry --------------------------------------------------------------------------------------


def test_a_retried_job_begins_again(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue(max_retries=1)
    for receive in (1, 2):
        perform(job, receive)
    publish_all()

    with log_context.bound(request_id="again-1"):
        assert retry(job).status == "PENDING"

    row = look(job)
    assert (row.executions, row.send_no, row.carrier, row.receive) == (0, 2, None, 0)
    assert (row.started_at, row.completed_at, row.failure, row.last_error) == (None,) * 4
    assert [row.kwargs for row in staged()] == [
        {"job_id": str(job.id), "send_no": 2, "request_id": "again-1"}
    ]
    assert perform(job, 3) == Verdict(Settle.DELETE, "stale", "PENDING"), "the message before"
    assert [perform(job, n, message="m2", send_no=2).reason for n in (1, 2)] == [
        "transient", "exhausted",
    ]  # fmt: skip
    assert outcomes(job) == ["transient"] * 4


def test_a_retry_is_written_down(work: Work) -> None:
    work.raises(REFUSED)
    job = enqueue(priority=9)
    perform(job)
    retry(job)
    with db.transaction() as session:
        [audit] = session.scalars(select(Redrive))
    assert (audit.action, audit.outcome, audit.subject_id, audit.send_no, audit.message_id) == (
        "retry", "redriven", job.id, 2, None,
    )  # fmt: skip
    assert (audit.queue, audit.task) == ("jobs-high", "jobs.run")
    assert audit.actor == f"account {job.account_id}"


def test_a_job_may_be_retried_as_often_as_it_fails(work: Work) -> None:
    work.raises(REFUSED)
    job = enqueue()
    perform(job)
    for send_no in (2, 3):
        retry(job)
        with pytest.raises(NotRetryable):
            retry(job)
        perform(job, message=f"m{send_no}", send_no=send_no)
    work.act = lambda *_: "at last"
    retry(job)
    assert perform(job, message="m4", send_no=4).reason == "done"
    assert len(set(work.idempotency_keys)) == 1
    with db.transaction() as session:
        numbers = session.scalars(select(Redrive.send_no).order_by(Redrive.id)).all()
    assert numbers == [2, 3, 4]


def test_a_request_to_stop_does_not_stop_the_retry(work: Work) -> None:
    def act(*_: Any) -> None:
        cancel(job)
        raise REFUSED

    work.act = act
    job = enqueue()
    perform(job)
    retry(job)
    work.act = lambda *_: None
    assert perform(job, message="m2", send_no=2).reason == "done"


def test_a_late_success_of_the_send_before_decides_nothing(work: Work) -> None:
    def act(context: Context, _: Any) -> str:
        reconcile(job)
        retry(job)
        return "late"

    work.act = act
    job = enqueue(max_retries=0)
    perform(job)
    row = look(job)
    assert (row.status, row.send_no, row.result) == ("PENDING", 2, None)


# --- outages ------------------------------------------------------------------------------------


def test_an_outage_inside_a_processor_is_raised_and_nothing_is_recorded(
    work: Work, outage: Outage
) -> None:
    def act(context: Context, _: Any) -> None:
        outage.begin()
        context.progress(50)

    work.act = act
    job = enqueue()
    with pytest.raises(db.OUTAGE_ERRORS):
        perform(job)
    outage.end()
    assert (look(job).status, outcomes(job)) == ("PROCESSING", [None])
    work.act = lambda *_: None
    assert perform(job, 2).reason == "done"
    assert outcomes(job) == ["lost", "sent"]


@pytest.mark.parametrize("error", [None, BUSY, REFUSED], ids=["success", "transient", "permanent"])
def test_an_outcome_without_database_is_raised(
    work: Work, outage: Outage, error: Exception | None
) -> None:
    def act(*_: Any) -> None:
        outage.begin()
        if error:
            raise error

    work.act = act
    job = enqueue()
    with pytest.raises(db.OUTAGE_ERRORS):
        perform(job)
    outage.end()
    assert outcomes(job) == [None]


def test_no_claim_without_database(work: Work, outage: Outage) -> None:
    job = enqueue()
    outage.begin()
    with pytest.raises(db.OUTAGE_ERRORS):
        perform(job)
    outage.end()
    assert (look(job).executions, work.executions) == (0, [])


# --- what is logged and counted -----------------------------------------------------------------


def test_the_lines_of_a_job_carry_who_which_and_how_long(work: Work, events: Events) -> None:
    def act(context: Context, _: Any) -> None:
        logging.getLogger("my_pkg").info("a line of the processor")

    work.act = act
    job = enqueue(payload={"number": 12345})
    events()
    perform(job)
    found = {event["message"]: event for event in events()}
    assert found.keys() == {
        "a line of the processor", "job executed: done",
    }  # fmt: skip
    for event in found.values():
        assert (event["worker_id"], event["job_id"]) == ("worker:1", str(job.id))
        assert "12345" not in json.dumps(event), "ids, never contents"
        assert event["job_type"] == TYPE
    ended = found["job executed: done"]
    assert ended["duration_ms"] >= 0
    assert ended["status"] == "COMPLETED"


ENDS: dict[str, tuple[Exception | None, str]] = {
    "success": (None, "success"),
    "transient": (BUSY, "error"),
    "permanent": (REFUSED, "error"),
    "no result": (None, "error"),
    "cancelled": (CalledOff(), "cancelled"),
}


def counted() -> Counter[tuple[str, str]]:
    exposition = metrics.exposition().decode()
    names = (
        "okuru_jobs_processed_total", "okuru_job_duration_seconds_count", "okuru_settled_total",
    )  # fmt: skip
    found: Counter[tuple[str, str]] = Counter()
    for name in names:
        for known in (name, name.removeprefix("okuru_")):
            for labels, number in samples(exposition, known).items():
                found[name.removeprefix("okuru_"), labels] = int(number)
    return found


@pytest.mark.parametrize("end", ENDS)
def test_each_execution_is_counted_once_by_how_it_ended(work: Work, end: str) -> None:
    error, status = ENDS[end]
    if error:
        work.raises(error)
    elif end == "no result":
        work.act = lambda *_: object()
    before = counted()
    job = enqueue()
    perform(job)
    perform(job)  # a copy, which is not executed
    found = counted() - before
    settled = [name for name in found if name[0] == "settled_total"]
    assert len(settled) == int(end != "transient")
    assert found - Counter(settled) == {
        ("jobs_processed_total", f'job_type="{TYPE}",status="{status}"'): 1,
        ("job_duration_seconds_count", f'job_type="{TYPE}"'): 1,
    }


def test_a_job_of_an_unknown_type_is_counted_as_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    job = enqueue()
    monkeypatch.delitem(processors._registry, TYPE)
    before = counted()
    perform(job)
    name = ("jobs_processed_total", f'job_type="{TYPE}",status="error"')
    assert (counted() - before)[name] == 1


def lateness() -> tuple[float, float]:
    """How many were observed, and their sum."""
    exposition = metrics.exposition().decode()
    (count, total) = (
        next(
            float(line.split()[-1])
            for line in exposition.splitlines()
            if "job_lateness_seconds_" + part in line and not line.startswith("#")
        )
        for part in ("count", "sum")
    )
    return count, total


def test_lateness_is_from_a_jobs_time_to_its_first_execution_and_observed_once(work: Work) -> None:
    work.raises(BUSY)
    job = enqueue()
    ago = timedelta(seconds=100)
    change(job, scheduled_at=job.scheduled_at - ago, created_at=job.created_at - 2 * ago)
    count, total = lateness()
    perform(job)
    perform(job, 2)
    after = lateness()
    assert after[0] - count == 1
    assert 100 <= after[1] - total < 160


def test_a_job_for_a_time_before_it_was_made_is_not_late(work: Work) -> None:
    count, total = lateness()
    perform(enqueue(scheduled_at=datetime(1, 1, 1, tzinfo=UTC)))
    after = lateness()
    assert after[0] - count == 1
    assert after[1] - total < 60


def test_a_retry_by_hand_is_not_late(work: Work) -> None:
    """It was due when its owner asked, and not when the failed run was."""
    work.raises(REFUSED)
    job = enqueue()
    perform(job)
    change(job, scheduled_at=job.scheduled_at - timedelta(days=7))
    retry(job)
    before = lateness()
    perform(job, message="m2", send_no=2)
    assert lateness()[1] - before[1] < 60


def test_a_message_of_no_job_is_tried_again_and_runs_nothing(work: Work) -> None:
    job = enqueue()
    job.id = uuid4()
    assert perform(job) == Verdict(Settle.RETRY, "unknown_subject", "-")
    assert work.executions == []


def test_no_transaction_is_open_while_a_processor_runs(work: Work) -> None:
    seen: list[str] = []
    sessions = text(
        "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    def act(*_: Any) -> None:
        with observer.connect() as connection:
            seen.extend(connection.execute(sessions).scalars())

    work.act = act
    job = enqueue()
    with db.transaction() as session:
        url = session.connection().engine.url.render_as_string(hide_password=False)
    observer = db.engine_for(url, db.OPERATOR)
    perform(job)
    observer.dispose()
    assert seen, "the connections of the pool are there to be seen"
    assert set(seen) == {"idle"}


def test_an_execution_that_its_worker_reports_as_killed_is_retried(work: Work) -> None:
    """The worker's main process speaks for the dead (ADR 11)."""
    job = enqueue()
    held = claim(job)
    killed = delivery.Failure("lost", "WORKER_LOST", "killed by signal 9")
    with db.transaction() as session:
        verdict = delivery.lose(session, service.Job, job.id, 1, held.delivery, killed)
    assert verdict == Verdict(Settle.RETRY, "transient", "RETRY_PENDING")
    assert perform(job, 2).reason == "done"
    assert outcomes(job) == ["lost", "sent"]
