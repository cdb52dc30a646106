"""Redrive and retry: two operators at once, and beside a worker or the reconciler."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, text

from app import db
from app.delivery import letters, recovery, redrive
from app.delivery.models import DeadLetter, Redrive
from app.delivery.recovery import Letter
from app.delivery.redrive import Command, Decision, Outcome
from app.gifts.models import Gift, SendRequest
from app.outbox.service import Message
from tests.factories import gifts
from tests.integration.delivery import steps
from tests.integration.delivery.steps import look, staged

COMMAND = Command("hanako", "because")


def letter_of(gift: Gift, message: str = "m1", send_no: int = 1) -> Letter:
    return Letter(message, "gifts", 6, "{}", "gifts.send", gift.id, send_no, "key-1", "00-1-2-01")


def again(letter: Letter, model: Any = Gift, **options: Any) -> Decision:
    with db.transaction() as session:
        return redrive.redrive(session, letter, model, COMMAND, **options)


def exhaust(gift: Gift) -> None:
    for receive in range(1, 6):
        steps.fail(steps.claim(gift, receive=receive))
    assert look(gift).failure == "exhausted"


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    line = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        line.wait(timeout=30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def test_a_redriven_gift_has_five_new_executions_and_its_old_message_none(gift: Gift) -> None:
    exhaust(gift)
    assert again(letter_of(gift)) == Decision(Outcome.REDRIVEN, send_no=2)
    assert steps.ask(gift, "m1", 6).reason == "stale"
    gift = look(gift)
    for receive in range(1, 6):
        held = steps.claim(gift, "m2", receive)
        assert held.execution == receive
        steps.fail(held)
    assert (look(gift).status, look(gift).failure) == ("FAILED", "exhausted")


@pytest.mark.parametrize("times", range(5))
def test_two_operators_at_once_send_one_new_message(gift: Gift, times: int) -> None:
    exhaust(gift)
    before = staged()
    same, copy = letter_of(gift), letter_of(gift, "m1-copy")
    found = Counter(
        each.outcome
        for each in at_once(
            lambda: again(same), lambda: again(same), lambda: again(copy), lambda: again(copy)
        )
    )
    assert found[Outcome.REDRIVEN] == 1
    assert found.keys() <= {Outcome.REDRIVEN, Outcome.SETTLED, Outcome.STALE}
    assert staged() == before + 1
    assert look(gift).send_no == 2


def test_a_task_without_a_row_is_staged_once_however_often_it_is_asked_for(engine: Any) -> None:
    letter = Letter("m1", "maintenance", 6, "{}", "delivery.reconcile", None, None, None)

    def ask() -> Decision:
        return again(letter, None, message=Message("delivery.reconcile", "maintenance"))

    found = Counter(each.outcome for each in at_once(ask, ask, ask, ask))
    assert found == {Outcome.STAGED: 1, Outcome.SETTLED: 3}
    assert staged() == 1


@pytest.mark.parametrize(
    ("send_no", "outcome"),
    [(1, Outcome.STALE), (2, Outcome.REDRIVEN), (3, Outcome.REFUSED)],
)
def test_of_a_gift_that_failed_again_only_the_letter_of_that_send_is_redriven(
    gift: Gift, send_no: int, outcome: Outcome
) -> None:
    exhaust(gift)
    again(letter_of(gift))
    for receive in range(1, 6):
        steps.fail(steps.claim(look(gift), "m2", receive))
    before = staged()

    assert again(letter_of(gift, "copy", send_no)).outcome is outcome

    is_new = outcome is Outcome.REDRIVEN
    assert look(gift).send_no == 2 + is_new
    assert look(gift).status == ("QUEUED" if is_new else "FAILED")
    assert staged() == before + is_new


def test_a_late_success_beats_the_redrive(gift: Gift) -> None:
    held = steps.claim(gift)
    steps.change(gift, status="FAILED", failure="unknown")
    steps.succeed(held)
    assert again(letter_of(gift)).outcome is Outcome.DONE
    assert look(gift).status == "SENT"


def test_a_success_after_the_redrive_decides_nothing(gift: Gift) -> None:
    """The provider is asked again with the same key: named, not hidden (docs/architecture.md)."""
    held = steps.claim(gift)
    steps.change(gift, status="FAILED", failure="unknown")
    assert again(letter_of(gift)).outcome is Outcome.REDRIVEN
    steps.succeed(held)
    assert (look(gift).status, look(gift).send_no) == ("QUEUED", 2)


def test_a_letter_that_the_reconciler_has_not_seen_is_decided_as_it_would(gift: Gift) -> None:
    """Two executions were used: it goes on with the other three, and no new send number."""
    for receive in (1, 2):
        steps.fail(steps.claim(gift, receive=receive))
    before = staged()
    assert again(letter_of(gift)).outcome is Outcome.ON_ITS_WAY
    row = look(gift)
    assert (row.status, row.send_no, row.executions, row.carrier) == ("QUEUED", 1, 2, None)
    assert staged() == before + 1


def test_a_settled_letter_is_listed_only_if_it_is_seen_again(gift: Gift) -> None:
    exhaust(gift)
    letter = letter_of(gift)

    def listed() -> list[str]:
        with db.transaction() as session:
            return [found.message_id for found, _ in letters.find(session, "gifts")]

    def sweep() -> None:
        with db.transaction() as session:
            recovery.reconcile(session, letter, Gift)

    sweep()
    assert listed() == ["m1"]
    again(letter)
    assert listed() == []
    sweep()
    assert listed() == ["m1"], "it was not deleted"


def test_nothing_is_written_about_a_letter_that_is_refused(gift: Gift) -> None:
    letter = letter_of(gift)
    strange = Letter("m9", "gifts", 6, "{}", "gifts.send", uuid4(), 1, None)
    assert again(strange).outcome is Outcome.REFUSED
    with db.transaction() as session:
        assert session.scalars(select(Redrive)).all() == []
        assert session.get_one(DeadLetter, "m9").settled_at is None
    with db.transaction() as session:
        assert redrive.discard(session, strange, Gift, COMMAND).outcome is Outcome.DISCARDED
        assert redrive.discard(session, strange, Gift, COMMAND).outcome is Outcome.SETTLED
    assert letter.trace == "00-1-2-01"


# --- retry --------------------------------------------------------------------------------------


def record(requeued: Any) -> Any:
    return insert(SendRequest).from_select(
        ["gift_id", "request_id", "send_no"],
        select(requeued.c.id, requeued.c.request_id, requeued.c.send_no),
    )


def retry(gift: Gift, key: str) -> int | None:
    with db.transaction() as session:
        return redrive.retry(session, Gift, gift.id, command=COMMAND, request_id=key, record=record)


def test_a_retry_makes_the_letter_stale_and_carries_its_own_key(gift: Gift) -> None:
    exhaust(gift)
    assert retry(gift, "again-1") == 2
    assert again(letter_of(gift)).outcome is Outcome.STALE
    assert look(gift).request_id == "again-1"
    with db.transaction() as session:
        kwargs = session.scalars(text("SELECT kwargs FROM outbox ORDER BY id DESC")).first()
        [audit] = session.scalars(select(Redrive).where(Redrive.action == "retry"))
    assert kwargs == {"gift_id": str(gift.id), "send_no": 2, "request_id": "again-1"}
    assert (audit.subject_id, audit.send_no, audit.message_id) == (gift.id, 2, None)


def test_a_retry_and_a_redrive_at_once_are_one_send(gift: Gift) -> None:
    exhaust(gift)
    before = staged()
    send_no, decision = at_once(lambda: retry(gift, "again-1"), lambda: again(letter_of(gift)))
    assert (send_no == 2) != (decision.outcome is Outcome.REDRIVEN)
    assert look(gift).send_no == 2
    assert staged() == before + 1


@pytest.mark.parametrize("status", ["CREATED", "QUEUED", "SENT"])
def test_only_a_failed_row_can_be_retried(gift: Gift, status: str) -> None:
    with db.transaction() as session:
        other = gifts.created(session)
        session.expunge_all()
    if status == "SENT":
        steps.succeed(steps.claim(gift))
    before = staged()
    assert retry(other if status == "CREATED" else gift, "again-1") is None
    assert staged() == before
    with db.transaction() as session:
        assert session.scalars(select(Redrive)).all() == []
