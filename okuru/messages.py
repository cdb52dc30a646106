"""`okuru messages`: put typed messages on the inbox, as other systems do."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
from rich.progress import Progress

from app.messages.schemas import TYPES
from okuru.operating import engine, outages_explained

#: What is sent unless --data says otherwise: the customer's own examples.
EXAMPLES: dict[str, dict[str, Any]] = {
    "task": {"taskId": "task-456", "priority": "high", "action": "process"},
    "notification": {
        "recipientId": "user-789",
        "title": "新着情報",
        "body": "メッセージが届きました",
    },
    "data-sync": {"entityType": "product", "entityId": "prod-123", "operation": "update"},
}

#: The most that SQS takes in one call.
BATCH = 10


class _Object(click.ParamType[dict[str, Any]]):
    name = "JSON"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            document = json.loads(value)
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)
        if not isinstance(document, dict):
            self.fail('not a JSON object, such as \'{"taskId": "task-1"}\'', param, ctx)
        return document


@click.group()
def messages() -> None:
    """Put typed messages on the inbox queue, as other systems do."""


@messages.command()
@click.argument("kind", metavar="[task|notification|data-sync]", type=click.Choice(TYPES))
@click.option("--data", type=_Object(), help="The message's data; by default an example.")
@click.option("--id", "message_id", help="Its id; by default a new one. Only with --count 1.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1, show_default=True)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Messages a second.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def send(
    *,
    kind: str,
    data: dict[str, Any] | None,
    message_id: str | None,
    count: int,
    rate: float | None,
    as_json: bool,
) -> None:
    """Send COUNT messages of one type.

    Data that is not valid is sent as it is: `okuru dlq show inbox --match id=…` tells, after five
    receives, why it was refused.
    """
    if message_id is not None and count > 1:
        raise click.UsageError("--id names one message: leave it out, or send one")
    made = engine()
    url = made.catalogue.url("inbox")
    sent: list[str] = []
    with outages_explained(), Progress(transient=True, disable=as_json or count < BATCH) as bar:
        task = bar.add_task("sending", total=count)
        for ids in _portions(count, message_id, rate):
            answer = made.sqs.send_message_batch(
                QueueUrl=url,
                Entries=[
                    {"Id": str(number), "MessageBody": _body(each, kind, data)}
                    for number, each in enumerate(ids)
                ],
            )
            sent += [ids[int(each["Id"])] for each in answer.get("Successful", [])]
            bar.advance(task, len(ids))
    if as_json:
        click.echo(json.dumps({"queue": url, "sent": sent}))
    else:
        shown = sent[0] if len(sent) == 1 else f"{len(sent)} messages"
        click.echo(f"sent {shown} to {url}")
    if len(sent) < count:
        raise click.ClickException(f"SQS refused {count - len(sent)} messages")


def _portions(count: int, message_id: str | None, rate: float | None) -> Iterator[list[str]]:
    """Ids of new messages, as many at a time as one call takes, no faster than `rate`."""
    at_once = max(1, min(BATCH, int(rate))) if rate else BATCH
    started, given = time.monotonic(), 0
    while given < count:
        if rate:
            time.sleep(max(0.0, started + given / rate - time.monotonic()))
        portion = min(at_once, count - given)
        yield [f"msg-{uuid.uuid4()}" if message_id is None else message_id for _ in range(portion)]
        given += portion


def _body(message_id: str, kind: str, data: dict[str, Any] | None) -> str:
    message = {
        "id": message_id,
        "type": kind,
        "data": EXAMPLES[kind] if data is None else data,
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
    return json.dumps(message, ensure_ascii=False)
