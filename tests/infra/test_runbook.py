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
