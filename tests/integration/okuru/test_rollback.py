"""`okuru rollback` on moto's ECS, after deploys and in the middle of one."""

from __future__ import annotations

import os
import signal

import pytest

from okuru import deploy as command
from okuru.revisions import DEPLOY, PREVIOUS
from tests.integration.okuru.agents import (
    NEW,
    OLD,
    REPOSITORY,
    Agents,
    answer,
    deploy,
    everywhere,
    okuru,
    refuse,
)

CONSUMERS, OTHERS = command.waves()


def test_a_rollback_goes_back_one_deploy_each_time(ecs: Agents) -> None:
    third = f"{REPOSITORY}@sha256:{'2' * 64}"
    deploy()
    deploy(image=third)
    assert ecs.running() == everywhere(third)
    ecs.updates.clear()
    assert okuru("rollback").exit_code == 0
    assert ecs.running() == everywhere(NEW)
    order = [name.removeprefix("okuru-dev-") for name, _ in ecs.updates]
    assert order == [*OTHERS, *CONSUMERS]
    assert okuru("rollback").exit_code == 0
    assert ecs.running() == everywhere(OLD)
    result = okuru("rollback")
    assert result.exit_code == 1
    assert "Name a revision of each service" in result.stderr


def test_a_rollback_steps_over_what_failed(ecs: Agents) -> None:
    deploy()
    ecs.broken = {"okuru-dev-beat"}
    assert deploy(image=f"{REPOSITORY}@sha256:{'2' * 64}").exit_code == 1
    ecs.broken = set()
    assert okuru("rollback").exit_code == 0
    assert ecs.running() == everywhere(OLD)


def test_one_service_goes_back_alone(ecs: Agents) -> None:
    deploy()
    result = okuru("rollback", "--service", "web")
    assert result.exit_code == 0, result.stderr
    assert ecs.running() == {**everywhere(NEW), "web": OLD}


def test_one_service_goes_to_a_revision_by_its_number(ecs: Agents) -> None:
    deploy()
    deploy(image=f"{REPOSITORY}@sha256:{'2' * 64}")
    assert okuru("rollback", "--service", "worker", "--revision", "1").exit_code == 0
    assert ecs.running()["worker"] == OLD


def test_a_dry_rollback_changes_nothing(ecs: Agents) -> None:
    deploy()
    ecs.updates.clear()
    result = okuru("rollback", "--dry-run")
    assert answer(result)["services"]["web"] == {
        "from": "okuru-dev-web:2",
        "to": "okuru-dev-web:1",
    }
    assert ecs.updates == []


@pytest.mark.parametrize("arguments", [("--revision", "1"), ("--service", "nobody")])
def test_a_rollback_that_makes_no_sense_is_refused(ecs: Agents, arguments: tuple[str, str]) -> None:
    assert okuru("rollback", *arguments).exit_code == 2


def tags_of(ecs: Agents, revision: str) -> dict[str, str]:
    found = ecs.describe_task_definition(taskDefinition=revision, include=["TAGS"])
    return {tag["key"]: tag["value"] for tag in found["tags"]}


def test_each_revision_remembers_its_deploy_and_the_one_before(ecs: Agents) -> None:
    deploy()
    tags = tags_of(ecs, "okuru-dev-web")
    assert tags.pop(PREVIOUS).endswith("okuru-dev-web:1")
    made_by = tags.pop(DEPLOY)
    assert made_by == tags_of(ecs, "okuru-dev-jobs")[DEPLOY]
    assert tags == {"Service": "web"}
    deploy()
    assert made_by < tags_of(ecs, "okuru-dev-web")[DEPLOY]


# --- at a bad moment ----------------------------------------------------------------------------


def test_a_rollback_meanwhile_ends_the_deploy_where_it_began(ecs: Agents) -> None:
    third = f"{REPOSITORY}@sha256:{'2' * 64}"
    deploy()
    told = []

    def rollback() -> None:
        for _ in range(2):  # until ECS shows what it has been told
            ecs.describe_services(cluster="okuru-dev", services=["okuru-dev-worker"])
        told.append(okuru("rollback"))

    ecs.before["okuru-dev-jobs"] = rollback
    result = deploy(image=third)
    assert told[0].exit_code == 0, told[0].stderr
    assert "web stays at okuru-dev-web:2: it is not of the last deploy" in told[0].stderr
    assert result.exit_code == 1
    assert "somebody else has changed it" in result.stderr
    assert ecs.running() == everywhere(NEW)


def test_a_rollback_that_was_cut_off_is_given_again(ecs: Agents) -> None:
    third = f"{REPOSITORY}@sha256:{'2' * 64}"
    deploy()
    deploy(image=third)
    ecs.before["okuru-dev-relay"] = refuse
    assert okuru("rollback").exit_code == 1
    assert ecs.running() == {**everywhere(NEW), "relay": third}
    assert okuru("rollback").exit_code == 0
    assert ecs.running() == everywhere(NEW)


def test_a_rollback_that_is_told_to_stop_tells_every_service_first(ecs: Agents) -> None:
    deploy()
    ecs.before["okuru-dev-relay"] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert okuru("rollback").exit_code == 1
    assert ecs.running() == everywhere(OLD)
