"""The migration of a deploy: one task of ECS, seen to its end."""

from __future__ import annotations

import boto3
import pytest

from tests.integration.okuru.agents import (
    NEW,
    Agents,
    define,
    deploy,
    everywhere,
    refuse,
    stop,
)


def test_a_migration_that_ecs_cannot_place_is_said_to_be_none(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = {"tasks": [], "failures": [{"reason": "RESOURCE:CPU"}]}
    monkeypatch.setattr(ecs, "run_task", lambda **_: answered)
    result = deploy()
    assert "`okuru migrate up` was not started: RESOURCE:CPU" in result.stderr
    assert ecs.updates == []


def test_a_migration_that_does_not_end_is_named(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecs, "describe_tasks", lambda **_: {"tasks": [{"lastStatus": "RUNNING"}]})
    result = deploy("--timeout", "0.5")
    assert "has not ended in time. No service has changed" in result.stderr
    assert "may still run in it" in result.stderr


def test_who_has_its_logs_elsewhere_is_told_what_to_look_for(ecs: Agents) -> None:
    before = ecs.definition("okuru-dev-web:1")["containerDefinitions"]
    before[0]["logConfiguration"] = {"logDriver": "awsfirelens", "options": {"Name": "datadog"}}
    define(ecs, "web", containerDefinitions=before)
    ecs.exit_code = 1
    assert "look for the task" in deploy().stderr


def test_a_migration_that_ecs_does_not_know_at_first_is_waited_for(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([True, True])
    describe = ecs.describe_tasks
    monkeypatch.setattr(
        ecs,
        "describe_tasks",
        lambda **wanted: {"tasks": []} if next(looks, False) else describe(**wanted),
    )
    assert deploy().exit_code == 0
    assert ecs.running() == everywhere(NEW)


def test_who_is_told_to_stop_while_it_migrates_is_told_what_may_still_run(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecs, "describe_tasks", lambda **_: stop() or {"tasks": []})
    result = deploy()
    assert result.exit_code == 1
    assert "`okuru migrate up` may still run in it" in result.stderr
    assert "told to stop. No service has changed" in result.stderr


def test_a_migration_that_fails_without_its_log_says_its_exit_code(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecs.exit_code = 3
    refused = boto3.client("logs")
    monkeypatch.setattr(refused, "get_log_events", lambda **_: refuse())
    monkeypatch.setattr("okuru.ecs.boto3.client", lambda *_, **__: refused)
    result = deploy()
    assert "cannot be read" in result.stderr
    assert "ended with exit code 3" in result.stderr
