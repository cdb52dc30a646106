"""The roles of Terraform have exactly what the code calls.

Every process of the Procfile and the operator's commands run on the local stack, each with
credentials of its own, behind a proxy that writes down their calls to SQS. What they call is what
their role in Terraform allows: nothing is missing, nothing is more.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from sqlalchemy import create_engine, text

from okuru import procfile
from okuru.stack.environment import REGION
from okuru.stack.home import PROJECT, Home
from okuru.stack.output import Terminal
from okuru.stack.processes import Process
from okuru.stack.stack import Stack
from tasks.engine.catalogue import Catalogue
from tests.acceptance.client import Client, wait_until
from tests.infra.recorder import Calls, Recorder
from tests.infra.terraform import OPERATOR, State

PROCFILE = procfile.read()
CATALOGUE = Catalogue.load("")
LIVE = {queue.name for queue in CATALOGUE}
DEAD = {queue.dead_letter_queue for queue in CATALOGUE}
#: Seconds.
SOON = 90

#: Rights that no run on a healthy stack can show, each with its reason. None.
RARE: dict[str, set[tuple[str, str]]] = {}

Grants = dict[str, set[tuple[str, str]]]
"""{process: {(action of SQS, queue)}}"""


def action_of(operation: str) -> str:
    """The action that IAM asks for.

    "You cannot set permissions explicitly for SendMessageBatch, DeleteMessageBatch, or
    ChangeMessageVisibilityBatch. Instead, setting permissions for SendMessage, DeleteMessage, or
    ChangeMessageVisibility sets permissions for the corresponding batch versions": Amazon SQS
    Developer Guide, "Amazon SQS batch actions". Every other operation is an action of its own name
    (Service Authorization Reference, "Actions, resources, and condition keys for Amazon SQS").
    """
    return f"sqs:{operation.removesuffix('Batch')}"


# --- what the code calls ------------------------------------------------------------------------


@dataclass
class Scene:
    """The stack, its processes behind the recorder, and ways to make them call."""

    stack: Stack
    recorder: Recorder
    folder: Path

    def __post_init__(self) -> None:
        self.client = Client(self.stack.api_url, self.stack.keys["API_KEY"])
        self.operators = Client(self.stack.api_url, self.stack.keys["ADMIN_API_KEY"])
        self._sqs = boto3.client("sqs", endpoint_url=self.stack.sqs.url, region_name=REGION)
        self._database = create_engine(
            self.stack.environment["DATABASE_URL"].replace(
                "postgresql://", "postgresql+psycopg2://"
            )
        )

    def environment_of(self, caller: str) -> dict[str, str]:
        return {
            **self.stack.environment,
            "AWS_ACCESS_KEY_ID": caller,
            "AWS_ENDPOINT_URL": self.recorder.url,
            "QUEUE_URL_PREFIX": self.stack.sqs.queue_url_prefix.replace(
                self.stack.sqs.url, self.recorder.url
            ),
        }

    def process(self, name: str) -> Process:
        environment = {
            **self.environment_of(name),
            "METRICS_PORT": str(self.stack.home.port(f"metrics-{name}")),
            "PROMETHEUS_MULTIPROC_DIR": str(self.stack.home.run / "metrics" / name),
        }
        terminal = Terminal(None, list(PROCFILE))
        return Process(self.stack.home, name, shlex.split(PROCFILE[name]), environment, terminal)

    def put(self, queue: str, body: str) -> None:
        """What somebody else puts on a queue."""
        self._sqs.send_message(QueueUrl=self.stack.sqs.queue_url_prefix + queue, MessageBody=body)

    def depth(self, queue: str) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self._sqs.get_queue_attributes(
            QueueUrl=self.stack.sqs.queue_url_prefix + queue,
            AttributeNames=names,  # type: ignore[arg-type]
        )
        return sum(int(answer["Attributes"][name]) for name in names)  # type: ignore[literal-required]

    def rows(self, query: str) -> list[Any]:
        with self._database.connect() as connection:
            return list(connection.execute(text(query)).scalars())

    def job(self, **fields: Any) -> str:
        payload = {"folder": str(self.folder), "fail_times": 1}
        answer = self.client.request(
            "POST", "/jobs", json={"job_type": "mark", "payload": payload, **fields}
        )
        job_id: str = answer.json()["job_id"]
        return job_id

    def okuru(self, *commands: list[str]) -> None:
        """Run commands as the operator, one after the other, in one process."""
        script = f"""
from okuru.cli import main
for command in {commands!r}:
    try:
        main(command, standalone_mode=False)
    except SystemExit as end:
        print("exit", end.code, command)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], env=self.environment_of(OPERATOR), cwd=PROJECT,
            text=True, capture_output=True, check=False, timeout=SOON,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    """All that every process called while everything happened that may happen to a message."""
    home = Home(tmp_path_factory.mktemp("iam"))
    environ = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(PROJECT),
        "OKURU_PROCESSORS": "tests.acceptance.processors",
        "SEND_FAILURE_RATE": "0.5",
        "RETRY_SCALE": "0.001",
        "WORKER_COUNT": "2",
        "WEB_PROCESSES": "1",
    }
    with Stack(home, fast=True, environ=environ) as stack:
        recorder = Recorder(stack.sqs.url, "okuru-")
        scene = Scene(stack, recorder, tmp_path_factory.mktemp("effects"))
        processes = {name: scene.process(name) for name in PROCFILE}
        try:
            for process in processes.values():
                process.start()
            play(scene)
            # Its sweeps would hide letters while the operator looks.
            processes["beat"].stop()
            operate(scene)
        finally:
            for process in processes.values():
                process.ask_to_stop()
            for process in processes.values():
                process.stop()
            recorder.close()
        yield recorder.calls
    home.forget_data()


def play(scene: Scene) -> None:
    """Everything that may happen to a message, on every queue."""
    # A letter in each dead-letter queue, which nobody can read: the reconciler copies it.
    for queue in DEAD:
        scene.put(queue, "what is this")
    wait_until(lambda: answers(scene.client), within=SOON, what="the API")
    # Half of the sends fail first. Every job fails once, in each band.
    gifts = [scene.client.create_and_send() for _ in range(12)]
    jobs = [scene.job(priority=priority) for priority in (5, 0, -5)]
    # One message that is accepted, one that is refused until it is dead; a task that nobody knows.
    scene.put("inbox", message(title="hello"))
    scene.put("inbox", message(title=""))
    scene.put("maintenance", "what is this")

    scene.client.wait_until_final(gifts, within=SOON)
    for job in jobs:
        wait_until(
            lambda job=job: (
                scene.client.request("GET", f"/jobs/{job}").json()["status"]  # type: ignore[misc]
                == "COMPLETED"
            ),
            within=SOON,
            what=f"job {job}",
        )
    wait_until(
        lambda: (
            set(scene.rows("SELECT DISTINCT queue FROM dead_letters")) == LIVE
            and scene.depth("inbox-dlq") >= 2
            and scene.depth("maintenance-dlq") >= 2
        ),
        within=SOON,
        what=lambda: str(scene.rows("SELECT queue FROM dead_letters")),
    )


def operate(scene: Scene) -> None:
    """What an operator does: looks, sends again what can be sent again, gives up the rest."""
    act = ["--yes", "--reason", "tests"]
    looks = [["dlq", what, queue] for queue in LIVE for what in ("list", "show", "redrive")]
    scene.okuru(["queues", "check"], ["queues", "stats"], *looks)
    # A message of the inbox is staged as a task of our own, for another queue.
    scene.okuru(["dlq", "redrive", "inbox", *act])
    scene.put("inbox-dlq", "what is this")
    scene.okuru(*(["dlq", "discard", queue, *act] for queue in LIVE))
    wait_until(
        lambda: ("SendMessageBatch", "maintenance") in scene.recorder.calls["relay"],
        within=SOON,
        what="the relay has what was redriven",
    )


def answers(client: Client) -> bool:
    try:
        return client.request("GET", "/readyz").status_code == 200
    except OSError:
        return False


def message(*, title: str) -> str:
    data = {"recipientId": "somebody", "title": title, "body": "text"}
    now = "2026-01-01T12:00:00Z"
    return json.dumps({"id": f"m-{title}", "type": "notification", "data": data, "timestamp": now})


# --- what the roles allow -----------------------------------------------------------------------


def granted(state: State, process: str) -> set[tuple[str, str]]:
    """(action, queue) of all that the task role of a process may do with queues."""
    found = set()
    for _, statement in state.statements(f'module.service["{process}"].aws_iam_role_policy.task'):
        for action in statement["Action"]:
            if action.startswith("sqs:"):
                assert "Condition" not in statement
                found |= {
                    (action, arn.rpartition(":")[2].removeprefix("okuru-prod-"))
                    for arn in statement["Resource"]
                }
    return found


@pytest.mark.parametrize("process", [*PROCFILE, OPERATOR])
def test_a_role_has_what_its_process_calls(prod: State, called: Calls, process: str) -> None:
    calls = {(action_of(operation), queue) for operation, queue in called.get(process, set())}

    assert granted(prod, process) == calls | RARE.get(process, set())


def test_everyone_who_called_is_known(called: Calls) -> None:
    assert called.keys() == {*PROCFILE, OPERATOR} - {"web"}


def test_the_web_has_no_rights_at_all(prod: State) -> None:
    assert not list(prod.statements('module.service["web"].aws_iam_role_policy.task'))


def test_only_operators_take_letters_out_of_a_dead_letter_queue(prod: State) -> None:
    for process in PROCFILE:
        taken = {queue for action, queue in granted(prod, process) if action == "sqs:DeleteMessage"}

        assert not taken & DEAD


@pytest.mark.parametrize("process", [*PROCFILE, OPERATOR])
def test_the_key_of_the_queues_is_for_those_who_send_and_receive(prod: State, process: str) -> None:
    """Amazon SQS Developer Guide, "Key management": "Configuring AWS KMS permissions"."""
    actions = {action for action, _ in granted(prod, process)}
    needed = set()
    if "sqs:ReceiveMessage" in actions:
        needed = {"kms:Decrypt"}
    if "sqs:SendMessage" in actions:
        needed = {"kms:Decrypt", "kms:GenerateDataKey"}
    allowed: set[str] = set()
    for _, statement in prod.statements(f'module.service["{process}"].aws_iam_role_policy.task'):
        if any(action.startswith("kms:") for action in statement["Action"]):
            allowed |= set(statement["Action"])
            assert statement["Condition"]["StringEquals"]["kms:ViaService"].startswith("sqs.")

    assert allowed == needed


def test_the_rest_of_a_task_role_is_known(prod: State) -> None:
    for process in [*PROCFILE, OPERATOR]:
        others = {
            statement["Sid"]
            for _, statement in prod.statements(
                f'module.service["{process}"].aws_iam_role_policy.task'
            )
            if not statement["Sid"].startswith("Sqs")
        }

        assert others <= {"QueueKey", "ProtectItself", "Enter", "Record"}
        assert ({"Enter", "Record"} <= others) == (process == OPERATOR)
