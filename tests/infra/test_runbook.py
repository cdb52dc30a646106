"""The commands of docs/runbook.md that ask AWS: the real AWS CLI runs them against an emulator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from okuru import procfile
from okuru.drill import runbook
from tests.infra.terraform import OPERATOR, State

ROOT = Path(__file__).parents[2]
REGION = "ap-northeast-1"
SECTIONS = list(dict.fromkeys(each.section for each in runbook.commands() if not each.is_local))
#: They want a plugin of their own, or what no emulator has: their arguments are checked, no more.
INTERACTIVE = re.compile(r"^aws (ecs execute-command|ssm start-session) ")
#: What the CLI says of arguments that it does not take.
MISSPELT = (
    "usage:",
    "Unknown options",
    "Parameter validation failed",
    "Invalid JSON",
    "Error parsing",
)


def client(service: str, url: str) -> Any:
    return boto3.client(  # type: ignore[call-overload]
        service,
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def account(aws: str) -> str:
    """An account as Terraform leaves it, as far as the commands look. Returns its address."""
    requests.post(f"{aws}/moto-api/reset", timeout=10).raise_for_status()

    ec2, ecs, rds, elb = (client(name, aws) for name in ("ec2", "ecs", "rds", "elbv2"))
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    made = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=REGION + zone)
        for n, zone in enumerate("ac")
    ]
    subnets = [each["Subnet"]["SubnetId"] for each in made]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    network = {"awsvpcConfiguration": {"subnets": subnets, "securityGroups": [group]}}
    ecs.create_cluster(clusterName="okuru-prod")
    processes = list(procfile.read())
    for name in (*processes, "operator"):
        ecs.register_task_definition(
            family=f"okuru-prod-{name}",
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="256",
            memory="512",
            containerDefinitions=[{"name": name, "image": "okuru", "cpu": 256, "memory": 512}],
        )
    for name in processes:
        ecs.create_service(
            cluster="okuru-prod",
            serviceName=f"okuru-prod-{name}",
            taskDefinition=f"okuru-prod-{name}",
            desiredCount=2,
            launchType="FARGATE",
            networkConfiguration=network,
        )
        client("logs", aws).create_log_group(logGroupName=f"/okuru/prod/{name}")
    for name in ("sender-secret", "datadog-api-key"):
        client("secretsmanager", aws).create_secret(Name=f"okuru/prod/{name}", SecretString="x")
    elb.create_target_group(Name="okuru-prod-web", Protocol="HTTP", Port=8080, VpcId=vpc)
    rds.create_db_subnet_group(
        DBSubnetGroupName="okuru-prod", DBSubnetGroupDescription="d", SubnetIds=subnets
    )
    rds.create_db_instance(
        DBInstanceIdentifier="okuru-prod",
        DBInstanceClass="db.t4g.medium",
        Engine="postgres",
        MasterUsername="okuru",
        MasterUserPassword="for-tests-only",
        AllocatedStorage=20,
        DBSubnetGroupName="okuru-prod",
    )
    return aws


@pytest.mark.parametrize("section", SECTIONS)
def test_the_commands_of_a_section_are_taken_by_aws(
    section: str, account: str, tool: Callable[[str], str], tmp_path: Path
) -> None:
    programs = [str(Path(tool("aws")).parent), str(Path(sys.executable).parent)]
    ec2 = client("ec2", account)
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    secret = tmp_path / "secret"
    secret.write_text("whsec_test")
    environment = {
        "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "USER": "operator",
        "NEW_SECRET_FILE": str(secret),
        "OPERATOR_NETWORK": f"awsvpcConfiguration={{subnets=[{subnet}],securityGroups=[{group}]}}",
        "AWS_ENDPOINT_URL": account,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_PAGER": "",
    }
    lines = [
        each.line
        for each in runbook.commands()
        if not each.is_local and each.section in ("before-you-begin", section)
    ]
    # One shell: a line uses what the one before has found out.
    script = "\n".join(
        f"{{ {line}\n}} 2> {tmp_path}/{n}.err\necho $? > {tmp_path}/{n}.code"
        for n, line in enumerate(lines)
    )
    subprocess.run(
        ["/bin/sh", "-u", "-c", script],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=300,
        check=True,
    )
    for n, line in enumerate(lines):
        code = int((tmp_path / f"{n}.code").read_text())
        error = (tmp_path / f"{n}.err").read_text()
        assert not any(words in error for words in MISSPELT), f"$ {line}\n{error}"
        if line.startswith("okuru rollback"):
            assert code != 2, error  # its own tests run it; here it takes its options
        elif not INTERACTIVE.match(line):
            assert code == 0, f"$ {line}\n{error}"


def test_what_no_test_of_this_page_runs_is_known() -> None:
    interactive = [each.line for each in runbook.commands() if INTERACTIVE.match(each.line)]
    assert len(interactive) == 2


def test_every_monitor_has_its_five_steps() -> None:
    page = runbook.PATH.read_text()
    monitors, _, _ = page.partition("\n# Procedures\n")
    sections = re.split(r"^## ", monitors.partition("\n# Monitors\n")[2], flags=re.M)[1:]
    assert len(sections) == 14
    for section in sections:
        steps = re.findall(r"^\*\*([A-Z][a-z ]+?)\.?\*\*", section, re.M)
        assert steps == ["What it means", *runbook.STEPS], section.splitlines()[0]


# --- names --------------------------------------------------------------------------------------

#: What an option of a command names: a resource of Terraform's, and where that has its name.
NAMED = {
    "--cluster": ("aws_ecs_cluster", "name"),
    "--services": ("aws_ecs_service", "name"),
    "--service": ("aws_ecs_service", "name"),
    "--service-name": ("aws_ecs_service", "name"),
    "--task-definition": ("aws_ecs_task_definition", "family"),
    "--resource-id": ("aws_appautoscaling_target", "resource_id"),
    "--names": ("aws_lb_target_group", "name"),
    "--log-group-name": ("aws_cloudwatch_log_group", "name"),
    "--secret-id": ("aws_secretsmanager_secret", "name"),
    "--db-instance-identifier": ("aws_db_instance", "identifier"),
    "--source-db-instance-identifier": ("aws_db_instance", "identifier"),
    "--db-subnet-group-name": ("aws_db_subnet_group", "name"),
}
#: What restoring the database makes, and what is left of it.
MADE = {"okuru-prod-restored", "okuru-prod-broken"}
_NAME = re.compile(r"okuru-prod[a-z0-9-]*|/?okuru/prod/[a-z0-9-]+")
_LOOP = re.compile(r"for (\w+) in ([\w ]+); do (.*); done")


def names(prod: State, *kinds: tuple[str, str]) -> set[str]:
    return {each.values[name] for kind, name in kinds for each in prod.of(kind)}


def as_run(line: str) -> list[str]:
    """The commands of a line, without the variables that the page itself has set."""
    (exported,) = [each.line for each in runbook.commands() if each.line.startswith("export ")]
    for name, value in re.findall(r"(\w+)=(\S+)", exported):
        line = re.sub(rf"\$({name}\b|{{{name}}})", value, line)
    if loop := _LOOP.fullmatch(line):
        return [loop[3].replace(f"${loop[1]}", each) for each in loop[2].split()]
    return [line]


def test_what_a_command_names_is_what_terraform_makes(prod: State) -> None:
    asked: dict[str, set[str]] = {option: set() for option in NAMED}
    for line in (each for command in runbook.commands() for each in as_run(command.line)):
        for option, values in re.findall(r"(--[a-z-]+) ((?:[^-\s'\"][^\s'\"]*\s?)+)", line):
            asked.get(option, set()).update(values.split())
    for option, kind in NAMED.items():
        assert asked[option], f"no command has {option}"
        assert asked[option] - MADE <= names(prod, kind), option


def test_every_name_of_the_page_is_terraforms(prod: State) -> None:
    """Also where no option says of what."""
    page = runbook.PATH.read_text()
    for command in runbook.commands():
        page = page.replace(command.line, "\n".join(as_run(command.line)))
    found = set(_NAME.findall(page))
    assert len(found) > 10
    assert found - MADE - names(prod, *NAMED.values()) == set()


def test_the_operators_container_is_terraforms(prod: State) -> None:
    (line,) = [each.line for each in runbook.commands() if " ecs execute-command " in each.line]
    assert f"--container {OPERATOR} " in line
    assert prod.process_container(OPERATOR)


def test_a_loop_leaves_no_process_out(prod: State) -> None:
    """One that goes on writing would spoil what is restored."""
    loops = [
        (set(loop[2].split()), loop[3])
        for command in runbook.commands()
        if (loop := _LOOP.fullmatch(command.line))
    ]
    assert len(loops) == 5
    scaled = {each.rpartition("okuru-prod-")[2] for each in names(prod, NAMED["--resource-id"])}
    for processes, run in loops:
        every = scaled if "register-scalable-target" in run else set(procfile.read())
        assert processes == every, run


# --- procedures ---------------------------------------------------------------------------------

#: What the commands of each must have in them, in this order.
PROCEDURES: dict[str, list[tuple[str, ...]]] = {
    "getting-in": [
        ("aws ecs run-task ", "okuru-prod-operator", "--enable-execute-command"),
        ("aws ecs execute-command ", "--interactive"),
        ("aws ssm start-session ", "AWS-StartPortForwardingSessionToRemoteHost"),
        ("aws ecs stop-task ",),
    ],
    "sending-dead-letters-again": [
        ("okuru dlq list ",),
        ("okuru dlq redrive gifts",),
        ("okuru dlq redrive gifts ", "--yes", "--reason", "--rate"),
    ],
    "rolling-back": [
        ("okuru rollback ", "--environment prod", "--dry-run"),
        ("okuru rollback ", "--environment prod"),
    ],
    "scaling-workers": [
        ("aws ecs update-service ", "okuru-prod-worker", "--desired-count"),
        ("register-scalable-target ", "okuru-prod-worker", "--min-capacity", "--max-capacity"),
    ],
    "restoring-the-database": [
        ("aws rds reboot-db-instance ", "--force-failover"),
        ("register-scalable-target ", "DynamicScalingOutSuspended=true"),
        ("aws ecs update-service ", "--desired-count 0"),
        ("aws rds restore-db-instance-to-point-in-time ", "$DATABASE-restored"),
        ("aws rds wait db-instance-available ", "$DATABASE-restored"),
        ("aws rds modify-db-instance ", "--new-db-instance-identifier $DATABASE-broken"),
        ("aws rds modify-db-instance ", "--new-db-instance-identifier $DATABASE "),
        ("aws ecs update-service ", "--desired-count $("),
        ("register-scalable-target ", "DynamicScalingOutSuspended=false"),
    ],
    "rotating-keys": [
        ("okuru keys ",),
        ("aws ecs update-service ", "--force-new-deployment"),
        ("aws secretsmanager put-secret-value ", "okuru/prod/sender-secret", "file://"),
        ("aws ecs update-service ", "okuru-prod-worker", "--force-new-deployment"),
    ],
}


def test_the_procedures_are_those_that_a_person_on_call_needs() -> None:
    page = runbook.PATH.read_text().partition("\n# Procedures\n")[2]
    titles = re.findall(r"^## (.+)$", page, re.M)
    assert [title.lower().replace(" ", "-") for title in titles] == list(PROCEDURES)


@pytest.mark.parametrize("section", PROCEDURES)
def test_a_procedure_has_its_commands_in_their_order(section: str) -> None:
    lines = iter([each.line for each in runbook.commands() if each.section == section])
    for words in PROCEDURES[section]:
        # Each is looked for behind the one before.
        assert any(all(word in line for word in words) for line in lines), words
