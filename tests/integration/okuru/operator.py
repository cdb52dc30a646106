"""An operator at the command line, and letters for them to find."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from click.testing import CliRunner, Result
from sqlalchemy import text

from app import db
from app.gifts.models import Gift
from okuru.cli import main
from tasks.engine.publisher import Publisher
from tasks.relay import Relay
from tests.factories import gifts
from tests.integration.celery_app import receive

YES = ("--yes", "--reason", "provider mended", "--actor", "hanako")


@dataclass
class Operator:
    workers: ModuleType
    sqs_url: str

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env={"AWS_ENDPOINT_URL": self.sqs_url})

    def ask(self, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
        """The answer to a command with --json."""
        result = self.run(*arguments, "--json")
        assert result.exit_code == exit_code, (result.output, result.exception)
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    # --- the world that the operator finds ---

    @property
    def engine(self) -> Any:
        return self.workers.engine

    def publish(self) -> None:
        publisher = Publisher(self.workers.app, self.engine.sqs)
        Relay(publisher).run_once()
        publisher.close()

    def bury(self, count: int = 1, queue: str = "gifts") -> list[str]:
        """All that lies in a queue burns its receives; SQS moves it. Returns the MessageIds."""
        url = self.engine.catalogue.url(queue)
        receives = self.engine.catalogue[queue].max_receive_count
        seen: set[str] = set()
        for _ in range((receives + 1) * (count // 10 + 1)):
            answer = self.engine.sqs.receive_message(
                QueueUrl=url, VisibilityTimeout=0, MaxNumberOfMessages=10
            )
            seen |= {each["MessageId"] for each in answer.get("Messages", [])}
        assert len(seen) == count
        return sorted(seen)

    def failed_gift(self, request_id: str = "key-1") -> tuple[Gift, str]:
        """A gift whose five executions failed, and the MessageId of its letter."""
        with db.transaction() as session:
            gift = gifts.queued(session, request_id=request_id)
            session.expunge_all()
        self.publish()
        [message_id] = self.bury()
        with db.transaction() as session:
            session.execute(FAIL, {"id": gift.id, "message": message_id})
            for number in range(1, 6):
                session.execute(ATTEMPT, {"id": gift.id, "message": message_id, "receive": number})
        return gift, message_id

    def put(self, body: str, dlq: str = "gifts-dlq") -> str:
        """A letter of any kind. Returns its MessageId."""
        answer = self.engine.sqs.send_message(
            QueueUrl=self.engine.catalogue.url(dlq), MessageBody=body
        )
        return str(answer["MessageId"])

    def reconcile(self) -> None:
        self.workers.app.tasks["delivery.reconcile"].run()

    # --- what is left of it ---

    def letters(self, dlq: str = "gifts-dlq") -> set[str]:
        """What lies in a DLQ. Hides nothing."""
        found = receive(self.engine, dlq, VisibilityTimeout=20)
        for message in found:
            self.engine.sqs.change_message_visibility(
                QueueUrl=self.engine.catalogue.url(dlq),
                ReceiptHandle=message["ReceiptHandle"],
                VisibilityTimeout=0,
            )
        return {message["MessageId"] for message in found}

    def rows(self, statement: str) -> list[Any]:
        with db.transaction() as session:
            return list(session.execute(text(statement)))

    def staged(self) -> list[Any]:
        return self.rows("SELECT task, queue, kwargs FROM outbox ORDER BY id")

    def gift(self, gift: Gift) -> Gift:
        with db.transaction() as session:
            return session.get_one(Gift, gift.id)


def task(name: str = "gifts.send", *args: Any, headers: Any = None, **kwargs: Any) -> str:
    """A Celery message, as far as a dead letter is read."""
    body = json.dumps([list(args), kwargs, {}])
    return json.dumps({"body": body, "headers": {"task": name, **(headers or {})}})


FAIL = text(
    """
    UPDATE gifts SET status = 'FAILED', failure = 'exhausted', executions = 5, receive = 5,
        carrier = :message, restages = 1, last_error = 'PROVIDER_503: no' WHERE id = :id
    """
)
ATTEMPT = text(
    """
    INSERT INTO attempts (kind, subject_id, send_no, receive_count, message_id, worker, ended_at,
        outcome, error_code, error_message)
    VALUES ('gift', :id, 1, :receive, :message, 'w', now(), 'transient', 'PROVIDER_503',
        'no, at receive ' || :receive)
    """
)
