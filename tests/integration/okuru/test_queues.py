"""`okuru queues` on a real SQS and a real database."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from app import db
from app.outbox import service as outbox
from app.outbox.service import Message
from okuru.cli import main
from tasks.engine import sqs
from tasks.engine.catalogue import Catalogue
from tests.factories import gifts
from tests.integration.okuru.operator import Operator


@pytest.fixture
def empty(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """An SQS account in which there is no queue yet."""
    url = operator.engine.catalogue.url("gifts").removesuffix("gifts")
    made = Catalogue.load(f"{url}{uuid4().hex[:8]}-")
    monkeypatch.setattr(operator.engine, "catalogue", made)
    return operator


def test_create_makes_what_check_finds_as_declared(empty: Operator) -> None:
    missing = empty.ask("queues", "check", exit_code=1)["differences"]
    assert {each["attribute"] for each in missing} == {"QueueUrl"}
    names = list(empty.engine.catalogue.queues)
    assert len(missing) == 2 * len(names)

    result = empty.run("queues", "create")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        empty.engine.catalogue.url(name + suffix) for name in names for suffix in ("", "-dlq")
    ]
    assert empty.ask("queues", "check") == {"differences": []}
    checked = empty.run("queues", "check")
    assert (checked.exit_code, checked.stdout) == (
        0, f"{len(names)} queues are as the catalogue declares them\n",
    )  # fmt: skip


def test_check_names_what_differs_and_changes_nothing(empty: Operator) -> None:
    empty.run("queues", "create")
    url = empty.engine.catalogue.url("gifts")
    empty.engine.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "7"})
    for _ in range(2):
        result = empty.run("queues", "check")
        assert result.exit_code == 1
        assert result.stdout == "gifts: VisibilityTimeout is 7, should be 30\n"
    empty.run("queues", "create")
    assert empty.run("queues", "check").exit_code == 0


def test_create_is_for_a_local_sqs(operator: Operator) -> None:
    result = CliRunner().invoke(main, ["queues", "create"], env={"AWS_ENDPOINT_URL": None})
    assert result.exit_code == 1
    assert "in AWS the queues are Terraform's" in result.output


@pytest.mark.parametrize("command", ["create", "check", "stats"])
def test_an_sqs_that_does_not_answer_is_one_line(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    nowhere = sqs.client("ap-northeast-1", endpoint_url="http://127.0.0.1:1")
    monkeypatch.setitem(operator.engine.__dict__, "sqs", nowhere)
    result = operator.run("queues", command)
    assert result.exit_code == 1
    assert result.output.startswith("Error: SQS did not answer, or refused")
    assert len(result.output.splitlines()) == 1


# --- stats --------------------------------------------------------------------------------------


def test_stats_tell_what_waits_and_where(operator: Operator) -> None:
    made = operator.engine
    for _ in range(3):
        made.sqs.send_message(QueueUrl=made.catalogue.url("gifts"), MessageBody="x")
    made.sqs.receive_message(QueueUrl=made.catalogue.url("gifts"))
    made.sqs.send_message(
        QueueUrl=made.catalogue.url("maintenance"), MessageBody="x", DelaySeconds=900
    )
    operator.put("a")
    operator.put("b")
    made.sqs.receive_message(QueueUrl=made.catalogue.url("gifts-dlq"))
    with db.transaction() as session:
        gift = gifts.queued(session)
        gifts.created(session)
        outbox.stage(session, Message("x", "maintenance"), {})
    with db.transaction() as session:
        session.execute(text("ALTER TABLE gifts DISABLE TRIGGER guard_deliverable"))
        session.execute(text("UPDATE gifts SET updated_at = now() - interval '1 hour'"
                             " WHERE id = :id"), {"id": gift.id})  # fmt: skip
        session.execute(text("ALTER TABLE gifts ENABLE TRIGGER guard_deliverable"))
        session.execute(text("UPDATE outbox SET created_at = now() - interval '60 s'"))

    answer = operator.ask("queues", "stats")

    assert answer["outbox"]["depth"] == 2
    assert 60 <= answer["outbox"].pop("oldest_age") < 120
    found = {each.pop("queue"): each for each in answer["queues"]}
    assert 3600 <= found["gifts"].pop("oldest_age") < 3700
    assert found.keys() == made.catalogue.queues.keys()
    assert found["gifts"] == {"depth": 2, "in_flight": 1, "delayed": 0, "dead_letters": 2}
    assert found["maintenance"] == {
        "depth": 0, "in_flight": 0, "delayed": 1, "dead_letters": 0, "oldest_age": None,
    }  # fmt: skip
    shown = operator.run("queues", "stats").stdout
    assert "outbox: 2 rows, the oldest 6" in shown
    assert "n/a" in shown


def test_a_queue_without_waiting_rows_has_no_old_ones(operator: Operator) -> None:
    ages = {each["queue"]: each["oldest_age"] for each in operator.ask("queues", "stats")["queues"]}
    assert (ages["gifts"], ages["jobs-low"], ages["inbox"]) == (0, 0, None)


def environment(operator: Operator, settings: Any) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": settings.database_url,
        "QUEUE_URL_PREFIX": settings.queue_url_prefix,
        "AWS_ENDPOINT_URL": operator.sqs_url,
        "TERM": "xterm",
        "COLUMNS": "100",
    }


WATCH = [sys.executable, "-c", "from okuru.cli import main; main()",
         "queues", "stats", "--watch", "--every", "0.2"]  # fmt: skip


def test_watching_shows_changes_until_ctrl_c(operator: Operator, settings: Any) -> None:
    with subprocess.Popen(
        [*WATCH, "--json"], env=environment(operator, settings), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["queues"][0]["depth"] == 0
        url = operator.engine.catalogue.url("gifts")
        operator.engine.sqs.send_message(QueueUrl=url, MessageBody="x")
        while json.loads(process.stdout.readline())["queues"][0]["depth"] == 0:
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 0


def test_a_terminal_is_refreshed_in_place(operator: Operator, settings: Any) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(WATCH, env=environment(operator, settings), stdout=theirs) as process:
        os.close(theirs)
        try:
            written, deadline = b"", time.monotonic() + 60
            # The cursor goes up over the table before it is drawn again.
            while written.count(b"\x1b[1A\x1b[2K") < 12:
                assert time.monotonic() < deadline, written
                if select.select([ours], [], [], 1)[0]:
                    written += os.read(ours, 65536)
        finally:
            process.send_signal(signal.SIGINT)
            os.close(ours)
    assert b"maintenance" in written


def test_watching_outlives_an_outage(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter(range(3))

    def sleep(_: float) -> None:
        if next(looks) == 1:
            raise KeyboardInterrupt
        nowhere = sqs.client("ap-northeast-1", endpoint_url="http://127.0.0.1:1")
        monkeypatch.setitem(operator.engine.__dict__, "sqs", nowhere)

    monkeypatch.setattr("okuru.queues.time.sleep", sleep)
    result = operator.run("queues", "stats", "--watch", "--json")
    assert result.exit_code == 0
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["queues"][0]["depth"], second["queues"][0]["depth"]) == (0, None)
    assert second["outbox"]["depth"] == 0
