"""dramatiq with dramatiq-sqs, four threads a process."""

import os
import sys

import dramatiq
from dramatiq_sqs import SQSBroker

from tests.load.contenders import asked

dramatiq.set_broker(SQSBroker(region_name=asked.REGION))


@dramatiq.actor(queue_name=asked.QUEUE)
def noop() -> None:
    pass


def publish(messages: int) -> None:
    for _ in range(messages):
        noop.send()


def work() -> None:
    dramatiq_cli = [sys.executable, "-m", "dramatiq", "tests.load.contenders.dramatiq_sqs"]
    os.execv(sys.executable, [*dramatiq_cli, "--processes", str(asked.PROCESSES), "--threads", "4"])


if __name__ == "__main__":
    asked.answer(sys.argv[1:], publish, work)
