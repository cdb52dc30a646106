"""Each rule of "How a gift is sent" by itself, on the real database."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from app import db
from app.delivery import recovery, service
from app.delivery.models import DeadLetter
from app.delivery.service import Claim, Failure, Settle, Verdict
from app.gifts.models import Gift
from app.outbox import service as outbox
from tests.factories import gifts
from tests.integration.delivery.steps import (
    PERMANENT,
    TRANSIENT,
    Delivery,
    ask,
    attempts,
    change,
    claim,
    fail,
    look,
    outcomes,
    reconcile,
    staged,
    succeed,
)

# --- claim --------------------------------------------------------------------------------------


def test_a_claim_counts_the_execution_and_names_its_carrier(gift: Gift) -> None:
    held = claim(gift, "m1", 2)
    row = look(gift)
    assert (held.execution, row.executions, row.carrier, row.receive) == (1, 1, "m1", 2)
    [attempt] = attempts(gift.id)
    assert (attempt.receive_count, attempt.message_id, attempt.worker, attempt.outcome) == (
        2,
        "m1",
        "worker:1",
        None,
    )


def test_the_next_receive_closes_the_attempt_before_it_as_lost(gift: Gift) -> None:
    claim(gift, "m1", 1)
    assert claim(gift, "m1", 2).execution == 2
    assert outcomes(gift) == ["lost", None]


def exhaust(gift: Gift) -> None:
    for receive in range(1, 6):
        fail(claim(gift, "m1", receive))


def give_up(gift: Gift) -> None:
    change(gift, executions=5, carrier="m1", receive=5)
    assert reconcile(gift) == "failed"


REFUSALS: list[tuple[str, Callable[[Gift], Any], tuple[str, int], tuple[Settle, str]]] = [
    ("sent", lambda gift: succeed(claim(gift)), ("m1", 2), (Settle.DELETE, "already_done")),
    ("sent, a copy", lambda gift: succeed(claim(gift)), ("m2", 1), (Settle.DELETE, "already_done")),
    (
        "failed for good",
        lambda gift: fail(claim(gift), PERMANENT),
        ("m1", 2),
        (Settle.DELETE, "already_failed"),
    ),
    ("another carrier", claim, ("m2", 1), (Settle.DELETE, "another_carrier")),
    ("another carrier, later", claim, ("m2", 4), (Settle.DELETE, "another_carrier")),
    ("the same receive", claim, ("m1", 1), (Settle.LEAVE, "not_newer")),
    (
        "an older receive",
        lambda gift: claim(gift, "m1", 3),
        ("m1", 2),
        (Settle.LEAVE, "not_newer"),
    ),
    ("exhausted", exhaust, ("m1", 6), (Settle.EXPOSE, "exhausted")),
    ("given up", give_up, ("m1", 6), (Settle.EXPOSE, "exhausted")),
    (
        "five executions, the last one lost",
        lambda gift: change(gift, executions=5, carrier="m1", receive=3),
        ("m1", 4),
        (Settle.EXPOSE, "exhausted"),
    ),
    (
        "five executions, staged again",
        lambda gift: change(gift, executions=5),
        ("m2", 1),
        (Settle.EXPOSE, "exhausted"),
    ),
]


@pytest.mark.parametrize(
    ("before", "delivery", "expected"),
    [case[1:] for case in REFUSALS],
    ids=[case[0] for case in REFUSALS],
)
def test_a_delivery_that_may_not_run_is_told_what_becomes_of_it(
    gift: Gift,
    before: Callable[[Gift], Any],
    delivery: tuple[str, int],
    expected: tuple[Settle, str],
) -> None:
    before(gift)
    row, had = look(gift), outcomes(gift)
    verdict = ask(gift, *delivery)
    assert isinstance(verdict, Verdict)
    assert (verdict.settle, verdict.reason) == expected
    assert verdict.status == row.status
    after = look(gift)
    assert (after.executions, after.carrier, after.receive) == (
        row.executions,
        row.carrier,
        row.receive,
    )
    assert outcomes(gift) == had


@pytest.mark.parametrize(
    ("send_no", "expected"),
    [
        (2, (Settle.RETRY, "not_yet_queued", "QUEUED")),
    ],
)
def test_a_message_of_another_send(
    gift: Gift, send_no: int, expected: tuple[Settle, str, str]
) -> None:
    with db.transaction() as session:
        verdict = service.claim(session, Gift, gift.id, send_no, Delivery())
    assert isinstance(verdict, Verdict)
    assert (verdict.settle, verdict.reason, verdict.status) == expected


@pytest.mark.parametrize("send_no", [-1, 2**31, 2**40, True, 1.0, float("nan"), "1", None])
def test_what_is_no_send_number_is_a_mistake(gift: Gift, send_no: Any) -> None:
    with db.transaction() as session, pytest.raises(ValueError, match="send_no"):
        service.claim(session, Gift, gift.id, send_no, Delivery())


def test_a_message_about_nothing_is_tried_again(engine: Engine) -> None:
    with db.transaction() as session:
        verdict = service.claim(session, Gift, uuid4(), 1, Delivery())
    assert verdict == Verdict(Settle.RETRY, "unknown_subject", "-")


def test_a_later_receive_of_a_sent_gift_closes_the_attempt_that_its_worker_left_open(
    gift: Gift,
) -> None:
    slow = claim(gift, "m1", 1)
    claim(gift, "m1", 2)  # dies
    succeed(slow)
    assert outcomes(gift) == ["sent", None]
    ask(gift, "m1", 3)
    assert outcomes(gift) == ["sent", "lost"]


def test_two_connections_race_for_one_claim_and_one_wins(gift: Gift, engine: Engine) -> None:
    """The first holds the row; the second waits for it, and then finds another carrier."""
    answers: list[Any] = []
    with Session(engine) as first:
        winner = service.claim(first, Gift, gift.id, gift.send_no, Delivery("m1"))
        second = threading.Thread(target=lambda: answers.append(ask(gift, "m2")))
        second.start()
        wait_for_a_lock(engine)
        first.commit()
    second.join(10)
    assert isinstance(winner, Claim)
    assert answers == [Verdict(Settle.DELETE, "another_carrier", "QUEUED")]
    assert look(gift).executions == 1


def test_many_copies_at_once_execute_once(gift: Gift) -> None:
    answers: list[Any] = []
    start = threading.Barrier(8)

    def copy(number: int) -> None:
        start.wait(10)
        answers.append(ask(gift, f"m{number}"))

    threads = [threading.Thread(target=copy, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 8
    assert sum(isinstance(answer, Claim) for answer in answers) == 1


def test_a_claim_and_an_older_failure_at_once_do_not_deadlock(gift: Gift, engine: Engine) -> None:
    """Both write the row first, then its attempts."""
    old = claim(gift, "m1", 1)
    answers: list[Any] = []
    with Session(engine) as newer:
        newer.execute(select(Gift.id).where(Gift.id == gift.id).with_for_update())
        failing = threading.Thread(target=lambda: answers.append(fail(old)))
        failing.start()
        wait_for_a_lock(engine)
        answers.append(service.claim(newer, Gift, gift.id, gift.send_no, Delivery("m1", 2)))
        newer.commit()
    failing.join(10)
    assert isinstance(answers[0], Claim)
    assert answers[1] == Verdict(Settle.LEAVE, "fenced", "-")
    assert outcomes(gift) == ["lost", None]


def wait_for_a_lock(engine: Engine) -> None:
    """Until some other session of this database waits for one."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        for _ in range(500):
            if connection.execute(waiting).scalar_one():
                return
            connection.rollback()
            connection.execute(text("SELECT pg_sleep(0.01)"))
    raise AssertionError("nobody waits for a lock")


# --- success ------------------------------------------------------------------------------------


def test_success_is_recorded_once_with_its_latency(gift: Gift) -> None:
    success = succeed(claim(gift))
    assert success.verdict == Verdict(Settle.DELETE, "done", "SENT")
    assert success.latency is not None
    assert 0 <= success.latency < 60
    assert (look(gift).status, outcomes(gift)) == ("SENT", ["sent"])


def test_a_success_that_comes_after_the_row_was_given_up_makes_it_sent(gift: Gift) -> None:
    change(gift, executions=4)
    late = claim(gift, "m1", 5)
    assert reconcile(gift) == "failed"
    row = look(gift)
    assert (row.status, row.failure, outcomes(gift)) == ("FAILED", "unknown", ["lost"])
    assert (row.last_error or "").startswith("OUTCOME_UNKNOWN: ")

    assert succeed(late).verdict == Verdict(Settle.DELETE, "done", "SENT")
    row = look(gift)
    assert (row.status, row.failure, row.last_error) == ("SENT", None, None)
    [attempt] = attempts(gift.id)
    assert (attempt.outcome, attempt.error_code, attempt.error_message) == ("sent", None, None)


def test_an_attempt_closed_as_lost_turns_to_sent(gift: Gift) -> None:
    late = claim(gift, "m1", 1)
    claim(gift, "m1", 2)
    succeed(late)
    assert outcomes(gift) == ["sent", None]
    assert look(gift).status == "SENT"


def test_a_second_success_is_an_unknown_outcome_and_changes_nothing(gift: Gift) -> None:
    late, newer = claim(gift, "m1", 1), claim(gift, "m1", 2)
    succeed(late)
    success = succeed(newer)
    assert success.verdict == Verdict(Settle.DELETE, "already_done", "SENT")
    assert success.latency is None
    assert outcomes(gift) == ["sent", "unknown"]
    assert attempts(gift.id)[1].error_code == "ALREADY_DONE"


# --- failure ------------------------------------------------------------------------------------


def test_a_transient_failure_is_retried_by_the_visibility_timeout(gift: Gift) -> None:
    failure = Failure("transient", "PROVIDER_429", "slow down", retry_after=42)
    assert fail(claim(gift), failure) == Verdict(Settle.RETRY, "transient", "QUEUED", 42)
    row = look(gift)
    assert (row.status, row.carrier, row.last_error) == ("QUEUED", "m1", "PROVIDER_429: slow down")
    assert staged() == 1  # only what the send itself staged


def test_the_fifth_execution_ends_the_send_and_exposes_the_message(gift: Gift) -> None:
    for receive in range(1, 5):
        assert fail(claim(gift, "m1", receive)).settle == Settle.RETRY
    verdict = fail(claim(gift, "m1", 5, last=True))
    assert verdict == Verdict(Settle.EXPOSE, "exhausted", "FAILED")
    row = look(gift)
    assert (row.failure, row.last_error) == ("exhausted", f"PROVIDER_503: {TRANSIENT.message}")
    assert outcomes(gift) == ["transient"] * 5
    assert staged() == 1


def test_a_permanent_failure_ends_the_send_and_deletes_the_message(gift: Gift) -> None:
    assert fail(claim(gift), PERMANENT) == Verdict(Settle.DELETE, "permanent", "FAILED")
    row = look(gift)
    assert (row.status, row.failure, row.executions) == ("FAILED", "permanent", 1)


def test_the_last_receive_with_executions_left_is_staged_again(gift: Gift) -> None:
    """An outage has burnt some receives: SQS would dead-letter what may still run."""
    verdict = fail(claim(gift, "m1", 5, last=True))
    assert verdict == Verdict(Settle.DELETE, "restaged", "QUEUED")
    row = look(gift)
    assert (row.carrier, row.receive, row.executions, row.restages) == (None, 0, 1, 0)
    assert row.last_error == f"PROVIDER_503: {TRANSIENT.message}"
    assert staged() == 2
    assert ask(gift, "m1", 6) is not None
    assert look(gift).send_no == gift.send_no


def test_what_was_staged_again_carries_the_same_send(gift: Gift) -> None:
    fail(claim(gift, "m1", 5, last=True))
    with db.transaction() as session:
        rows = outbox.take(session, limit=10)
    assert [row.kwargs for row in rows] == [
        {"gift_id": str(gift.id), "send_no": 1, "request_id": "key-1"}
    ] * 2
    assert {(row.task, row.queue) for row in rows} == {("gifts.send", "gifts")}


@pytest.mark.parametrize("failure", [TRANSIENT, PERMANENT], ids=["transient", "permanent"])
@pytest.mark.parametrize("last", [False, True])
def test_a_failure_of_an_overtaken_delivery_is_fenced(
    gift: Gift, failure: Failure, last: bool
) -> None:
    old = claim(gift, "m1", 1, last=last)
    claim(gift, "m1", 2)
    assert fail(old, failure) == Verdict(Settle.LEAVE, "fenced", "-")
    row = look(gift)
    assert (row.status, row.receive, row.last_error) == ("QUEUED", 2, None)
    assert outcomes(gift) == ["lost", None]
    assert staged() == 1


def test_a_failure_after_a_success_changes_nothing(gift: Gift) -> None:
    late, newer = claim(gift, "m1", 1), claim(gift, "m1", 2)
    succeed(late)
    assert fail(newer, PERMANENT).settle == Settle.LEAVE
    assert (look(gift).status, outcomes(gift)) == ("SENT", ["sent", "permanent"])


def test_a_long_error_is_cut(gift: Gift) -> None:
    fail(claim(gift), Failure("transient", "CODE", "x" * 5000))
    assert len(look(gift).last_error or "") == service.MAX_ERROR_LENGTH
    assert len(attempts(gift.id)[0].error_message or "") == service.MAX_ERROR_LENGTH


# --- recovery -----------------------------------------------------------------------------------


def test_a_dead_letter_with_executions_left_is_staged_again_at_most_three_times(
    gift: Gift,
) -> None:
    decisions = []
    for number in range(4):
        claim(gift, f"m{number}")
        decisions.append(reconcile(gift, f"m{number}"))
        if decisions[-1] == "restaged":
            row = look(gift)
            assert (row.carrier, row.receive, row.executions) == (None, 0, number + 1)
    assert decisions == ["restaged"] * 3 + ["failed"]
    assert look(gift).failure == "unknown"
    assert outcomes(gift) == ["lost"] * 4
    assert staged() == 4


def test_only_the_first_sight_of_a_letter_decides(gift: Gift) -> None:
    assert reconcile(gift) == "restaged"
    with db.transaction() as session:
        first = session.get_one(DeadLetter, "m1").last_seen_at
    assert reconcile(gift) is None
    with db.transaction() as session:
        letter = session.get_one(DeadLetter, "m1")
        assert letter.last_seen_at > first
        assert letter.first_seen_at == first
    assert staged() == 2


@pytest.mark.parametrize(
    ("before", "message", "send_no"),
    [
        (lambda gift: claim(gift, "m1"), "m2", None),
        (lambda gift: None, "m1", 0),
        (lambda gift: succeed(claim(gift)), "m1", None),
        (lambda gift: fail(claim(gift), PERMANENT), "m1", None),
        (exhaust, "m1", None),
    ],
    ids=["a copy", "an older send", "sent", "failed for good", "exhausted"],
)
def test_a_letter_that_decides_nothing_is_only_remembered(
    gift: Gift, before: Callable[[Gift], Any], message: str, send_no: int | None
) -> None:
    before(gift)
    row = look(gift)
    assert reconcile(gift, message, send_no) is None
    assert (look(gift).status, look(gift).carrier) == (row.status, row.carrier)
    with db.transaction() as session:
        assert session.get(DeadLetter, message) is not None


def recover(*, depth: int = 0, untouched_for: float = 0) -> list[Any]:
    with db.transaction() as session:
        return list(
            recovery.recover_stalled(
                session,
                Gift,
                "gifts",
                visible_depth=depth,
                untouched_for=timedelta(seconds=untouched_for),
            )
        )


def publish_all() -> None:
    with db.transaction() as session:
        session.execute(text("DELETE FROM outbox"))


def test_a_row_whose_message_vanished_is_staged_again_and_keeps_its_executions(
    gift: Gift,
) -> None:
    publish_all()
    claim(gift)
    assert recover() == [gift.id]
    row = look(gift)
    assert (row.carrier, row.receive, row.executions, row.restages, row.send_no) == (
        None, 0, 1, 0, 1,
    )  # fmt: skip
    assert staged() == 1


def test_nothing_is_recovered_while_something_may_be_on_its_way(gift: Gift) -> None:
    assert recover() == []  # still in the outbox
    publish_all()
    assert recover(depth=1) == []
    assert recover(untouched_for=150) == []
    assert recover() == [gift.id]


def test_a_row_that_sqs_refuses_stops_no_recovery(gift: Gift) -> None:
    publish_all()
    with db.transaction() as session:
        outbox.stage(session, Gift.lifecycle.messages[0], {})
        session.execute(text("UPDATE outbox SET refusals = :n"), {"n": outbox.MAX_REFUSALS - 1})
    assert recover() == [], "it is tried again"
    with db.transaction() as session:
        session.execute(text("UPDATE outbox SET refusals = refusals + 1"))
    assert recover() == [gift.id]


def test_a_row_whose_own_task_is_parked_waits_for_an_operator(gift: Gift) -> None:
    with db.transaction() as session:
        parked = {"n": outbox.MAX_REFUSALS}
        session.execute(text("UPDATE outbox SET refusals = :n, available_at = 'infinity'"), parked)
    assert recover() == []
    assert staged() == 1


def test_a_sweep_takes_a_portion_and_the_next_one_the_rest(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "SWEEP_LIMIT", 20)
    with db.transaction() as session:
        everyone = {gifts.queued(session).id for _ in range(30)}
        session.execute(text("ANALYZE gifts"))
    publish_all()
    first = set(recover())
    publish_all()
    assert (len(first), first | set(recover())) == (20, everyone)


@pytest.mark.parametrize(
    "end", [lambda held: succeed(held), lambda held: fail(held, PERMANENT)], ids=["SENT", "FAILED"]
)
def test_a_final_row_is_not_recovered(gift: Gift, end: Callable[[Claim], Any]) -> None:
    publish_all()
    end(claim(gift))
    assert recover() == []


def test_two_sweeps_at_once_stage_a_row_once(gift: Gift, engine: Engine) -> None:
    publish_all()
    with Session(engine) as first:
        found = recovery.recover_stalled(
            first, Gift, "gifts", visible_depth=0, untouched_for=timedelta(0)
        )
        assert recover() == []  # the row is locked: skipped
        first.commit()
    assert (list(found), staged()) == ([gift.id], 1)
