"""The services of one environment in ECS: what they run, other revisions, one task to its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import click
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from okuru.revisions import DEPLOY, PREVIOUS, Revision, short

if TYPE_CHECKING:
    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_ecs.type_defs import ServiceTypeDef, TaskTypeDef
    from mypy_boto3_logs import CloudWatchLogsClient

#: describe_services takes ten.
PAGE = 10
PATIENT = Config(
    connect_timeout=5, read_timeout=20, retries={"mode": "standard", "max_attempts": 8}
)

Say = Callable[[str], None]


class DeployError(click.ClickException):
    """The environment is not, or does not become, what was asked for."""


@dataclass(frozen=True)
class Service:
    """A service as it was when it was looked at."""

    process: str
    name: str
    revision: str
    """The ARN of the task definition that it is meant to run."""
    settled: bool
    failed: bool
    running: int
    desired: int
    deployments: int
    events: tuple[str, ...]
    placement: Mapping[str, Any]
    """Where its tasks run, for others that are to run there."""


class Cluster:
    """One environment's cluster. Its services and their families have the same names."""

    def __init__(
        self,
        environment: str,
        processes: list[str],
        *,
        every: float = 5,
        seen_within: float = 60,
        ecs: ECSClient | None = None,
        logs: CloudWatchLogsClient | None = None,
    ) -> None:
        self.environment = environment
        self.name = f"okuru-{environment}"
        self._services = {f"{self.name}-{process}": process for process in processes}
        self._every = every
        self._seen_within = seen_within
        self._ecs: ECSClient = ecs or boto3.client("ecs", config=PATIENT)
        self._logs: CloudWatchLogsClient = logs or boto3.client("logs", config=PATIENT)

    # --- looking --------------------------------------------------------------------------------

    def services(self, processes: Collection[str] | None = None) -> dict[str, Service]:
        """Every service, or those of these processes, by process.

        Raises DeployError, naming all that are not there.
        """
        names = [
            name
            for name, process in self._services.items()
            if processes is None or process in processes
        ]
        found: dict[str, Service] = {}
        for start in range(0, len(names), PAGE):
            page = self._ecs.describe_services(
                cluster=self.name, services=names[start : start + PAGE]
            )
            for each in page["services"]:
                if each["status"] == "ACTIVE":
                    service = _service(self._services[each["serviceName"]], each)
                    found[service.process] = service
        missing = [name for name in names if self._services[name] not in found]
        if missing:
            raise DeployError(f"the cluster {self.name} has no {', '.join(missing)}")
        return {self._services[name]: found[self._services[name]] for name in names}

    def revision(self, name: str) -> Revision:
        """A revision by its ARN; of a family, by its name, the newest."""
        found = self._ecs.describe_task_definition(taskDefinition=name, include=["TAGS"])
        operation = self._ecs.meta.service_model.operation_model("RegisterTaskDefinition")
        known = operation.input_shape.members if operation.input_shape else {}
        definition: dict[str, Any] = dict(found["taskDefinition"])
        return Revision(
            arn=definition["taskDefinitionArn"],
            definition={key: value for key, value in definition.items() if key in known},
            tags={tag["key"]: tag["value"] for tag in found.get("tags", [])},
        )

    def newest(self, process: str) -> Revision | None:
        """The newest revision of the process's family, whoever has registered it."""
        try:
            return self.revision(f"{self.name}-{process}")
        except self._ecs.exceptions.ClientException:
            return None

    # --- changing -------------------------------------------------------------------------------

    def register(self, revision: Revision, deploy: str, previous: str | None) -> str:
        """Register it; returns the new one's ARN. That remembers what its service ran before."""
        wanted: dict[str, Any] = dict(revision.definition)
        tags = {**revision.tags, DEPLOY: deploy, PREVIOUS: previous}
        if tags := {key: value for key, value in tags.items() if value}:
            wanted["tags"] = [{"key": key, "value": value} for key, value in tags.items()]
        made = self._ecs.register_task_definition(**wanted)
        return made["taskDefinition"]["taskDefinitionArn"]

    def update(self, process: str, revision: str) -> None:
        """Let the service replace its tasks by ones of the revision, one after the other."""
        self._ecs.update_service(
            cluster=self.name, service=f"{self.name}-{process}", taskDefinition=revision
        )

    def go_to(self, revisions: Mapping[str, str], *, deadline: float, say: Say) -> None:
        """Go back to them, all at once: an outage is no time for waiting in between.

        One that does not go keeps no other from going.

        Raises:
            DeployError: names every service that is not there in the end.
        """
        say("going to " + ", ".join(map(short, revisions.values())))
        problems: list[str] = []
        going: dict[str, str] = {}
        with _undisturbed():
            for process, revision in revisions.items():
                try:
                    self.update(process, revision)
                except (BotoCoreError, ClientError) as error:
                    problems.append(f"{process} was not told to go to {short(revision)}: {error}")
                else:
                    going[process] = revision
        try:
            self.wait(going, deadline=deadline, say=say)
        except DeployError as error:
            problems.append(error.message)
        if problems:
            raise DeployError("; ".join(problems))

    def run_once(
        self, like: Service, revision: str, command: list[str], *, deadline: float, say: Say
    ) -> None:
        """Run one task, where the service's tasks run, to its end, until `deadline` (monotonic).

        Raises:
            DeployError: it did not start, did not end in time, or its exit code is not 0. What it
                had to say has been said.
        """
        started = self._ecs.run_task(
            cluster=self.name,
            taskDefinition=revision,
            count=1,
            startedBy="okuru-deploy",
            overrides={"containerOverrides": [{"name": like.process, "command": command}]},
            **like.placement,
        )
        if not started["tasks"]:
            reasons = ", ".join(each.get("reason", "") for each in started["failures"])
            raise DeployError(f"`{' '.join(command)}` was not started: {reasons}")
        task = started["tasks"][0]["taskArn"]
        try:
            now = self._until_stopped(task, deadline=deadline, say=say)
        except BaseException:
            say(f"  {short(task)} was not seen to end: `{' '.join(command)}` may still run in it")
            raise
        code = next(
            (each.get("exitCode") for each in now["containers"] if each["name"] == like.process),
            None,
        )
        if code == 0:
            return
        for line in self._log(revision, like.process, task):
            say(f"  | {line}")
        reason = now.get("stoppedReason", "no reason given")
        raise DeployError(f"`{' '.join(command)}` ended with exit code {code}: {reason}")

    def _until_stopped(self, task: str, *, deadline: float, say: Say) -> TaskTypeDef:
        status = ""
        while True:
            # At first ECS may not know what it has just answered.
            found = self._ecs.describe_tasks(cluster=self.name, tasks=[task])["tasks"]
            if found and found[0]["lastStatus"] != status:
                status = found[0]["lastStatus"]
                say(f"  {short(task)} is {status}")
            if found and status == "STOPPED":
                return found[0]
            if time.monotonic() > deadline:
                raise DeployError(f"{short(task)} has not ended in time")
            time.sleep(self._every)

    def _log(self, revision: str, process: str, task: str) -> Iterator[str]:
        configuration = self.revision(revision).containers[process].get("logConfiguration")
        if configuration is None or configuration["logDriver"] != "awslogs":
            yield f"its log is where the environment's logs are: look for the task {short(task)}"
            return
        options = configuration.get("options", {})
        stream = f"{options.get('awslogs-stream-prefix')}/{process}/{short(task)}"
        try:
            page = self._logs.get_log_events(
                logGroupName=options["awslogs-group"], logStreamName=stream, limit=50
            )
        except self._logs.exceptions.ResourceNotFoundException:
            yield f"it logged nothing ({stream})"
            return
        except (BotoCoreError, ClientError) as error:
            yield f"its log {stream} cannot be read: {error}"
            return
        for event in page["events"]:
            yield event.get("message", "")

    # --- waiting --------------------------------------------------------------------------------

    def wait(self, wanted: Mapping[str, str], *, deadline: float, say: Say) -> None:
        """Wait until each of the services runs its revision and nothing else, until `deadline`.

        Raises:
            DeployError: one of them runs something else again (the circuit breaker of ECS, or
                somebody else's command), or time is over.
        """
        said: dict[str, str] = {}
        begun: set[str] = set()  # what ECS shows may be older than the last update, for a while
        believed_at = time.monotonic() + self._seen_within
        while wanted:
            services = self.services(wanted)
            for process, service in services.items():
                reached = service.revision == wanted[process]
                if reached:
                    begun.add(process)
                believed = process in begun or time.monotonic() > believed_at
                gave_up = service.failed if reached else believed
                state = "gave up on" if gave_up else "runs" if service.settled else "changes to"
                line = f"{state} {short(wanted[process])}, {service.running} of {service.desired}"
                if said.get(process) != line and (process in begun or gave_up):
                    said[process] = line
                    say(f"  {process} {line} tasks")
                if gave_up:
                    _tell(service, say)
                    raise DeployError(
                        f"{process} does not become stable: ECS has given it up, or somebody else "
                        f"has changed it. It is meant to run {short(service.revision)} now"
                    )
            waiting = [
                each for name, each in services.items() if name not in begun or not each.settled
            ]
            if not waiting:
                return
            if time.monotonic() > deadline:
                for service in waiting:
                    _tell(service, say)
                names = ", ".join(each.process for each in waiting)
                raise DeployError(f"not stable in time: {names}")
            time.sleep(self._every)


def _service(process: str, found: ServiceTypeDef) -> Service:
    deployments = found["deployments"]
    primary = next((each for each in deployments if each["status"] == "PRIMARY"), None)
    rollout = primary.get("rolloutState", "COMPLETED") if primary else "IN_PROGRESS"
    running, desired = found["runningCount"], found["desiredCount"]
    return Service(
        process=process,
        name=found["serviceName"],
        # Of the deployment: when the circuit breaker of ECS rolls back, this is what changes.
        revision=(primary or found)["taskDefinition"],
        settled=rollout == "COMPLETED" and running == desired and len(deployments) == 1,
        failed=rollout == "FAILED",
        running=running,
        desired=desired,
        deployments=len(deployments),
        events=tuple(event.get("message", "") for event in found.get("events", [])[:5]),
        placement={
            name: found[name]
            for name in ("launchType", "capacityProviderStrategy", "networkConfiguration")
            if found.get(name)
        },
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Whoever is told to stop meanwhile stops after it: half a way back is none."""
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt


def _tell(service: Service, say: Say) -> None:
    for event in service.events:
        say(f"  | {event}")
