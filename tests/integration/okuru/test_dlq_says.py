"""What `okuru dlq` says to a person at a terminal."""

from __future__ import annotations

import base64
import json

import pytest
from sqlalchemy import text

from app import db
from tasks.letters import _Pace
from tests.integration.okuru.operator import YES, Operator, task


@pytest.mark.parametrize("command", ["list", "show"])
def test_a_letter_does_not_steer_the_terminal(operator: Operator, command: str) -> None:
    operator.put("hello \u009b31mRED\u009b2J \u202edesrever")
    operator.reconcile()
    said = operator.run("dlq", command, "gifts").stdout
    assert not {"\u009b", "\u202e"} & set(said)


def test_a_narrow_terminal_shows_a_letter_as_a_block(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    gift, message_id = operator.failed_gift("order-1")
    operator.reconcile()
    assert "│" not in operator.run("dlq", "list", "gifts").stdout.splitlines()[0]
    monkeypatch.setenv("COLUMNS", "80")
    said = operator.run("dlq", "list", "gifts").stdout
    assert max(map(len, said.splitlines())) == 80
    for words in (message_id, str(gift.id), "order-1", "PROVIDER_503: no, at receive 5"):
        assert words in said


@pytest.mark.parametrize("command", ["list", "show"])
def test_no_letters_are_said_to_be_none(operator: Operator, command: str) -> None:
    assert operator.run("dlq", command, "gifts").stdout == "no dead letters of gifts\n"
    operator.put(task(gift_id="g"))
    operator.reconcile()
    said = operator.run("dlq", command, "gifts", "--match", "gift_id=other").stdout
    assert said == "no dead letters of gifts fit\n"


@pytest.mark.parametrize(
    "command", [["list"], ["show"], ["redrive"], ["discard", *YES]], ids=lambda words: words[0]
)
def test_a_field_that_no_letter_has_is_mentioned(operator: Operator, command: list[str]) -> None:
    operator.put(task(gift_id="g"))
    operator.reconcile()
    said = operator.run("dlq", command[0], "gifts", *command[1:], "--match", "gift_idd=g")
    assert "has a field gift_idd" in said.stderr
    said = operator.run("dlq", command[0], "gifts", *command[1:], "--match", "gift_id=other")
    assert "has a field" not in said.stderr


def test_letters_that_another_look_has_hidden_are_mentioned(operator: Operator) -> None:
    operator.put(task(gift_id="g"))
    made = operator.engine
    made.sqs.receive_message(QueueUrl=made.catalogue.url("gifts-dlq"), VisibilityTimeout=60)
    said = operator.run("dlq", "redrive", "gifts")
    assert "1 more were hidden" in said.stderr


def test_what_a_worker_elsewhere_has_encoded_is_read(operator: Operator) -> None:
    """Celery's producers wrap whole messages in base64, unless they are told not to."""
    operator.put(base64.b64encode(task("delivery.reconcile").encode()).decode(), "maintenance-dlq")
    found = operator.ask("dlq", "redrive", "maintenance")
    assert found["counts"] == {"staged": 1}


def test_arguments_too_deep_to_be_staged_refuse_only_their_own_letter(operator: Operator) -> None:
    deep = json.loads("[" * 600 + "]" * 600)
    for kwargs in ({"x": deep}, {}):
        operator.put(task("delivery.reconcile", **kwargs), "maintenance-dlq")
    found = operator.ask("dlq", "redrive", "maintenance", *YES, exit_code=1)
    assert found["counts"] == {"staged": 1, "refused": 1}


def test_show_tells_the_attempts_of_this_send_only(operator: Operator) -> None:
    gift, message_id = operator.failed_gift()
    with db.transaction() as session:
        session.execute(
            text(
                "INSERT INTO attempts (kind, subject_id, send_no, receive_count, message_id,"
                " worker, ended_at, outcome) VALUES"
                " ('gift', :id, 2, 1, 'later', 'w', now(), 'transient')"
            ),
            {"id": gift.id},
        )
    operator.reconcile()
    [item] = operator.ask("dlq", "show", "gifts")["items"]
    assert {each["message_id"] for each in item["attempts"]} == {message_id}


@pytest.mark.parametrize(("rate", "at_once"), [(None, 10), (100, 10), (3, 3), (0.1, 1)])
def test_a_slow_rate_hides_no_more_letters_than_it_handles_in_time(
    rate: float | None, at_once: int
) -> None:
    assert _Pace(rate).at_once == at_once
