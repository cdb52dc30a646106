"""What is remembered of messages that belong to no row."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, select

from app import db
from app.delivery.failures import record_message_failure
from app.delivery.models import Attempt
from app.gifts.models import Gift
from tests.integration.delivery import steps


def record(**fields: object) -> Attempt:
    with db.transaction() as session:
        record_message_failure(
            session,
            **{  # type: ignore[arg-type]
                "message_id": "m1", "receive_count": 2, "worker": "celery@here",
                "code": "BAD_MESSAGE", "reason": "the body is no JSON", **fields,
            },
        )  # fmt: skip
        return session.scalars(select(Attempt).order_by(Attempt.id.desc())).first()  # type: ignore[return-value]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("permanent", "outcome"), [(False, "transient"), (True, "permanent")])
def test_a_failure_is_an_attempt_that_has_ended(permanent: bool, outcome: str) -> None:
    made = record(permanent=permanent)
    assert (made.kind, made.subject_id, made.send_no) == ("message", None, None)
    assert (made.message_id, made.receive_count, made.worker) == ("m1", 2, "celery@here")
    assert (made.outcome, made.error_code, made.error_message) == (
        outcome, "BAD_MESSAGE", "the body is no JSON",
    )  # fmt: skip
    assert made.ended_at is not None


def test_each_receive_has_its_own(engine: Engine) -> None:
    assert len({record(receive_count=number).id for number in range(1, 6)}) == 5


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 5000, "\0" * 2000, "名前"])
def test_whatever_a_message_says_can_be_kept(text: str) -> None:
    made = record(code=text, reason=text, worker=text)
    assert made.error_message
    assert len(made.error_message) <= 1000
    if text == "名前":
        assert (made.error_code, made.error_message, made.worker) == (text, text, text)


def test_it_is_no_attempt_of_any_row(gift: Gift) -> None:
    record(message_id="m1")
    assert steps.attempts(gift.id) == []
    steps.claim(gift, "m1")
    assert steps.outcomes(gift) == [None]
