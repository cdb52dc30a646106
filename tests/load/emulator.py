"""fauxqs, a fast SQS in memory, counting every call (emulator.mjs)."""

from __future__ import annotations

import json
import time
from typing import Any

import requests

from okuru.stack.errors import StackError
from okuru.stack.ports import LOOPBACK
from okuru.stack.server import Launch, Server
from okuru.stack.sqs import ACCOUNT
from tasks.engine import sqs
from tests.load.environment import BENCH, HERE, LOCAL_AWS, REGION

_NODE = BENCH / "bin" / "node"
_FAUXQS = BENCH / "node_modules" / "fauxqs" / "dist" / "app.js"
#: Seconds of visibility: above everything that a round may take.
VISIBILITY = 300


class Emulator(Server):
    name = "fauxqs"
    title = "The SQS emulator"

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def queue_url(self, queue: str) -> str:
        return f"{self.url}/{ACCOUNT}/{queue}"

    def prepare(self) -> Launch:
        if not _FAUXQS.exists():
            raise StackError(f"{_FAUXQS} is missing: run this by `make bench`")
        command = [str(_NODE), str(HERE / "emulator.mjs"), str(_FAUXQS), str(self.port)]
        return Launch(command, {"NODE_ENV": "production"})

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=1).ok
        except requests.RequestException:
            return False

    def client(self) -> Any:
        return sqs.client(
            REGION,
            endpoint_url=self.url,
            aws_access_key_id=LOCAL_AWS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=LOCAL_AWS["AWS_SECRET_ACCESS_KEY"],
        )

    def create_queue(self, name: str) -> str:
        """A queue with a dead-letter queue. Returns its URL."""
        client = self.client()
        letters = client.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=letters, AttributeNames=["QueueArn"])
        redrive = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": 5}
        url = client.create_queue(
            QueueName=name,
            Attributes={
                "VisibilityTimeout": str(VISIBILITY),
                "RedrivePolicy": json.dumps(redrive),
                "MessageRetentionPeriod": str(14 * 86_400),
            },
        )["QueueUrl"]
        return self.queue_url(str(url).rsplit("/", 1)[-1])

    def close_gate(self, queue: str) -> None:
        """Hold back every receive on the queue, and count from zero."""
        requests.post(f"{self.url}/_bench/{queue}/close", timeout=5).raise_for_status()

    def open_gate(self, queue: str) -> None:
        requests.post(f"{self.url}/_bench/{queue}/open", timeout=5).raise_for_status()

    def seen(self, queue: str) -> dict[str, Any]:
        """What has happened on the queue: see emulator.mjs."""
        answer: dict[str, Any] = requests.get(f"{self.url}/_bench/{queue}", timeout=5).json()
        return answer

    def wait_for(self, queue: str, what: str, count: int, *, within: float) -> dict[str, Any]:
        """Wait until `what` (held, sent, deleted) has reached `count`.

        Raises StackError if it does not.
        """
        deadline = time.monotonic() + within
        while (seen := self.seen(queue))[what] < count:
            if time.monotonic() > deadline:
                raise StackError(f"{queue}: {seen[what]} of {count} {what} after {within:.0f} s")
            time.sleep(0.02)
        return seen
