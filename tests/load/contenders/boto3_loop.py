"""The least that a consumer can do: receive ten, run them, delete ten."""

import json
import os
import sys

import boto3

from tests.load.contenders import asked


def noop() -> None:
    pass


def publish(messages: int) -> None:
    sqs = boto3.client("sqs", region_name=asked.REGION)
    body = json.dumps({"task": "noop"})
    for start in range(0, messages, 10):
        sqs.send_message_batch(
            QueueUrl=asked.QUEUE_URL,
            Entries=[
                {"Id": str(number), "MessageBody": body}
                for number in range(min(10, messages - start))
            ],
        )


def work() -> None:
    for _ in range(asked.PROCESSES - 1):
        if os.fork() == 0:
            break
    sqs = boto3.client("sqs", region_name=asked.REGION)
    tasks = {"noop": noop}
    while True:
        answer = sqs.receive_message(
            QueueUrl=asked.QUEUE_URL, MaxNumberOfMessages=10, WaitTimeSeconds=20
        )
        messages = answer.get("Messages", [])
        for message in messages:
            tasks[json.loads(message["Body"])["task"]]()
        if messages:
            sqs.delete_message_batch(
                QueueUrl=asked.QUEUE_URL,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                    for number, message in enumerate(messages)
                ],
            )


if __name__ == "__main__":
    asked.answer(sys.argv[1:], publish, work)
