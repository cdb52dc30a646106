"""`okuru dlq` on a real dead-letter queue and a real database."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from app import db
from app.delivery.failures import record_message_failure
from tasks.engine.dead_letters import Reading
from tests.integration.okuru.operator import YES, Operator, task


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {each["message_id"]: each["outcome"] for each in answer["items"]}


# --- list and show ------------------------------------------------------------------------------


def test_list_shows_what_the_reconciler_copied_with_its_last_error(operator: Operator) -> None:
    gift, message_id = operator.failed_gift("order-1")
    assert operator.ask("dlq", "list", "gifts") == {"items": []}, "not yet copied"
    operator.reconcile()

    [item] = operator.ask("dlq", "list", "gifts")["items"]

    assert item.pop("first_seen_at") <= item.pop("last_seen_at")
    assert item.pop("receive_count") >= 5
    assert item == {
        "message_id": message_id,
        "queue": "gifts",
        "task": "gifts.send",
        "subject_id": str(gift.id),
        "request_id": "order-1",
        "send_no": 1,
        "trace": None,
        "reason": "PROVIDER_503: no, at receive 5",
    }
    assert operator.ask("dlq", "list", "maintenance") == {"items": []}


def test_show_tells_each_attempt(operator: Operator) -> None:
    _, message_id = operator.failed_gift()
    operator.reconcile()

    [item] = operator.ask("dlq", "show", "gifts")["items"]

    assert [each["error_message"] for each in item["attempts"]] == [
        f"no, at receive {number}" for number in range(1, 6)
    ]
    assert {each["message_id"] for each in item["attempts"]} == {message_id}
    assert json.loads(item["body"])["headers"]["task"] == "gifts.send"
    shown = operator.run("dlq", "show", "gifts")
    assert shown.exit_code == 0
    for words in (message_id, "PROVIDER_503", "no, at receive 1", "no, at receive 5", "key-1"):
        assert words in shown.stdout


def test_a_letter_that_is_no_task_tells_its_reason_too(operator: Operator) -> None:
    message_id = operator.put("plain [bold]text")
    for receive, code in ((1, "OLDER"), (2, "BAD_MESSAGE")):
        with db.transaction() as session:
            record_message_failure(
                session, message_id=message_id, receive_count=receive, worker="w", code=code,
                reason="it is no task",
            )  # fmt: skip
    operator.reconcile()

    [item] = operator.ask("dlq", "show", "gifts")["items"]

    assert (item["reason"], item["task"]) == ("BAD_MESSAGE: it is no task", None)
    assert [each["error_code"] for each in item["attempts"]] == ["OLDER", "BAD_MESSAGE"]
    assert "plain [bold]text" in operator.run("dlq", "show", "gifts").stdout
    assert message_id in operator.run("dlq", "list", "gifts").stdout


def test_the_trace_of_a_letter_is_kept(operator: Operator) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced = operator.put(task(headers={"traceparent": trace}, gift_id=str(uuid4()), send_no=1))
    strange = operator.put(task(headers={"traceparent": {"a": "\0"}}))
    operator.reconcile()

    found = {
        each["message_id"]: each["trace"] for each in operator.ask("dlq", "list", "gifts")["items"]
    }

    assert found == {traced: trace, strange: None}


def test_a_selection_takes_what_fits_all_that_was_said(operator: Operator) -> None:
    subject = str(uuid4())
    one = operator.put(task(gift_id=subject, send_no=1, request_id="order-1", urgent=True))
    two = operator.put(task("nobody.knows", gift_id=subject, send_no=2))
    three = operator.put("plain")
    operator.reconcile()
    with db.transaction() as session:
        session.execute(
            text("UPDATE dead_letters SET first_seen_at = now() - interval '3 days'"
                 " WHERE message_id = :id"),
            {"id": two},
        )  # fmt: skip
    for arguments, expected in (
        ([], {one, two, three}),
        (["--task", "gifts.send"], {one}),
        (["--task", "nobody"], set()),
        (["--since", "2d"], {one, three}),
        (["--since", "96h"], {one, two, three}),
        (["--since", "2020-01-01"], {one, two, three}),
        (["--since", "2020-01-01T00:00:00Z"], {one, two, three}),
        (["--match", f"message_id={three}"], {three}),
        (["--match", f"gift_id={subject}"], {one, two}),
        (["--match", f"gift_id={subject}", "--match", "send_no=2"], {two}),
        (["--match", "request_id=order-1"], {one}),
        (["--match", "request_id="], set()),
        (["--match", "urgent=true"], {one}),
        (["--match", f"subject_id={subject}"], {one}),
        (["--match", "unheard_of=1"], set()),
        (["--limit", "2"], None),
    ):
        for command in ("list", "redrive", "discard"):
            answer = operator.ask("dlq", command, "gifts", *arguments)
            found = {each["message_id"] for each in answer["items"]}
            if expected is None:
                assert len(found) == 2, command
            else:
                assert found == expected, (command, arguments)
    assert operator.letters() == {one, two, three}


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "nothing"],
        ["list", "gifts", "--since", "yesterday"],
        ["list", "gifts", "--match", "gift_id"],
        ["list", "gifts", "--match", "=1"],
        ["redrive", "gifts", "--rate", "0"],
        ["redrive", "gifts", "--limit", "0"],
        ["redrive", "gifts", "--yes"],
        ["discard", "gifts", "--yes", "--reason", " "],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused(operator: Operator, arguments: list[str]) -> None:
    result = operator.run("dlq", *arguments)
    assert result.exit_code == 2, result.output
    assert "Error" in result.output


# --- redrive ------------------------------------------------------------------------------------


def test_a_redrive_is_a_new_send_and_the_old_letter_is_gone(operator: Operator) -> None:
    gift, message_id = operator.failed_gift("order-1")

    answer = operator.ask("dlq", "redrive", "gifts", *YES)

    assert answer["counts"] == {"redriven": 1}
    assert operator.letters() == set()
    row = operator.gift(gift)
    assert (row.status, row.send_no, row.executions, row.receive) == ("QUEUED", 2, 0, 0)
    assert (row.carrier, row.failure, row.last_error, row.restages) == (None, None, None, 0)
    assert (row.request_id, row.accepted_at) == ("order-1", gift.accepted_at)
    assert operator.staged() == [
        ("gifts.send", "gifts", {"gift_id": str(gift.id), "send_no": 2, "request_id": "order-1"})
    ]
    audit = operator.rows(
        "SELECT batch, action, outcome, actor, reason, queue, task, message_id, subject_id, send_no"
        " FROM redrives"
    )
    assert audit == [
        (UUID(answer["batch"]), "redrive", "redriven", "hanako", "provider mended", "gifts",
         "gifts.send", message_id, gift.id, 2)
    ]  # fmt: skip
    assert operator.ask("dlq", "list", "gifts") == {"items": []}


def test_a_dry_run_is_the_default_and_changes_nothing(operator: Operator) -> None:
    _, message_id = operator.failed_gift()
    poison = operator.put("plain")
    before = operator.rows("SELECT gifts::text FROM gifts")

    answer = operator.ask("dlq", "redrive", "gifts")

    assert answer["dry_run"] is True
    assert outcomes(answer) == {message_id: "redriven", poison: "refused"}
    assert operator.rows("SELECT gifts::text FROM gifts") == before
    assert operator.staged() == []
    assert operator.rows("SELECT 1 FROM redrives UNION ALL SELECT 2 FROM dead_letters") == []
    assert operator.letters() == {message_id, poison}
    said = operator.run("dlq", "redrive", "gifts").output
    assert "would be: 1 redriven, 1 refused. Nothing was changed: --yes does it" in said
    assert "it can only be discarded" in said


def test_a_letter_that_can_only_be_discarded_stays_and_says_why(operator: Operator) -> None:
    bodies = [
        "plain",
        task("nobody.knows", x=1),
        task(gift_id="no id", send_no=1),
        task(gift_id=str(uuid4())),
        task(gift_id=str(uuid4()), send_no=1),
        task("delivery.reconcile", 1, 2),
        task("delivery.reconcile", text="a\0b"),
        task("delivery.reconcile", text="\ud800"),
        task("delivery.reconcile", text="x" * 140_000),
        task("celery.backend_cleanup"),
    ]
    ids = {operator.put(body) for body in bodies}

    answer = operator.ask("dlq", "redrive", "gifts", *YES, exit_code=1)

    assert answer["counts"] == {"refused": len(bodies)}
    assert all("it can only be discarded" in each["why"] for each in answer["items"])
    assert operator.letters() == ids
    assert operator.staged() == []
    assert operator.rows("SELECT 1 FROM redrives") == []
    # They were copied, as the reconciler would, and are still listed.
    assert len(operator.ask("dlq", "list", "gifts")["items"]) == len(bodies)


def test_a_letter_newer_than_its_row_stays(operator: Operator) -> None:
    """A failover lost the commit that the message speaks of: nobody may decide that."""
    gift, message_id = operator.failed_gift()
    letter = operator.put(task(gift_id=str(gift.id), send_no=7))

    answer = operator.ask("dlq", "redrive", "gifts", *YES, exit_code=1)

    assert outcomes(answer) == {message_id: "redriven", letter: "refused"}
    assert operator.letters() == {letter}


def test_a_known_task_that_delivers_nothing_is_staged_again(operator: Operator) -> None:
    headers = {"request_id": "r", "traceparent": "00-1-2-01"}
    operator.put(
        task("delivery.reconcile", headers=headers, n=1, request_id="r"), "maintenance-dlq"
    )

    answer = operator.ask("dlq", "redrive", "maintenance", *YES)

    assert answer["counts"] == {"staged": 1}
    assert operator.staged() == [("delivery.reconcile", "maintenance", {"n": 1, "request_id": "r"})]
    assert operator.rows("SELECT headers FROM outbox") == [(headers,)]
    assert operator.letters("maintenance-dlq") == set()


def test_a_letter_of_a_gift_that_was_sent_again_or_has_arrived_is_only_deleted(
    operator: Operator,
) -> None:
    gift, first = operator.failed_gift()
    copy = operator.put(task(gift_id=str(gift.id), send_no=1))
    answer = operator.ask("dlq", "redrive", "gifts", *YES)
    assert sorted(outcomes(answer).values()) == ["redriven", "stale"]
    assert len(operator.staged()) == 1

    with db.transaction() as session:
        session.execute(text("UPDATE gifts SET status = 'SENT'"))
    letter = operator.put(task(gift_id=str(gift.id), send_no=2))
    assert outcomes(operator.ask("dlq", "redrive", "gifts", *YES)) == {letter: "done"}

    assert operator.letters() == set()
    row = operator.gift(gift)
    assert (row.status, row.send_no) == ("SENT", 2)
    assert len(operator.staged()) == 1
    assert {first, copy, letter} == {
        each.message_id for each in operator.rows("SELECT message_id FROM redrives")
    }


def test_a_letter_whose_send_goes_on_without_it_is_only_deleted(operator: Operator) -> None:
    """The reconciler had staged it again: its new message carries the same send number."""
    gift, message_id = operator.failed_gift()
    with db.transaction() as session:
        session.execute(text("UPDATE gifts SET status = 'QUEUED', send_no = 2, failure = NULL,"
                             " executions = 1, carrier = :id"), {"id": message_id})  # fmt: skip
    letter = operator.put(task(gift_id=str(gift.id), send_no=2, request_id="key-1"))
    with db.transaction() as session:
        session.execute(text("UPDATE gifts SET carrier = :id"), {"id": letter})
    operator.reconcile()
    assert len(operator.staged()) == 1

    answer = operator.ask("dlq", "redrive", "gifts", *YES)

    assert outcomes(answer) == {message_id: "stale", letter: "on_its_way"}
    assert operator.letters() == set()
    assert len(operator.staged()) == 1, "still the reconciler's"


# --- killed halfway -----------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
def test_killed_before_the_letters_are_deleted_and_run_again_nothing_is_lost_or_doubled(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    made = [operator.failed_gift(f"order-{number}") for number in range(3)]
    ids = {message_id for _, message_id in made}
    sweep = operator.put(task("delivery.reconcile"))
    ids.add(sweep)

    def die(*_: object) -> set[str]:
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(Reading, "delete", die)
        for _ in range(times):
            assert operator.run("dlq", "redrive", "gifts", *YES).exit_code == 137
    assert operator.letters() == ids
    assert len(operator.staged()) == 4
    # The reconciler sees them again, and the operator sees what is left to do.
    operator.reconcile()
    assert len(operator.staged()) == 4
    listed = operator.ask("dlq", "list", "gifts")["items"]
    assert {each["message_id"] for each in listed} == ids

    answer = operator.ask("dlq", "redrive", "gifts", *YES)

    assert outcomes(answer) == dict.fromkeys(ids, "settled")
    assert operator.letters() == set()
    assert len(operator.staged()) == 4
    assert {operator.gift(gift).send_no for gift, _ in made} == {2}
    assert operator.rows("SELECT count(*) FROM redrives") == [(4,)]


def environment(operator: Operator, settings: Any) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "QUEUE_URL_PREFIX": settings.queue_url_prefix,
        "AWS_ENDPOINT_URL": operator.sqs_url,
    }


#: The command, with letters that are hidden for a short time only.
HASTY = """
from okuru.cli import main
from tasks.engine import dead_letters
dead_letters.READING = 3
main()
"""


def test_killed_for_real_at_any_moment_and_run_again(operator: Operator, settings: Any) -> None:
    """Another process, SIGKILLed once it has begun: what it did not do, the next one does."""
    made = [operator.failed_gift(f"order-{number}") for number in range(12)]
    command = [sys.executable, "-c", HASTY, "dlq", "redrive", "gifts", *YES, "--rate", "4"]
    with subprocess.Popen(
        command, env=environment(operator, settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 60
        while len(operator.staged()) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert 3 <= len(operator.staged()) < 12

    # What it had received is hidden from everyone until the time of its reading is over.
    deadline = time.monotonic() + 90
    while {operator.gift(gift).status for gift, _ in made} != {"QUEUED"} or _depth(operator):
        operator.run("dlq", "redrive", "gifts", *YES)
        assert time.monotonic() < deadline
        time.sleep(0.5)

    assert len(operator.staged()) == 12
    assert {operator.gift(gift).send_no for gift, _ in made} == {2}
    assert operator.rows("SELECT count(*) FROM redrives WHERE outcome = 'redriven'") == [(12,)]


def _depth(operator: Operator) -> int:
    answer = operator.engine.sqs.get_queue_attributes(
        QueueUrl=operator.engine.catalogue.url("gifts-dlq"), AttributeNames=["All"]
    )
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    return sum(int(answer["Attributes"][name]) for name in names)


def test_a_letter_that_sqs_does_not_delete_is_said_and_deleted_by_the_next_run(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, message_id = operator.failed_gift()
    with monkeypatch.context() as patch:
        patch.setattr(Reading, "delete", lambda *_: set())
        result = operator.run("dlq", "redrive", "gifts", *YES)
        assert result.exit_code == 1
        assert "1 could not be deleted: redrive again deletes them" in result.stderr
    assert operator.letters() == {message_id}
    assert outcomes(operator.ask("dlq", "redrive", "gifts", *YES)) == {message_id: "settled"}
    assert operator.letters() == set()


# --- discard ------------------------------------------------------------------------------------


def test_a_discarded_letter_is_gone_and_its_row_stays(operator: Operator) -> None:
    gift, message_id = operator.failed_gift()
    poison = operator.put("plain")
    assert outcomes(operator.ask("dlq", "discard", "gifts")) == {
        message_id: "discarded", poison: "discarded",
    }  # fmt: skip
    assert operator.letters() == {message_id, poison}

    operator.ask("dlq", "discard", "gifts", *YES)

    assert operator.letters() == set()
    assert (operator.gift(gift).status, operator.gift(gift).send_no) == ("FAILED", 1)
    assert operator.staged() == []
    audit = operator.rows("SELECT action, outcome, actor, reason FROM redrives")
    assert audit == [("discard", "discarded", "hanako", "provider mended")] * 2
    assert operator.ask("dlq", "list", "gifts") == {"items": []}


def test_a_discarded_letter_that_nobody_had_seen_leaves_no_row_queued_for_ever(
    operator: Operator,
) -> None:
    gift, _ = operator.failed_gift()
    with db.transaction() as session:
        session.execute(text("UPDATE gifts SET status = 'QUEUED', send_no = 2, failure = NULL"))
    letter = operator.put(task(gift_id=str(gift.id), send_no=2))
    with db.transaction() as session:
        session.execute(text("UPDATE gifts SET carrier = :id"), {"id": letter})

    operator.ask("dlq", "discard", "gifts", *YES)

    assert operator.letters() == set()
    row = operator.gift(gift)
    assert (row.status, row.failure) == ("FAILED", "unknown"), "five executions were used"


# --- many ---------------------------------------------------------------------------------------


def test_a_limit_is_kept(operator: Operator) -> None:
    for number in range(25):
        operator.put(f"poison {number}")

    answer = operator.ask("dlq", "discard", "gifts", *YES, "--limit", "13", "--rate", "1000")

    assert answer["counts"] == {"discarded": 13}
    assert len(operator.letters()) == 12


def test_a_terminal_shows_how_far_it_is(operator: Operator, settings: Any) -> None:
    for number in range(3):
        operator.put(f"poison {number}")
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", HASTY, "dlq", "discard", "gifts", *YES, "--rate", "5"],
        env={**environment(operator, settings), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        written = b""
        with suppress(OSError):  # the end of a terminal
            while read := os.read(ours, 65536):
                written += read
    os.close(ours)
    assert process.returncode == 0
    assert b"discard" in written
    assert b"0/3" in written
    assert b"3/3" in written
    assert operator.letters() == set()


def test_what_does_not_fit_stays_and_ends_the_reading(operator: Operator) -> None:
    kept = {operator.put(task(n=number)) for number in range(15)}
    gone = {operator.put(task("other.task", n=number)) for number in range(15)}

    answer = operator.ask("dlq", "discard", "gifts", *YES, "--task", "other.task")

    assert set(outcomes(answer)) == gone
    assert operator.letters() == kept


def test_an_outage_is_one_line(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        operator.engine.catalogue.__class__, "url", lambda *_: "http://127.0.0.1:1/q"
    )
    monkeypatch.setitem(operator.engine.__dict__, "sqs", _client_to_nowhere())
    result = operator.run("dlq", "redrive", "gifts")
    assert result.exit_code == 1
    assert result.output.startswith("Error: SQS did not answer, or refused")
    assert "Traceback" not in result.output


def _client_to_nowhere() -> Any:
    from tasks.engine import sqs

    return sqs.client("ap-northeast-1", endpoint_url="http://127.0.0.1:1")
