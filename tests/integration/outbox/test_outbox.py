"""Promised tasks on a real database: staged with their transaction, taken by one relay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, literal, select, text, update
from sqlalchemy.orm import Session

from app import db
from app.observability import context
from app.outbox import service as outbox
from app.outbox.models import OutboxRow
from app.outbox.service import MAX_KWARGS_BYTES, MAX_REFUSALS, Message

SEND = Message("gifts.send", "gifts")
OTHER = Message("jobs.run", "jobs")


def stage(*numbers: int, message: Message = SEND) -> None:
    with db.transaction() as session:
        for number in numbers:
            outbox.stage(session, message, {"n": number})


def numbers(taken: list[outbox.Taken]) -> list[int]:
    return [row.kwargs["n"] for row in taken]


def waiting() -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(OutboxRow)) or 0


@pytest.fixture
def relays(engine: Engine) -> Iterator[tuple[Session, Session]]:
    """Two relays, each on a connection of its own."""
    with Session(engine) as one, Session(engine) as two:
        yield one, two


def test_a_task_is_staged_if_and_only_if_its_transaction_commits(engine: Engine) -> None:
    def interrupted() -> None:
        with db.transaction() as session:
            outbox.stage(session, SEND, {"n": 1})
            raise LookupError

    with pytest.raises(LookupError):
        interrupted()
    assert waiting() == 0
    stage(1)
    assert waiting() == 1


def test_a_staged_task_carries_the_context_and_nothing_else_of_it(engine: Engine) -> None:
    with context.bound(request_id="r-1", traceparent="00-1", gift_id="not carried"):
        stage(1)
    with db.transaction() as session:
        [row] = outbox.take(session, limit=1)
    assert row.headers == {"request_id": "r-1", "traceparent": "00-1"}
    assert (row.queue, row.task, row.kwargs, row.refusals) == ("gifts", "gifts.send", {"n": 1}, 0)


def test_headers_that_a_statement_gives_win_over_the_context(engine: Engine) -> None:
    rows = select(literal("the row's").label("request_id")).cte()
    headers = func.jsonb_build_object("request_id", rows.c.request_id)
    kwargs = func.jsonb_build_object("n", 1)
    with db.transaction() as session, context.bound(request_id="a sweep's", traceparent="00-1"):
        queue = literal(SEND.queue)
        session.execute(outbox.staging(SEND.task, queue, kwargs, headers, select(rows)))
        [row] = outbox.take(session, limit=1)
    assert row.headers == {"request_id": "the row's", "traceparent": "00-1"}


def test_rows_are_taken_oldest_first_up_to_the_limit(engine: Engine) -> None:
    stage(*range(5))
    with db.transaction() as session:  # in the table the oldest now lie behind the others
        outbox.put_back(session, outbox.take(session, limit=2))
    with db.transaction() as session:
        assert numbers(outbox.take(session, limit=3)) == [0, 1, 2]
    with db.transaction() as session:
        assert numbers(outbox.take(session, limit=3)) == [3, 4]
    assert waiting() == 0


def test_two_relays_take_disjoint_rows_and_neither_waits(relays: tuple[Session, Session]) -> None:
    stage(*range(6))
    one, two = relays
    first, second = outbox.take(one, limit=4), outbox.take(two, limit=4)
    assert (numbers(first), numbers(second)) == ([0, 1, 2, 3], [4, 5])
    one.commit()
    two.commit()
    assert waiting() == 0


def test_a_relay_that_dies_gives_everything_back(relays: tuple[Session, Session]) -> None:
    stage(1, 2)
    one, two = relays
    assert len(outbox.take(one, limit=10)) == 2
    one.rollback()
    assert numbers(outbox.take(two, limit=10)) == [1, 2]


def test_a_resting_queue_is_left_alone(engine: Engine) -> None:
    stage(1)
    stage(2, message=OTHER)
    with db.transaction() as session:
        assert numbers(outbox.take(session, limit=10, resting=["gifts"])) == [2]
    assert waiting() == 1


def test_rows_of_a_failed_call_come_back_as_they_were(engine: Engine) -> None:
    stage(1, 2)
    with db.transaction() as session:
        before = outbox.take(session, limit=10)
        outbox.put_back(session, before)
    with db.transaction() as session:
        assert outbox.take(session, limit=10) == before


def test_nothing_to_put_back_is_no_statement(engine: Engine) -> None:
    with db.transaction() as session:
        outbox.put_back(session, [])


def test_a_refused_row_waits_and_counts_its_refusals(engine: Engine) -> None:
    stage(1)
    with db.transaction() as session:
        outbox.put_back(session, outbox.take(session, limit=10), refused_for=timedelta(seconds=30))
    with db.transaction() as session:
        assert outbox.take(session, limit=10) == []
        waits = session.scalars(
            select(func.extract("epoch", OutboxRow.available_at - func.now()))
        ).one()
    assert 20 < waits <= 30
    make_due()
    with db.transaction() as session:
        [row] = outbox.take(session, limit=10)
    assert (row.refusals, row.kwargs) == (1, {"n": 1})


def make_due() -> None:
    with db.transaction() as session:
        session.execute(
            update(OutboxRow)
            .where(OutboxRow.available_at < text("'infinity'"))
            .values(available_at=func.now())
        )


def test_a_row_that_is_refused_too_often_waits_for_an_operator(engine: Engine) -> None:
    stage(1)
    for _ in range(MAX_REFUSALS):
        make_due()
        with db.transaction() as session:
            rows = outbox.take(session, limit=10)
            assert len(rows) == 1
            outbox.put_back(session, rows, refused_for=timedelta(0))
    make_due()
    with db.transaction() as session:
        assert outbox.take(session, limit=10) == []
    assert waiting() == 1


@pytest.mark.parametrize("text_", ["x", '"', "\\", "ü", "贈"])
def test_arguments_that_are_too_large_are_refused(engine: Engine, text_: str) -> None:
    fits = text_ * ((MAX_KWARGS_BYTES - len('{"n": ""}')) // len(json.dumps(text_)[1:-1]))

    def attempt(kwargs: dict[str, Any]) -> None:
        with db.transaction() as session:
            outbox.stage(session, SEND, kwargs)

    attempt({"n": fits})
    with pytest.raises(ValueError, match="arguments over"):
        attempt({"n": fits + text_ * 10})
    assert waiting() == 1


def test_the_backlog_is_its_depth_and_the_age_of_its_oldest_row(engine: Engine) -> None:
    with db.transaction() as session:
        assert outbox.backlog(session) == outbox.Backlog(depth=0, oldest_age=0)
    stage(1, 2)
    with db.transaction() as session:
        session.execute(
            text("UPDATE outbox SET created_at = now() - interval '90 s' WHERE kwargs->>'n' = '1'")
        )
        backlog = outbox.backlog(session)
    assert backlog == outbox.Backlog(depth=2, oldest_age=90)


def test_whether_anything_waits_for_a_queue(engine: Engine) -> None:
    stage(1)
    with db.transaction() as session:
        assert outbox.waits_for(session, "gifts")
        assert not outbox.waits_for(session, "jobs")
