"""The template of a deploy is the family's newest revision, whoever has registered that."""

from __future__ import annotations

from typing import Any

import pytest

from okuru.revisions import Revision, differences
from tests.integration.okuru.agents import NEW, OLD, Agents, answer, define, deploy

ROLE = "arn:aws:iam::111111111111:role/"


def containers(ecs: Agents, process: str, **more: Any) -> list[dict[str, Any]]:
    """Those that run, the process's own with something else."""
    found = ecs.definition(f"okuru-dev-{process}:1")["containerDefinitions"]
    return [each | more if each["name"] == process else each for each in found]


ANOTHER = {"name": "helper", "image": "helper:1", "memory": 64, "essential": False}
TO_ADMIN = {"taskRoleArn": f"{ROLE}admin"}


@pytest.mark.parametrize(
    ("changed", "added", "kept", "said"),
    [
        (TO_ADMIN, [], 2, f"taskRoleArn: {ROLE}beat → {ROLE}admin"),
        (
            {"executionRoleArn": f"{ROLE}admin"},
            *([], 2),
            f"executionRoleArn: {ROLE}execution → {ROLE}admin",
        ),
        ({}, [ANOTHER], 2, "the container helper is new, with helper:1"),
        ({}, [], 1, "the container datadog is gone"),
        # A role is not hidden by a container of its name.
        (
            TO_ADMIN,
            *([ANOTHER | {"name": "taskRoleArn"}], 2),
            f"taskRoleArn: {ROLE}beat → {ROLE}admin",
        ),
    ],
    ids=["task role", "execution role", "one container more", "one less", "hidden role"],
)
def test_another_role_or_container_does_not_go_live_unasked(
    ecs: Agents, changed: dict[str, Any], added: list[dict[str, Any]], kept: int, said: str
) -> None:
    define(ecs, "beat", containerDefinitions=containers(ecs, "beat")[:kept] + added, **changed)
    result = deploy()
    assert result.exit_code == 1
    assert "okuru-dev-beat:2 does not run as okuru-dev-beat:1 does" in result.stderr
    assert said in result.stderr.partition("Error: ")[2]
    assert "If that is meant: --accept-shape okuru-dev-beat:2" in result.stderr
    assert answer(result)["outcome"] == "refused"
    assert (ecs.updates, ecs.runs) == ([], [])
    assert ecs.definition("okuru-dev-web")["revision"] == 1  # nothing was registered


def test_what_is_accepted_by_its_number_goes_live(ecs: Agents) -> None:
    define(ecs, "beat", taskRoleArn=f"{ROLE}scheduler")
    result = deploy("--accept-shape", "okuru-dev-beat:2")
    assert result.exit_code == 0, result.stderr
    assert f"has another shape: taskRoleArn: {ROLE}beat → {ROLE}scheduler" in result.stderr
    assert ecs.running()["beat"] == NEW
    assert ecs.definition("okuru-dev-beat")["taskRoleArn"] == f"{ROLE}scheduler"
    # It runs now: the next deploy asks nothing.
    assert deploy(image=OLD).exit_code == 0


def test_the_workflow_accepts_by_a_variable(ecs: Agents, monkeypatch: pytest.MonkeyPatch) -> None:
    for process in ("beat", "web"):
        define(ecs, process, taskRoleArn=f"{ROLE}new")
    monkeypatch.setenv("ACCEPT_SHAPE", "okuru-dev-beat:2")
    result = deploy()
    assert result.exit_code == 1
    assert "okuru-dev-beat:2 does not" not in result.stderr
    assert "okuru-dev-web:2 does not" in result.stderr
    monkeypatch.setenv("ACCEPT_SHAPE", "okuru-dev-beat:2 okuru-dev-web:2")
    assert deploy().exit_code == 0
    monkeypatch.setenv("ACCEPT_SHAPE", "")
    assert deploy(image=OLD).exit_code == 0


def test_what_somebody_registers_afterwards_is_not_accepted_with_it(ecs: Agents) -> None:
    define(ecs, "beat", taskRoleArn=f"{ROLE}scheduler")
    define(ecs, "beat", taskRoleArn=f"{ROLE}admin")
    result = deploy("--accept-shape", "okuru-dev-beat:2")
    assert result.exit_code == 1
    assert "okuru-dev-beat:3" in result.stderr
    assert ecs.updates == []


@pytest.mark.parametrize("more", [("--dry-run",), ()])
def test_every_other_difference_is_shown_and_no_value(ecs: Agents, more: tuple[str, ...]) -> None:
    changed = containers(
        ecs,
        "jobs",
        command=["sh", "-c", "exec something else"],
        environment=[
            {"name": "SENDER_URL", "value": "https://user:password@example.com"},
            {"name": "ENVIRONMENT", "value": "local"},
        ],
        secrets=[{"name": "PGPASSWORD", "valueFrom": "arn:aws:secretsmanager:another"}],
        readonlyRootFilesystem=False,
    )
    define(ecs, "jobs", memory="2048", containerDefinitions=changed)
    result = deploy(*more)
    assert result.exit_code == 0, result.stderr
    shown = [
        "memory: 1024 → 2048",
        'jobs: command: nothing → ["sh", "-c", "exec something else"]',
        "jobs: environment.DD_VERSION is gone",
        "jobs: environment.ENVIRONMENT changes",
        "jobs: environment.SENDER_URL is new",
        "jobs: readonlyRootFilesystem: true → false",
        "jobs: secrets.PGPASSWORD.valueFrom: nothing → arn:aws:secretsmanager:another",
    ]
    differences = answer(result)["services"]["jobs"]["differences"]
    for line in shown:
        assert f"okuru-dev-jobs:2 has another shape: {line}\n" in result.stderr
        assert line in differences
    assert "password" not in result.output
    assert answer(result)["services"]["web"]["differences"] == []


def test_a_dry_run_says_what_would_be_refused(ecs: Agents) -> None:
    define(ecs, "web", taskRoleArn=f"{ROLE}admin")
    result = deploy("--dry-run")
    assert result.exit_code == 0
    assert "If that is meant: --accept-shape okuru-dev-web:2" in result.stderr


def test_an_order_is_no_difference_and_a_name_that_is_there_twice_hides_nothing() -> None:
    def revision(*environment: str) -> Revision:
        variables = [{"name": each[0], "value": each[1:]} for each in environment]
        web = {"name": "web", "image": "i", "environment": variables}
        return Revision("arn:x/web:1", {"cpu": "256", "containerDefinitions": [web]})

    assert differences(revision("A1", "B2"), revision("B2", "A1")) == []
    assert differences(revision("A1"), revision("A2", "A1")) != []
