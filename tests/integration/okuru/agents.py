"""moto's ECS, with somebody who does what it is told.

moto keeps the cluster, the task definitions, the tasks and the tags. It starts no container, so
that `Agents` plays the part of ECS that does: services change step by step, or are given up.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError
from click.testing import CliRunner, Result

from okuru.cli import main
from okuru.deploy import processes

REPOSITORY = "111111111111.dkr.ecr.ap-northeast-1.amazonaws.com/okuru-dev"
OLD = f"{REPOSITORY}@sha256:{'0' * 64}"
NEW = f"{REPOSITORY}@sha256:{'1' * 64}"


class Agents:
    """A client of ECS whose services run what they are told to, two looks later."""

    def __init__(self, ecs: Any) -> None:
        self._ecs = ecs
        self.exit_code: int | None = 0
        self.broken: set[str] = set()
        """Services whose next revision never becomes healthy."""
        self.stuck: set[str] = set()
        self.short: set[str] = set()
        """Services of whose tasks one does not come, whatever is said of the rollout."""
        self.failed: set[str] = set()
        """Services whose rollout ECS calls failed, and does not take back."""
        self.draining: set[str] = set()
        """Services whose old tasks never end."""
        self.updates: list[tuple[str, str]] = []
        self.runs: list[dict[str, Any]] = []
        self.before: dict[str, Callable[[], Any]] = {}
        """What happens, once, before a service's update."""
        self.after: dict[str, Callable[[], Any]] = {}
        self._running: dict[str, str] = {}
        self._looks: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ecs, name)

    def update_service(self, **wanted: Any) -> Any:
        name = wanted["service"]
        self.before.pop(name, _nothing)()
        self.updates.append((name, wanted["taskDefinition"]))
        self._looks[name] = 0
        answer = self._ecs.update_service(**wanted)
        self.after.pop(name, _nothing)()
        return answer

    def describe_services(self, **wanted: Any) -> Any:
        assert len(wanted["services"]) <= 10, "ECS refuses more"
        answer = self._ecs.describe_services(**wanted)
        for service in answer["services"]:
            if service["status"] == "ACTIVE":
                self._show(service)
        return answer

    def _show(self, service: dict[str, Any]) -> None:
        name, target = service["serviceName"], service["taskDefinition"]
        old = self._running.setdefault(name, target)
        service["runningCount"] = service["desiredCount"]
        service["events"] = [{"message": f"({name}) says what ECS says"}]
        primary = {"status": "PRIMARY", "taskDefinition": target, "rolloutState": "COMPLETED"}
        service["deployments"] = [primary]
        if target == old:
            return
        self._looks[name] += 1
        if self._looks[name] == 1:
            primary["taskDefinition"] = old  # what it shows is older than the update
        elif name in self.broken and self._looks[name] > 2:
            # What the circuit breaker does: the old deployment is the primary one again.
            service["deployments"] = [{**primary, "taskDefinition": old}]
        elif self._looks[name] < 4 or name in self.stuck:
            primary["rolloutState"] = "IN_PROGRESS"
            service["deployments"] = [primary, {**primary, "status": "ACTIVE"}]
        elif name in self.failed:
            primary["rolloutState"] = "FAILED"
        elif name in self.short:
            service["runningCount"] -= 1
        elif name in self.draining:
            service["deployments"] = [primary, {**primary, "status": "ACTIVE"}]
        else:
            self._running[name] = target

    def run_task(self, **wanted: Any) -> Any:
        self.runs.append(wanted)
        return self._ecs.run_task(**wanted)

    def describe_tasks(self, **wanted: Any) -> Any:
        answer = self._ecs.describe_tasks(**wanted)
        for task in answer["tasks"]:
            code = {} if self.exit_code is None else {"exitCode": self.exit_code}
            task["containers"] = [{"name": "datadog", "exitCode": 0}, {"name": "web", **code}]
            task["stoppedReason"] = "Essential container in task exited"
        return answer

    def running(self, but: str = "") -> dict[str, str]:
        """The image that each service is meant to run."""
        images = {}
        for process in [each for each in processes() if each != but]:
            name = f"okuru-dev-{process}"
            (service,) = self._ecs.describe_services(cluster="okuru-dev", services=[name])[
                "services"
            ]
            images[process] = self.container(process, service["taskDefinition"])["image"]
        return images

    def container(self, process: str, revision: str | None = None) -> dict[str, Any]:
        found = self.definition(revision or f"okuru-dev-{process}")["containerDefinitions"]
        (container,) = [each for each in found if each["name"] == process]
        return dict(container)

    def definition(self, revision: str) -> dict[str, Any]:
        return dict(self._ecs.describe_task_definition(taskDefinition=revision)["taskDefinition"])


def _nothing() -> None:
    pass


def stop() -> None:
    """Somebody cancels the workflow."""
    os.kill(os.getpid(), signal.SIGTERM)


def refuse(code: str = "AccessDenied", message: str = "no") -> None:
    raise ClientError({"Error": {"Code": code, "Message": message}}, "Operation")


def okuru(*arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--environment", "dev", "--json"])


def deploy(*more: str, image: str = NEW, version: str = "v2") -> Result:
    return okuru("deploy", "--image", image, "--version", version, *more)


def answer(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def define(ecs: Any, process: str, image: str = OLD, **more: Any) -> str:
    """As Terraform does it; `more` takes the place of what is there."""
    definition: dict[str, Any] = {
        "family": f"okuru-dev-{process}",
        "networkMode": "awsvpc",
        "requiresCompatibilities": ["FARGATE"],
        "cpu": "512",
        "memory": "1024",
        "executionRoleArn": "arn:aws:iam::111111111111:role/execution",
        "taskRoleArn": f"arn:aws:iam::111111111111:role/{process}",
        "volumes": [{"name": "tmp"}],
        "runtimePlatform": {"operatingSystemFamily": "LINUX", "cpuArchitecture": "X86_64"},
        "containerDefinitions": [
            {
                "name": process,
                "image": image,
                "memory": 512,
                "stopTimeout": 120,
                "readonlyRootFilesystem": True,
                "environment": [
                    {"name": "DD_VERSION", "value": "old"},
                    {"name": "ENVIRONMENT", "value": "production"},
                ],
                "dockerLabels": {"com.datadoghq.tags.version": "old"},
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {
                        "awslogs-group": f"/okuru/dev/{process}",
                        "awslogs-stream-prefix": "okuru",
                    },
                },
            },
            # moto adds it up, where ECS does without.
            {"name": "datadog", "image": "agent@sha256:abc", "essential": False, "memory": 256},
        ],
        "tags": [{"key": "Service", "value": process}],
    }
    made = ecs.register_task_definition(**definition | more)
    return str(made["taskDefinition"]["taskDefinitionArn"])


def everywhere(image: str) -> dict[str, str]:
    return dict.fromkeys(processes(), image)
