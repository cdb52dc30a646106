"""Who may become which role, which role a policy hangs on, and all that a deploy may do."""

from __future__ import annotations

import json
import re
from typing import Any

from okuru import procfile
from tests.infra.terraform import OPERATOR, PROJECT, State

PROCFILE = procfile.read()
ACCOUNT = {"aws:SourceAccount": "111111111111"}
OIDC = "token.actions.githubusercontent.com"
#: Any task of this account, in this region.
TASKS = {
    "Principal": {"Service": "ecs-tasks.amazonaws.com"},
    "Action": "sts:AssumeRole",
    "Condition": {
        "StringEquals": ACCOUNT,
        "ArnLike": {"aws:SourceArn": "arn:aws:ecs:ap-northeast-1:111111111111:*"},
    },
}


def of_service(name: str) -> dict[str, Any]:
    return {
        "Principal": {"Service": f"{name}.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": ACCOUNT},
    }


#: {role: who may take it}, beside the two of each process.
TRUST = {
    "database-monitoring": of_service("monitoring.rds"),
    "flow-log": of_service("vpc-flow-logs"),
    "datadog": {
        # Datadog's own, for its site in Tokyo (its documentation, "AWS integration").
        "Principal": {"AWS": "arn:aws:iam::417141415827:root"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": "0123456789abcdef0123456789abcdef"}},
    },
    "deploy": {
        "Principal": {"Federated": f"arn:aws:iam::111111111111:oidc-provider/{OIDC}"},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {
            "StringEquals": {
                f"{OIDC}:aud": "sts.amazonaws.com",
                f"{OIDC}:ref": "refs/heads/main",
                f"{OIDC}:sub": "repo:example/okuru:environment:prod",
            }
        },
    },
}


def test_each_role_is_taken_by_whom_it_is_for(prod: State) -> None:
    of_processes = {
        f"{process}-{kind}": TASKS
        for process in (*PROCFILE, OPERATOR)
        for kind in ("execution", "task")
    }

    assert {
        role.values["name"].removeprefix("okuru-prod-"): json.loads(
            role.values["assume_role_policy"]
        )
        for role in prod.of("aws_iam_role")
    } == {
        name: {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]}
        for name, statement in (TRUST | of_processes).items()
    }


def test_a_process_has_its_own_two_roles(prod: State) -> None:
    """So that what other tests find in a policy of a process is what the process may do."""
    for process in prod.containers():
        module = f'module.service["{process}"]'
        definition = prod.at(f"{module}.aws_ecs_task_definition.task")
        for kind in ("execution", "task"):
            role = prod.at(f"{module}.aws_iam_role.{kind}")
            assert role["name"] == f"okuru-prod-{process}-{kind}"
            assert definition[f"{kind}_role_arn"] == role["arn"]
    # Of mocks alone it would not be seen which is which.
    roles = [each for each in prod.of("aws_iam_role") if each.index == "worker"]
    assert len({each.values["arn"] for each in roles}) == 2


def test_a_policy_hangs_on_the_role_of_its_name(prod: State) -> None:
    names = {each.values["id"]: each.values["name"] for each in prod.of("aws_iam_role")}
    hangs = {
        each.address: names[each.values["role"]].removeprefix("okuru-prod-")
        for each in prod.of("aws_iam_role_policy")
    }
    expected = {
        f'module.service["{process}"].aws_iam_role_policy.execution': f"{process}-execution"
        for process in (*PROCFILE, OPERATOR)
    }
    # Who calls nothing has none (test_iam.py).
    expected |= {
        f'module.service["{process}"].aws_iam_role_policy.task[0]': f"{process}-task"
        for process in (*PROCFILE, OPERATOR)
        if list(prod.statements(f'module.service["{process}"].aws_iam_role_policy.task'))
    }

    assert hangs == expected | {
        "aws_iam_role_policy.datadog[0]": "datadog",
        "aws_iam_role_policy.deploy": "deploy",
        "aws_iam_role_policy.flow_log": "flow-log",
    }
    attached = [each.values for each in prod.of("aws_iam_role_policy_attachment")]
    assert [(each["role"], each["policy_arn"].rpartition("/")[2]) for each in attached] == [
        ("okuru-prod-database-monitoring", "AmazonRDSEnhancedMonitoringRole")
    ]


def test_the_flow_log_is_written_to_its_own_group(prod: State) -> None:
    ((_, statement),) = prod.statements("aws_iam_role_policy.flow_log")

    assert statement["Resource"] == [prod.at("aws_cloudwatch_log_group.flow")["arn"] + ":*"]
    assert set(statement["Action"]) == {
        "logs:CreateLogStream",
        "logs:DescribeLogStreams",
        "logs:PutLogEvents",
    }


def test_a_deploy_may_do_this_and_nothing_else(prod: State) -> None:
    modules = [f'module.service["{process}"]' for process in sorted([*PROCFILE, OPERATOR])]
    definitions = {
        module: prod.at(f"{module}.aws_ecs_task_definition.task")["arn_without_revision"]
        for module in modules
    }
    web = definitions['module.service["web"]']
    log = prod.below("aws_cloudwatch_log_group.process")["web"]["arn"]
    assert web not in [definitions[module] for module in modules if "web" not in module]
    services = [each.values["id"] for each in prod.of("aws_ecs_service")]
    roles = [
        prod.at(f"{module}.aws_iam_role.{kind}")["arn"]
        for module in modules
        for kind in ("execution", "task")
    ]
    a_task = "arn:aws:ecs:ap-northeast-1:111111111111:task/okuru-prod/*"

    def equals(name: str, value: str) -> dict[str, Any]:
        return {"StringEquals": {name: value}}

    # By Sid: actions, resources, condition.
    expected: dict[str, tuple[str, list[str], dict[str, Any] | None]] = {
        "EcrLogin": ("ecr:GetAuthorizationToken", ["*"], None),
        "Push": (
            (
                "ecr:BatchCheckLayerAvailability ecr:BatchGetImage ecr:CompleteLayerUpload "
                "ecr:DescribeImages ecr:InitiateLayerUpload ecr:PutImage ecr:UploadLayerPart"
            ),
            [prod.at("aws_ecr_repository.okuru")["arn"]],
            None,
        ),
        "TaskDefinitions": ("ecs:DescribeTaskDefinition ecs:RegisterTaskDefinition", ["*"], None),
        "SayWhatRanBefore": (
            "ecs:TagResource",
            [f"{arn}:*" for arn in definitions.values()],
            equals("ecs:CreateAction", "RegisterTaskDefinition"),
        ),
        "Deploy": ("ecs:DescribeServices ecs:UpdateService", services, None),
        "Migrate": (
            "ecs:RunTask",
            [f"{web}:*"],
            {"ArnEquals": {"ecs:cluster": prod.at("aws_ecs_cluster.main")["arn"]}},
        ),
        "WaitForTheMigration": ("ecs:DescribeTasks", [a_task], None),
        "ReadTheMigrationsLog": ("logs:GetLogEvents", [f"{log}:*"], None),
        "HandRolesToTasks": (
            "iam:PassRole",
            roles,
            equals("iam:PassedToService", "ecs-tasks.amazonaws.com"),
        ),
    }

    assert len(services) == len(PROCFILE)
    assert {
        each["Sid"]: (sorted(each["Action"]), sorted(each["Resource"]), each.get("Condition"))
        for _, each in prod.statements("aws_iam_role_policy.deploy")
    } == {
        sid: (actions.split(), sorted(resources), condition)
        for sid, (actions, resources, condition) in expected.items()
    }


def test_the_workflows_are_told_all_that_they_ask_for(prod: State) -> None:
    workflows = PROJECT / ".github" / "workflows"
    text = "".join((workflows / name).read_text() for name in ("deploy.yml", "rollback.yml"))
    #: By hand: where the API is, and what somebody has looked at (docs/IMPORT_NOTES.md).
    by_hand = {"API_URL", "ACCEPT_SHAPE"}

    assert prod.outputs["deploy"].keys() == set(re.findall(r"vars\.([A-Z_]+)", text)) - by_hand
    assert prod.outputs["deploy"] == {
        "AWS_REGION": "ap-northeast-1",
        "AWS_DEPLOY_ROLE": prod.at("aws_iam_role.deploy")["arn"],
        "ECR_REPOSITORY": prod.at("aws_ecr_repository.okuru")["repository_url"],
    }
    assert prod.at("aws_iam_role.deploy")["arn"].endswith("/deploy")


def test_an_operator_gets_a_port_by_the_one_document_that_forwards(prod: State) -> None:
    told = prod.outputs["operator"]
    cache = prod.at("aws_elasticache_replication_group.valkey")["primary_endpoint_address"]
    places = {"database": ("db.example.com", 5432), "cache": (cache, 6379)}

    assert told["ports"].keys() == places.keys()
    for name, (host, port) in places.items():
        assert "--document-name AWS-StartPortForwardingSessionToRemoteHost " in told["ports"][name]
        asked = json.loads(re.findall(r"--parameters '(.+)'", told["ports"][name])[0])
        assert asked == {
            "host": [host],
            "portNumber": [str(port)],
            "localPortNumber": [f"1{port}"],
        }
    group = prod.at(f'module.service["{OPERATOR}"].aws_security_group.task')["id"]
    assert f"securityGroups=[{group}]" in told["start"]
    assert "--task-definition okuru-prod-operator " in told["start"]
    assert "--enable-execute-command" in told["start"]
