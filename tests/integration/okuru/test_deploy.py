"""`okuru deploy` and `okuru rollback` on moto's ECS."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from pytest_httpserver import HTTPServer

from okuru import deploy as command
from okuru.ecs import Cluster
from tests.integration.okuru.agents import (
    NEW,
    OLD,
    REPOSITORY,
    Agents,
    answer,
    define,
    deploy,
    everywhere,
    okuru,
    refuse,
    stop,
)

CONSUMERS, OTHERS = command.waves()


# --- deploy -------------------------------------------------------------------------------------


def test_a_deploy_brings_the_image_to_every_process_of_the_procfile(ecs: Agents) -> None:
    result = deploy()
    assert result.exit_code == 0, result.stderr
    assert ecs.running() == everywhere(NEW)
    document = answer(result)
    assert document["outcome"] == "deployed"
    assert document["services"]["relay"] == {
        "from": "okuru-dev-relay:1",
        "image": OLD,
        "differences": [],
        "to": "okuru-dev-relay:2",
    }


def test_a_deploy_changes_the_image_and_the_version_and_nothing_else(ecs: Agents) -> None:
    before = ecs.definition("okuru-dev-worker:1")
    deploy()
    after = ecs.definition("okuru-dev-worker:2")
    for each in (before, after):
        for made_by_ecs in ("revision", "taskDefinitionArn"):
            del each[made_by_ecs]
    ours = before["containerDefinitions"][0]
    ours["image"] = NEW
    ours["environment"][0]["value"] = "v2"
    ours["dockerLabels"]["com.datadoghq.tags.version"] = "v2"
    assert after == before


def test_what_terraform_has_registered_since_goes_live(ecs: Agents) -> None:
    define(ecs, "beat", ephemeralStorage={"sizeInGiB": 30})
    deploy()
    assert ecs.definition("okuru-dev-beat")["ephemeralStorage"] == {"sizeInGiB": 30}
    assert ecs.container("beat")["image"] == NEW


def test_the_migration_runs_first_where_the_api_runs(ecs: Agents) -> None:
    deploy()
    (run,) = ecs.runs
    assert run["taskDefinition"].endswith("okuru-dev-web:2")
    assert run["overrides"] == {
        "containerOverrides": [{"name": "web", "command": ["okuru", "migrate", "up"]}]
    }
    assert run["launchType"] == "FARGATE"
    assert run["networkConfiguration"]["awsvpcConfiguration"]["subnets"]


def test_who_runs_tasks_changes_before_who_stages_them(ecs: Agents) -> None:
    deploy()
    order = [name.removeprefix("okuru-dev-") for name, _ in ecs.updates]
    assert order == [*CONSUMERS, *OTHERS]
    assert set(CONSUMERS) >= {"worker", "jobs"}
    assert not {"web", "relay", "beat"} & set(CONSUMERS)
    assert "web" in OTHERS


@pytest.mark.parametrize("code", [1, None])
def test_a_migration_that_fails_changes_no_service(ecs: Agents, code: int | None) -> None:
    ecs.exit_code = code
    result = deploy()
    assert result.exit_code == 1
    assert f"ended with exit code {code}: Essential container" in result.stderr
    assert "it logged nothing" in result.stderr
    assert ecs.updates == []
    assert answer(result)["outcome"] == "refused"


def test_the_log_of_a_failed_migration_is_shown(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecs.exit_code = 1
    logs = boto3.client("logs")
    logs.create_log_group(logGroupName="/okuru/dev/web")
    run_task = ecs.run_task

    def run_and_log(**wanted: Any) -> Any:
        started = run_task(**wanted)
        task = started["tasks"][0]["taskArn"].rpartition("/")[2]
        place = {"logGroupName": "/okuru/dev/web", "logStreamName": f"okuru/web/{task}"}
        logs.create_log_stream(**place)
        event = {"timestamp": int(time.time() * 1000), "message": "lock timeout"}
        logs.put_log_events(**place, logEvents=[event])
        return started

    monkeypatch.setattr(ecs, "run_task", run_and_log)
    assert "| lock timeout" in deploy().stderr


@pytest.mark.parametrize("broken", ["jobs", "web"])
def test_a_service_that_is_given_up_takes_all_others_back(ecs: Agents, broken: str) -> None:
    ecs.broken = {f"okuru-dev-{broken}"}
    result = deploy()
    assert result.exit_code == 1
    assert f"{broken} does not become stable" in result.stderr
    assert f"(okuru-dev-{broken}) says what ECS says" in result.stderr
    assert ecs.running() == everywhere(OLD)
    assert answer(result)["outcome"] == "rolled-back"
    touched = {name for name, _ in ecs.updates}
    assert ("okuru-dev-web" in touched) == (broken == "web")  # the second wave never began


@pytest.mark.parametrize("lags", ["stuck", "short", "draining"])
def test_time_that_is_over_takes_them_back(ecs: Agents, lags: str) -> None:
    """Stable is: the rollout is over, every task runs, and none of the old ones does."""
    setattr(ecs, lags, {"okuru-dev-beat"})
    result = deploy("--timeout", "2")
    assert result.exit_code == 1
    assert "not stable in time" in result.stderr
    assert ecs.running() == everywhere(OLD)
    assert answer(result)["outcome"] == "rolled-back"  # which has as much time again


def test_a_rollout_that_has_failed_takes_all_others_back(ecs: Agents) -> None:
    ecs.failed = {"okuru-dev-beat"}
    result = deploy()
    assert "beat does not become stable: ECS has given it up" in result.stderr
    assert ecs.running() == everywhere(OLD)


def test_a_cancelled_deploy_takes_them_back(ecs: Agents) -> None:
    ecs.after["okuru-dev-relay"] = stop
    result = deploy()
    assert result.exit_code == 1
    assert "told to stop" in result.stderr
    assert ecs.running() == everywhere(OLD)


def test_who_is_told_to_stop_on_the_way_back_goes_on(ecs: Agents) -> None:
    ecs.broken = {"okuru-dev-web"}
    ecs.after["okuru-dev-web"] = lambda: ecs.after.update({"okuru-dev-relay": on_the_way_back})

    def on_the_way_back() -> None:
        ecs.after["okuru-dev-relay"] = stop

    result = deploy()
    assert "okuru-dev-relay" not in ecs.after
    assert ecs.running() == everywhere(OLD)
    assert answer(result)["outcome"] == "rolled-back"


def test_one_that_cannot_go_back_keeps_no_other_from_it(ecs: Agents) -> None:
    ecs.broken = {"okuru-dev-web"}
    ecs.after["okuru-dev-beat"] = lambda: ecs.before.update({"okuru-dev-beat": refuse})
    result = deploy()
    assert result.exit_code == 1
    assert "and so did going back: beat was not told to go to okuru-dev-beat:1" in result.stderr
    assert "AccessDenied" in result.stderr
    assert answer(result)["outcome"] == "failed"
    assert ecs.running() == {**everywhere(OLD), "beat": NEW}
    # What the message advises.
    ecs.updates.clear()
    assert okuru("rollback").exit_code == 0
    assert ecs.running() == everywhere(OLD)
    assert [name for name, _ in ecs.updates] == ["okuru-dev-beat"]


def test_a_service_that_is_deleted_meanwhile_keeps_no_other_from_going_back(ecs: Agents) -> None:
    ecs.before["okuru-dev-beat"] = lambda: ecs.delete_service(
        cluster="okuru-dev", service="okuru-dev-beat", force=True
    )
    result = deploy()
    assert result.exit_code == 1
    assert "and so did going back: the cluster okuru-dev has no okuru-dev-beat" in result.stderr
    running = ecs.running(but="beat")
    assert running == dict.fromkeys(running, OLD)


def test_a_service_whose_deployments_ecs_does_not_show_is_not_yet_stable(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([True])
    describe = ecs.describe_services

    def describe_services(**wanted: Any) -> Any:
        found = describe(**wanted)
        if ecs.updates and next(looks, False):
            found["services"][0]["deployments"] = []
        return found

    monkeypatch.setattr(ecs, "describe_services", describe_services)
    assert deploy().exit_code == 0
    assert ecs.running() == everywhere(NEW)


@pytest.mark.parametrize("nth", [2, 6])
def test_a_revision_that_cannot_be_registered_is_no_service_s_end(
    ecs: Agents, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The sixth is that of the operators' task, after everything else."""
    define(ecs, "operator")
    registrations = iter(range(1, 100))
    register = ecs.register_task_definition
    monkeypatch.setattr(
        ecs,
        "register_task_definition",
        lambda **wanted: refuse() if next(registrations) == nth else register(**wanted),
    )
    result = deploy()
    assert result.exit_code == 1
    assert "AccessDenied" in result.stderr
    assert answer(result)["outcome"] == ("refused" if nth == 2 else "deployed")
    assert ecs.running() == everywhere(OLD if nth == 2 else NEW)


def test_two_deploys_do_not_mix(ecs: Agents) -> None:
    look = {"cluster": "okuru-dev", "services": ["okuru-dev-web"]}
    ecs.describe_services(**look)
    ecs.update_service(
        cluster="okuru-dev", service="okuru-dev-web", taskDefinition=define(ecs, "web")
    )
    ecs.describe_services(**look)
    result = deploy()
    assert result.exit_code == 1
    assert "a deployment is under way: web" in result.stderr
    assert len(ecs.updates) == 1


def test_a_dry_run_changes_nothing(ecs: Agents) -> None:
    result = deploy("--dry-run")
    assert result.exit_code == 0
    assert "okuru-dev-web:1" in result.stderr
    assert answer(result)["outcome"] == "dry-run"
    assert (ecs.updates, ecs.runs) == ([], [])
    assert ecs.definition("okuru-dev-web")["revision"] == 1


def test_a_service_that_is_missing_is_named_before_anything_changes(ecs: Agents) -> None:
    for process in ("relay", "beat"):
        ecs.delete_service(cluster="okuru-dev", service=f"okuru-dev-{process}", force=True)
    result = deploy()
    assert result.exit_code == 1
    assert "has no okuru-dev-relay, okuru-dev-beat" in result.stderr
    assert ecs.definition("okuru-dev-web")["revision"] == 1


def test_more_services_than_one_call_may_name(ecs: Agents) -> None:
    processes = [f"process{number}" for number in range(23)]
    for process in processes:
        ecs.create_service(
            cluster="okuru-dev", serviceName=f"okuru-dev-{process}", desiredCount=1,
            taskDefinition=define(ecs, process), launchType="FARGATE",
        )  # fmt: skip

    found = Cluster("dev", processes, ecs=ecs).services()  # type: ignore[arg-type]

    assert list(found) == processes


@pytest.mark.parametrize("missing", ["region", "credentials"])
def test_who_has_not_said_where_and_as_whom_is_told_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    if missing == "credentials":
        monkeypatch.setenv("AWS_DEFAULT_REGION", "ap-northeast-1")
    for result in (okuru("rollback"), deploy()):
        assert result.exit_code == 1
        assert missing in result.stderr
        assert "AWS_DEFAULT_REGION and AWS_PROFILE say where, as whom" in result.stderr


def test_what_cannot_be_meant_is_refused(ecs: Agents) -> None:
    assert deploy(image=f"{REPOSITORY}:latest").exit_code == 2
    for seconds in ("nan", "inf", "-1"):
        assert deploy("--timeout", seconds).exit_code == 2
    for version in ("", "v 1", "v\n1", "-v", "v" * 129):
        assert deploy(version=version).exit_code == 2
    assert ecs.updates == []


def test_the_task_of_the_operators_has_the_same_image(ecs: Agents) -> None:
    define(ecs, "operator")
    deploy()
    assert ecs.container("operator")["image"] == NEW


# --- the API, asked at the end ------------------------------------------------------------------


#: As it is outside of these tests.
patient = command.smoke
ASKED = ["/healthz", "/readyz", "/openapi.json"]
DOCUMENT = '{"openapi": "3.1.0", "paths": {}}'


@pytest.fixture
def api(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Returns the address of an API that answers so."""
    smoke = command.smoke
    monkeypatch.setattr(command, "smoke", lambda url: smoke(url, patience=0, every=0))

    def serve(*, healthy: int = 200, ready: int = 200, document: str = DOCUMENT) -> str:
        httpserver.expect_request("/healthz").respond_with_json({}, healthy)
        httpserver.expect_request("/readyz").respond_with_json(
            {}, ready, headers={"Location": httpserver.url_for("/healthz")}
        )
        httpserver.expect_request("/openapi.json").respond_with_data(document)
        return httpserver.url_for("")

    return serve


def test_an_api_that_is_well_ends_the_deploy(ecs: Agents, api: Callable[..., str]) -> None:
    result = deploy("--url", api())
    assert result.exit_code == 0, result.stderr
    assert "healthy and ready" in result.stderr


def test_an_api_that_is_not_well_yet_is_asked_again(
    ecs: Agents, api: Callable[..., str], httpserver: HTTPServer
) -> None:
    for path in ("/healthz", "/readyz"):
        httpserver.expect_oneshot_request(path).respond_with_json({}, 503)
    patient(api() + "/", patience=20, every=0.01)
    asked = [request.path for request, _ in httpserver.log]
    assert asked == ["/healthz", "/healthz", "/readyz", *ASKED]


def test_an_api_that_is_not_alive_takes_everything_back(
    ecs: Agents, api: Callable[..., str]
) -> None:
    result = deploy("--url", api(healthy=500))
    assert "/healthz answered 500" in result.stderr
    assert ecs.running() == everywhere(OLD)


@pytest.mark.parametrize("status", [503, 302])
def test_an_api_that_is_not_ready_takes_everything_back(
    ecs: Agents, api: Callable[..., str], status: int
) -> None:
    """A page that says so elsewhere is not the API either."""
    result = deploy("--url", api(ready=status))
    assert result.exit_code == 1
    assert f"/readyz answered {status}" in result.stderr
    assert ecs.running() == everywhere(OLD)


@pytest.mark.parametrize("document", ['{"error": {}}', "<html>", "[]", '"paths"'])
def test_what_answers_is_this_api(ecs: Agents, api: Callable[..., str], document: str) -> None:
    result = deploy("--url", api(document=document))
    assert result.exit_code == 1
    assert "the API does not answer as it should" in result.stderr
    assert ecs.running() == everywhere(OLD)
