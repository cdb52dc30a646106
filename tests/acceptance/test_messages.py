"""What other systems put on the inbox with nothing but an SDK, on the running stack."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from sqlalchemy import create_engine, text

from okuru.stack.home import PROJECT
from okuru.stack.stack import Stack
from tests.acceptance.client import Client, wait_until

#: Seconds. Five receives with their back-offs, scaled, and a sweep of the reconciler.
SOON, UNTIL_BURIED = 60, 90

#: The customer's command, word for word. What it does is SendMessage with this body.
CLI = (
    "aws sqs send-message \\\n"
    "  --queue-url https://sqs.ap-northeast-1.amazonaws.com/123456789012/sqs-go-runner-queue \\\n"
    '  --message-body \'{"id":"msg-123","type":"task","data":{"taskId":"task-456"},'
    '"timestamp":"2023-01-01T12:00:00Z"}\''
)

Send = Callable[[str], str]


@pytest.fixture
def send(stack: Stack) -> Send:
    """Puts a text on the inbox, as any SDK does. Returns its MessageId."""
    sqs = boto3.client(
        "sqs",
        endpoint_url=stack.environment["AWS_ENDPOINT_URL"],
        region_name="ap-northeast-1",
        aws_access_key_id="somebody",
        aws_secret_access_key="else",
    )
    url = stack.environment["QUEUE_URL_PREFIX"] + "inbox"
    return lambda body: str(sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"])


@pytest.fixture
def operator(stack: Stack) -> Client:
    return Client(stack.api_url, stack.keys["ADMIN_API_KEY"])


def find(operator: Client, external_id: str) -> dict[str, Any] | None:
    items = operator.request("GET", "/messages?limit=200").json()["items"]
    return next((each for each in items if each["external_id"] == external_id), None)


def handled(operator: Client, external_id: str) -> dict[str, Any]:
    """The message, once its job is completed."""

    def is_completed() -> bool:
        return (find(operator, external_id) or {}).get("status") == "COMPLETED"

    wait_until(is_completed, within=SOON, what=lambda: f"handled: {find(operator, external_id)}")
    found = find(operator, external_id)
    assert found is not None
    return found


def okuru(stack: Stack, *words: str) -> Any:
    said = subprocess.run(
        ["okuru", *words, "--json"], env=stack.environment, cwd=PROJECT, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


def test_the_customers_own_command_is_a_message(send: Send, operator: Client) -> None:
    words = shlex.split(CLI)
    body = words[words.index("--message-body") + 1]
    send(body)
    message = handled(operator, "msg-123")
    job = operator.request("GET", f"/jobs/{message['job_id']}").json()
    assert (job["job_type"], job["result"]) == (
        "task", {"task_id": "task-456", "action": "process"},
    )  # fmt: skip
    send(body)
    wait_until(
        lambda: (find(operator, "msg-123") or {})["duplicates"] == 1, within=SOON, what="counted"
    )


@pytest.mark.parametrize("kind", ["task", "notification", "data-sync"])
def test_each_type_is_sent_by_the_command_and_handled(
    stack: Stack, operator: Client, kind: str
) -> None:
    [external_id] = okuru(stack, "messages", "send", kind)["sent"]
    assert handled(operator, external_id)["type"] == kind


def test_a_message_notifies_the_one_whom_it_names(
    stack: Stack, send: Send, operator: Client
) -> None:
    made = operator.request(
        "POST", "/users", json={"email": f"{uuid.uuid4()}@example.com", "age": 30}
    )
    assert made.status_code == 201, made.text
    user = made.json()
    message_id = f"msg-{uuid.uuid4()}"
    data = {"recipientId": user["user_id"], "title": "新着情報", "body": "届きました"}
    message = {"id": message_id, "type": "notification", "data": data}
    send(json.dumps({**message, "timestamp": "2023-01-01T12:00:00Z"}))
    handled(operator, message_id)

    key = okuru(stack, "keys", "create", user["email"])["key"]
    theirs = Client(stack.api_url, key)

    def titles() -> set[str]:
        items = theirs.request("GET", "/notifications").json()["items"]
        return {each["title"] for each in items}

    wait_until(
        lambda: titles() == {"新着情報", "ようこそ / Welcome"},
        within=SOON,
        what=lambda: f"{titles()}",
    )
    profile = theirs.request("GET", f"/users/{user['user_id']}").json()["profile"]
    assert profile == {}
    [first, *_] = theirs.request("GET", "/notifications").json()["items"]
    read = theirs.request("POST", f"/notifications/{first['notification_id']}/read")
    assert read.json()["read_at"]


def bad(**changes: Any) -> str:
    message = {"id": f"bad-{uuid.uuid4()}", "type": "task", "data": {"taskId": "t"}}
    return json.dumps({**message, "timestamp": "2023-01-01T12:00:00Z", **changes})


#: Ten ways to be refused, and what is said about each.
BAD = {
    "hello": "INVALID_JSON",
    "[1, 2]": "INVALID_JSON",
    '{"id": "a", "id": "b"}': "INVALID_JSON",
    bad(type="order"): "UNKNOWN_MESSAGE_TYPE",
    bad(version=2): "UNKNOWN_MESSAGE_VERSION",
    bad(data={}): "INVALID_MESSAGE",
    bad(data={"taskId": "t", "priority": "urgent"}): "INVALID_MESSAGE",
    bad(timestamp="2023-01-01T12:00:00"): "INVALID_MESSAGE",
    bad(id="x" * 256): "INVALID_MESSAGE",
    bad(data={"taskId": 7}): "INVALID_MESSAGE",
}


def test_ten_bad_messages_are_dead_letters_that_say_why(
    stack: Stack, send: Send, operator: Client
) -> None:
    sent = {send(body): code for body, code in BAD.items()}
    good = f"msg-{uuid.uuid4()}"
    send(bad(id=good))
    handled(operator, good)  # beside them, and not after them

    def letters() -> dict[str, dict[str, Any]]:
        found = okuru(stack, "dlq", "list", "inbox", "--limit", "500")["items"]
        return {each["message_id"]: each for each in found if each["message_id"] in sent}

    wait_until(
        lambda: len(letters()) == len(sent), within=UNTIL_BURIED, what=lambda: f"{len(letters())}"
    )
    for message_id, code in sent.items():
        shown = okuru(stack, "dlq", "show", "inbox", "--match", f"message_id={message_id}")
        [letter] = shown["items"]
        if '"type"' in letter["body"]:  # by the id that its sender knows, too
            own = f"id={json.loads(letter['body'])['id']}"
            [same] = okuru(stack, "dlq", "show", "inbox", "--match", own)["items"]
            assert same["message_id"] == message_id
        attempts = letter["attempts"]
        assert [each["receive_count"] for each in attempts] == [1, 2, 3, 4, 5]
        assert {each["error_code"] for each in attempts} == {code}
        assert all(each["error_message"] for each in attempts)


def test_a_letter_of_the_inbox_is_redriven_and_handled(
    stack: Stack, send: Send, operator: Client
) -> None:
    """As after a deploy that knows what the old code refused: the letter's own JSON runs again."""
    send(bad(id="reused", data={"taskId": "one"}))
    handled(operator, "reused")
    letter = send(bad(id="reused", data={"taskId": "another"}))

    def buried() -> bool:
        found = okuru(stack, "dlq", "list", "inbox", "--match", f"message_id={letter}")
        return len(found["items"]) == 1

    wait_until(buried, within=UNTIL_BURIED, what="buried")
    # What had been in its way is gone.
    engine = create_engine(stack.environment["DATABASE_URL"])
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM inbox_messages WHERE external_id = 'reused'"))
    engine.dispose()
    done = okuru(
        stack, "dlq", "redrive", "inbox", "--match", f"message_id={letter}", "--yes",
        "--reason", "a test",
    )  # fmt: skip
    assert [each["outcome"] for each in done["items"]] == ["staged"]
    message = handled(operator, "reused")
    job = operator.request("GET", f"/jobs/{message['job_id']}").json()
    assert job["payload"] == {"task_id": "another", "action": "process"}


def test_the_make_targets_of_the_customer_exist() -> None:
    makefile = (Path(PROJECT) / "Makefile").read_text()
    for target in ("send-task", "send-notification", "send-data-sync"):
        assert re.search(rf"^{target}:", makefile, re.M)
