"""The services: what the Procfile and the catalogue ask for, with the time that tasks need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache

import pytest
from sqlalchemy.engine import make_url

from app import config
from okuru import procfile
from tasks.engine.catalogue import Catalogue
from tests.infra.terraform import OPERATOR, PROJECT, ROOT, State
from tests.unit.test_messages import ENVIRONMENT, declared

PROCFILE = procfile.read()
CATALOGUE = Catalogue.load("")


# --- the processes ------------------------------------------------------------------------------


def test_one_service_a_process_of_the_procfile(state: State) -> None:
    assert {each.index for each in state.of("aws_ecs_service")} == set(PROCFILE)
    assert set(state.containers()) == {*PROCFILE, OPERATOR}


def test_each_runs_the_line_of_the_procfile(state: State) -> None:
    for process, line in PROCFILE.items():
        assert state.process_container(process)["command"] == ["sh", "-c", f"exec {line}"]


def test_a_process_can_change_nothing_but_its_own_folder(state: State) -> None:
    for process in PROCFILE:
        container = state.process_container(process)

        assert container["user"] == "10001"
        assert container["readonlyRootFilesystem"] is True
        assert container["linuxParameters"]["capabilities"] == {"add": [], "drop": ["ALL"]}
        assert container["linuxParameters"]["initProcessEnabled"] is True
        assert [each["containerPath"] for each in container["mountPoints"]] == ["/tmp"]
        assert container["essential"] is True
    for service in state.of("aws_ecs_service"):
        assert service.values["enable_execute_command"] is False


def test_a_bad_revision_is_rolled_back(state: State) -> None:
    for service in state.of("aws_ecs_service"):
        assert service.values["deployment_circuit_breaker"] == [{"enable": True, "rollback": True}]
        assert service.values["deployment_minimum_healthy_percent"] == 50
        assert service.values["deployment_maximum_percent"] == 200
    # A rollback needs the revision before; a deploy needs it untouched by Terraform.
    for task in state.of("aws_ecs_task_definition"):
        assert task.values["skip_destroy"] is True
    assert (
        "ignore_changes = [task_definition, desired_count]"
        in (ROOT / "modules" / "service" / "main.tf").read_text()
    )


def test_a_task_bears_the_name_of_its_service(state: State) -> None:
    """By the tag: what a task may protect is its own service's (iam.tf)."""
    for service in state.of("aws_ecs_service"):
        process = service.index
        assert service.values["propagate_tags"] == "SERVICE"
        assert service.values["tags"]["Service"] == process


def test_each_asks_for_its_own_health(state: State) -> None:
    asked = {
        process: state.process_container(process)["healthCheck"]["command"] for process in PROCFILE
    }

    assert all(command[:3] == ["CMD", "okuru", "health"] for command in asked.values())
    assert {process: command[3:] for process, command in asked.items()} == {
        process: [process] for process in PROCFILE
    }


def test_every_variable_is_one_that_the_code_reads(state: State) -> None:
    known = config.variables()  # and DD_…, which ddtrace reads
    for process in state.containers():
        container = state.process_container(process)
        plain = {each["name"] for each in container["environment"]}
        secret = {each["name"] for each in container["secrets"]}

        assert {name for name in plain | secret if not name.startswith("DD_")} <= known
        assert not plain & secret
        assert not {name for name in plain if re.search("SECRET|PASSWORD|KEY|TOKEN", name)}
        assert {"DATABASE_URL", "QUEUE_URL_PREFIX"} <= plain


def test_the_database_is_spoken_with_by_tls_alone(state: State) -> None:
    for process in state.containers():
        url = make_url(state.variables(process)["DATABASE_URL"])

        assert url.query["sslmode"] == "require"
        assert url.password is None


def test_all_processes_together_stay_below_the_database_s_last_connection(
    prod: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic of the monitor rds-connections."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    tasks = {
        each.values["resource_id"].rpartition("-")[2]: each.values["max_capacity"]
        for each in prod.of("aws_appautoscaling_target")
    }
    held = 0
    for process in PROCFILE:
        variables = prod.variables(process)
        for name, value in variables.items():
            if name in ("WEB_PROCESSES", "WORKER_COUNT", "DB_MAX_OPEN_CONNS"):
                monkeypatch.setenv(name, value)
        settings = config.Settings.from_env()
        a_task = {
            "web": settings.web_processes * settings.db_max_open_conns,
            "relay": 1,
            "beat": 0,
        }.get(process, settings.worker_count + 1)  # a consumer: its pool, and its sweep of health
        held += tasks.get(process, 2) * a_task
    monitor = json.loads((ROOT / "datadog" / "monitors" / "rds-connections.json").read_text())
    (database,) = (each.values for each in prod.of("aws_db_instance"))

    assert database["instance_class"] == "db.t4g.medium"
    allowed = 4 * 1024**3 // 9_531_392
    assert held < monitor["options"]["thresholds"]["critical"] < allowed


def test_a_process_knows_the_secrets_of_those_it_speaks_with(prod: State) -> None:
    consumers = {queue.group for queue in CATALOGUE}
    sends = CATALOGUE["gifts"].group
    for process in prod.containers():
        secrets = {each["name"] for each in prod.process_container(process)["secrets"]}

        # Beat's, too: no process starts in production without a password.
        assert "PGPASSWORD" in secrets
        # `celery control`: who is asked, and who asks.
        assert ("REDIS_URL" in secrets) == (process in {*consumers, OPERATOR})
        assert ("SENDER_SECRET" in secrets) == (process == sends)
        assert ("SENDER_URL" in prod.variables(process)) == (process == sends)
        assert secrets <= {"PGPASSWORD", "REDIS_URL", "SENDER_SECRET"}
    assert prod.variables("web")["SENDER"] == "webhook"  # it refuses what only a simulation can do


def test_queues_are_where_the_processes_look_for_them(state: State) -> None:
    names = {each.values["name"] for each in state.of("aws_sqs_queue")}
    for process in PROCFILE:
        catalogue = Catalogue.load(state.variables(process)["QUEUE_URL_PREFIX"])
        looked_for = {
            catalogue.url(name).rpartition("/")[2]
            for queue in catalogue
            for name in (queue.name, queue.dead_letter_queue)
        }

        assert looked_for == names


# --- time ---------------------------------------------------------------------------------------


@cache
def limits_by_queue() -> dict[str, list[float]]:
    """The hard time limits of the tasks that may come by each queue."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITS], cwd=PROJECT, text=True, capture_output=True, check=False,
        env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    brings = {(message.queue, message.task) for message in declared().values()}
    brings |= {(queue, task) for queue, task in said["scheduled"]}
    brings |= {(queue.name, queue.foreign_task) for queue in CATALOGUE if queue.foreign_task}
    assert {task for _, task in brings} == said["limits"].keys(), "which queue brings the others?"
    return {
        queue.name: [said["limits"][task] for name, task in brings if name == queue.name]
        for queue in CATALOGUE
    }


#: In a process of its own: importing the tasks reads the environment.
LIMITS = """
import json
from tasks.celery import app, catalogue
app.loader.import_default_modules()
print(json.dumps({
    "limits": {name: task.time_limit for name, task in app.tasks.items() if name[:7] != "celery."},
    "scheduled": [[entry["options"]["queue"], entry["task"]]
                  for entry in app.conf.beat_schedule.values()],
}))
"""


def test_a_stop_is_longer_than_the_grace_and_the_grace_than_any_task(state: State) -> None:
    limits = limits_by_queue()
    for group in {queue.group for queue in CATALOGUE}:
        grace = float(state.variables(group)["WORKER_GRACE"])
        longest = max(
            limit for queue in CATALOGUE if queue.group == group for limit in limits[queue.name]
        )

        assert grace < state.process_container(group)["stopTimeout"] <= 120
        if longest >= grace:
            assert may_protect_itself(state, group), f"{group} has tasks of {longest} s"


def may_protect_itself(state: State, process: str) -> bool:
    return any(
        "ecs:UpdateTaskProtection" in statement["Action"]
        and statement["Condition"] == {"StringEquals": {"aws:ResourceTag/Service": process}}
        for _, statement in state.statements(
            f'module.service["{process}"].aws_iam_role_policy.task'
        )
    )


def test_those_who_may_protect_themselves_are_those_who_ask(state: State) -> None:
    """The rule of tasks/engine/engine.py."""
    ask = {
        queue.group
        for queue in CATALOGUE
        if queue.max_hold > float(state.variables(queue.group)["WORKER_GRACE"])
    }

    assert {each for each in state.containers() if may_protect_itself(state, each)} == ask


# --- beside it ----------------------------------------------------------------------------------


def test_with_datadog_every_process_has_a_router_and_an_agent(prod: State) -> None:
    for process, containers in prod.containers().items():
        names = [each["name"] for each in containers]
        assert names == [process, "log-router", "agent-files", "datadog-agent"]
        own, router, _, agent = containers
        variables = prod.variables(process)

        assert own["logConfiguration"]["logDriver"] == "awsfirelens"
        assert router["logConfiguration"]["logDriver"] == "awslogs"
        assert own["dependsOn"] == [{"containerName": "log-router", "condition": "START"}]
        assert variables["DD_TRACE_ENABLED"] == "true"
        assert variables["DD_AGENT_HOST"] == "127.0.0.1"
        assert variables["DD_SERVICE"] == f"okuru-{process}"
        assert [each["name"] for each in agent["secrets"]] == ["DD_API_KEY"]
        # Counters of two tasks of a service must not overwrite each other: with the task's ARN.
        assert {"name": "DD_CHECKS_TAG_CARDINALITY", "value": "orchestrator"} in agent[
            "environment"
        ]
        checks = json.loads(own["dockerLabels"]["com.datadoghq.ad.checks"])
        assert checks["openmetrics"]["instances"] == [
            json.loads((ROOT / "datadog" / "openmetrics.json").read_text())
        ]


def test_what_stands_beside_a_process_can_do_as_little(prod: State) -> None:
    task = {each.index: each.values for each in prod.of("aws_ecs_task_definition")}
    for process, containers in prod.containers().items():
        volumes = {each["name"] for each in task[process]["volume"]}
        for each in containers[1:]:
            assert each["readonlyRootFilesystem"] is True
            assert each["linuxParameters"]["capabilities"] == {"add": [], "drop": ["ALL"]}
        # What the agent may write to is its own, and is there before it starts.
        _, router, files, agent = containers
        mounted = {each["sourceVolume"]: each["containerPath"] for each in agent["mountPoints"]}
        assert mounted.keys() | {"tmp"} == volumes
        assert "tmp" not in mounted
        assert "mountPoints" not in router
        assert files["image"] == agent["image"]
        assert [each["sourceVolume"] for each in files["mountPoints"]] == ["agent-configuration"]
        assert mounted["agent-configuration"] in files["command"][-1]
        assert agent["dependsOn"] == [{"containerName": files["name"], "condition": "SUCCESS"}]
        # Whoever watches must not be able to stop what is watched.
        assert [each["essential"] for each in containers] == [True, True, False, False]


def test_an_image_is_named_by_its_exact_version(state: State) -> None:
    ours = {each.values["repository_url"] for each in state.of("aws_ecr_repository")}
    for containers in state.containers().values():
        for image in {each["image"] for each in containers}:
            if not any(image.startswith(repository) for repository in ours):
                assert re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", image), image
            assert ":latest" not in image
