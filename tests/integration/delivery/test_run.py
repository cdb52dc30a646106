"""`run.deliver()`: claim, effect, record, with everything that an effect may raise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import db
from app.delivery import run
from app.delivery.errors import PermanentError, TimedOut, TransientError
from app.delivery.service import Settle, Verdict
from app.gifts.models import Gift
from app.observability import metrics
from tests.integration.api import Events, samples
from tests.integration.delivery.steps import Delivery, attempts, claim, look
from tests.integration.outage import Outage


class Interrupted(Exception):
    """What a time limit raises."""


def deliver(
    gift: Gift, effect: Callable[[str, int], None], delivery: Delivery | None = None
) -> Verdict:
    return run.deliver(
        Gift,
        gift.id,
        gift.send_no,
        delivery or Delivery(),
        load=lambda session: session.get_one(Gift, gift.id).status,
        effect=effect,
        interruptions=(Interrupted,),
    )


def raising(error: BaseException) -> Callable[[str, int], None]:
    def effect(_parcel: str, _execution: int) -> None:
        raise error

    return effect


def test_an_effect_that_returns_has_happened(gift: Gift) -> None:
    calls = []
    verdict = deliver(gift, lambda parcel, execution: calls.append((parcel, execution)))
    assert calls == [("QUEUED", 1)]
    assert verdict == Verdict(Settle.DELETE, "done", "SENT")
    assert look(gift).status == "SENT"


@pytest.mark.parametrize("last", [False, True])
def test_a_letter_about_nothing_says_so(engine: Engine, last: bool) -> None:
    delivery = Delivery("m1", 5, last)
    verdict = run.deliver(
        Gift, uuid4(), 1, delivery, load=lambda _: None, effect=lambda *_: pytest.fail("sent")
    )
    assert verdict.settle == Settle.RETRY
    with db.transaction() as session:
        reasons = session.execute(
            text("SELECT message_id, error_code, error_message FROM attempts")
        ).all()
    assert reasons == ([("m1", "UNKNOWN_SUBJECT", "no such row")] if last else [])


ERRORS = [
    (TransientError("BUSY", "later", retry_after=7), "transient", "BUSY", Settle.RETRY, 7),
    (TimedOut("SLOW", "no answer"), "timeout", "SLOW", Settle.RETRY, None),
    (PermanentError("NO", "never"), "permanent", "NO", Settle.DELETE, None),
    (Interrupted("secret"), "timeout", "TIME_LIMIT", Settle.RETRY, None),
    (MemoryError("secret"), "transient", "UNEXPECTED", Settle.RETRY, None),
    (RecursionError("secret"), "transient", "UNEXPECTED", Settle.RETRY, None),
    (ZeroDivisionError("secret"), "transient", "UNEXPECTED", Settle.RETRY, None),
    # The effect's own database, not ours: nothing that a rest of the worker would mend.
    (OperationalError("secret", {}, Exception()), "transient", "UNEXPECTED", Settle.RETRY, None),
]


@pytest.mark.parametrize(
    ("error", "outcome", "code", "settle", "retry_after"),
    ERRORS,
    ids=[type(case[0]).__name__ for case in ERRORS],
)
def test_what_an_effect_raises_decides_the_outcome(
    gift: Gift,
    error: Exception,
    outcome: str,
    code: str,
    settle: Settle,
    retry_after: float | None,
) -> None:
    verdict = deliver(gift, raising(error))
    assert (verdict.settle, verdict.retry_after) == (settle, retry_after)
    [attempt] = attempts(gift.id)
    assert (attempt.outcome, attempt.error_code) == (outcome, code)
    assert attempt.ended_at is not None
    assert "secret" not in (attempt.error_message or "")
    assert "secret" not in (look(gift).last_error or "")


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_the_end_of_the_process_records_nothing(gift: Gift, error: BaseException) -> None:
    with pytest.raises(type(error)):
        deliver(gift, raising(error))
    assert [attempt.outcome for attempt in attempts(gift.id)] == [None]
    assert deliver(gift, raising(TransientError("BUSY", "later")), Delivery("m1", 2)).settle
    assert [attempt.outcome for attempt in attempts(gift.id)] == ["lost", "transient"]


def test_a_refused_delivery_runs_no_effect(gift: Gift) -> None:
    claim(gift, "m1")
    verdict = deliver(gift, raising(AssertionError("ran")), Delivery("m2"))
    assert verdict.reason == "another_carrier"
    assert len(attempts(gift.id)) == 1


def test_an_effect_that_cannot_be_loaded_is_no_execution(gift: Gift) -> None:
    def load(_session: object) -> str:
        raise LookupError("gone")

    with pytest.raises(LookupError):
        run.deliver(
            Gift, gift.id, gift.send_no, Delivery(), load=load, effect=raising(AssertionError())
        )
    assert (look(gift).executions, attempts(gift.id)) == (0, [])


def test_every_line_of_a_delivery_carries_its_ids(gift: Gift, events: Events) -> None:
    deliver(gift, raising(ZeroDivisionError()), Delivery("m1", 3))
    deliver(gift, lambda *_: None, Delivery("m2", 1))
    ids = [(event["message"], event["gift_id"], event["receive_count"]) for event in events()]
    assert ids == [
        ("unexpected error in an effect", str(gift.id), 3),
        ("gift executed: transient", str(gift.id), 3),
        ("not executed: another_carrier", str(gift.id), 1),
    ]


def counted() -> Counter[tuple[str, str]]:
    """What the metrics of deliveries say, by name and labels."""
    text = metrics.exposition().decode()
    return Counter(
        {
            (name, labels): int(value)
            for name in ("attempts", "deliveries", "duplicates", "settled")
            for labels, value in samples(text, f"okuru_{name}_total").items()
        }
    )


def test_executions_outcomes_duplicates_and_ends_are_counted_once(gift: Gift) -> None:
    before = counted()
    deliver(gift, raising(TransientError("BUSY", "later")))
    # The third overtakes the second, and both succeed.
    third = partial(deliver, gift, lambda *_: None, Delivery("m1", 3))
    deliver(gift, lambda *_: third() and None, Delivery("m1", 2))
    deliver(gift, raising(AssertionError("ran")), Delivery("m1", 4))
    assert counted() - before == {
        ("attempts", 'kind="gift",receive_count="1"'): 1,
        ("attempts", 'kind="gift",receive_count="2"'): 1,
        ("attempts", 'kind="gift",receive_count="3"'): 1,
        ("deliveries", 'kind="gift",outcome="transient"'): 1,
        ("deliveries", 'kind="gift",outcome="sent"'): 1,
        ("deliveries", 'kind="gift",outcome="unknown"'): 1,
        ("duplicates", 'kind="gift",reason="already_done"'): 1,
        ("settled", 'kind="gift",status="SENT"'): 1,
    }


def test_no_transaction_is_open_while_the_effect_runs(gift: Gift, engine: Engine) -> None:
    """Another connection looks at those of this process, from inside the effect."""
    states: list[str] = []
    sessions = text(
        "SELECT state FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    def effect(_parcel: str, _execution: int) -> None:
        with observer.connect() as connection:
            states.extend(connection.execute(sessions).scalars())

    observer = db.engine_for(engine.url.render_as_string(hide_password=False), db.OPERATOR)
    deliver(gift, effect)
    assert states, "the connections of the pool are there to be seen"
    assert set(states) == {"idle"}


def test_a_claim_without_database_raises_and_records_nothing(gift: Gift, outage: Outage) -> None:
    outage.begin()
    with pytest.raises(db.OUTAGE_ERRORS):
        deliver(gift, raising(AssertionError("ran")))
    outage.end()
    assert (look(gift).executions, attempts(gift.id)) == (0, [])


def test_a_database_that_goes_in_the_claim_takes_the_claim_with_it(
    gift: Gift, outage: Outage
) -> None:
    def load(session: Session) -> None:
        outage.end_sessions()

    with pytest.raises(db.OUTAGE_ERRORS):
        run.deliver(
            Gift, gift.id, gift.send_no, Delivery(), load=load, effect=raising(AssertionError())
        )
    assert (look(gift).executions, attempts(gift.id)) == (0, [])


@pytest.mark.parametrize("error", [None, TransientError("BUSY", "later")], ids=["sent", "failed"])
def test_an_outcome_without_database_raises_and_the_next_receive_finds_it_lost(
    gift: Gift, outage: Outage, error: Exception | None
) -> None:
    def effect(_parcel: str, _execution: int) -> None:
        outage.begin()
        if error:
            raise error

    with pytest.raises(db.OUTAGE_ERRORS):
        deliver(gift, effect)
    outage.end()
    assert look(gift).status == "QUEUED"
    assert [attempt.outcome for attempt in attempts(gift.id)] == [None]
    assert deliver(gift, lambda *_: None, Delivery("m1", 2)).reason == "done"
    assert [attempt.outcome for attempt in attempts(gift.id)] == ["lost", "sent"]


def test_ended_connections_alone_are_no_outage(gift: Gift, outage: Outage) -> None:
    """The pool asks before it lends: after a failover the first delivery does not fail."""
    outage.end_sessions()
    assert deliver(gift, lambda *_: outage.end_sessions()).reason == "done"
