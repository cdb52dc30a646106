from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import boto3
import pytest
from moto import mock_aws

from app.config import Settings
from okuru import deploy as command
from okuru.ecs import Cluster
from tasks import letters
from tests.integration.celery_app import worker_app, workers
from tests.integration.okuru.agents import Agents, define
from tests.integration.okuru.operator import Operator

__all__ = ["worker_app", "workers"]


@pytest.fixture
def operator(
    workers: ModuleType, settings: Settings, sqs_url: str, monkeypatch: pytest.MonkeyPatch
) -> Operator:
    """Runs `okuru …` on this test's own database and queues."""
    # The emulator's one server knows at once that there are no more letters.
    monkeypatch.setattr(letters, "WAIT", 0)
    # Whoever imported `tasks.celery` first may have had another environment.
    monkeypatch.setattr(workers, "settings", settings)
    return Operator(workers, sqs_url)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # half a second each time
    with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1:.*"]}}}):
        yield


@pytest.fixture
def ecs(aws: None, monkeypatch: pytest.MonkeyPatch) -> Agents:
    """A cluster with a service for each process of the Procfile."""
    client = boto3.client("ecs")
    client.create_cluster(clusterName="okuru-dev")
    ec2 = boto3.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    for process in command.processes():
        client.create_service(
            cluster="okuru-dev",
            serviceName=f"okuru-dev-{process}",
            taskDefinition=define(client, process),
            desiredCount=2,
            launchType="FARGATE",
            networkConfiguration={
                "awsvpcConfiguration": {"subnets": [subnet], "securityGroups": [group]}
            },
        )
    agents = Agents(client)

    def cluster(environment: str, processes: list[str]) -> Cluster:
        return Cluster(environment, processes, every=0, seen_within=0.5, ecs=agents)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "Cluster", cluster)
    return agents
