"""The workflows: what the linters find, and that the commands in them exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from okuru.cli import main
from okuru.deploy import deploy, rollback
from tasks.engine import protection
from tasks.engine.catalogue import Catalogue
from tests.infra.dockerfile import DOCKERFILE
from tests.infra.terraform import State

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))

#: YAML reads the key `on` as the truth.
ON: Any = True


def load(path: Path) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text())
    return document


def steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in load(path)["jobs"].values():
        yield from job["steps"]


def test_actionlint_finds_nothing(tool: Callable[[str], str]) -> None:
    done = subprocess.run([tool("actionlint"), *WORKFLOWS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_zizmor_finds_nothing(tool: Callable[[str], str]) -> None:
    done = subprocess.run(
        [tool("zizmor"), "--offline", "--no-progress", FOLDER], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    # The one that deploy.yml gives the reason of.
    text = "".join(path.read_text() for path in WORKFLOWS)
    assert text.count("zizmor: ignore") == 1


def test_there_is_one_to_check_one_to_deploy_and_one_to_go_back() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "deploy", "rollback"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_commit_and_its_version_is_said(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for each in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each), each


def test_an_action_has_one_version() -> None:
    used = {each for path in WORKFLOWS for each in re.findall(r"uses: (\S+)", path.read_text())}
    assert len(used) == len({each.partition("@")[0] for each in used})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_may_do_what_it_needs(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        takes_a_role = any("configure-aws" in step.get("uses", "") for step in job["steps"])
        wanted = {"contents": "read"} | ({"id-token": "write"} if takes_a_role else {})
        assert job["permissions"] == wanted
        assert ("environment" in job) == takes_a_role
        assert job["timeout-minutes"] <= 95


def test_no_key_and_no_secret_is_named() -> None:
    for path in WORKFLOWS:
        assert "secrets." not in path.read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shell_gets_values_from_its_environment(path: Path) -> None:
    """An expression inside a script is text that somebody else may have written."""
    for step in steps(path):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_command_of_the_house_exists(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for step in steps(path):
        script = step.get("run", "")
        for target in re.findall(r"^make ([a-z-]+)", script, re.M):
            assert re.search(rf"^{target}:", makefile, re.M), target
        for file in re.findall(r"^\.ci/\S+", script, re.M):
            assert (ROOT / file).exists()
        for words in re.findall(r"(?:-m| )\s*okuru ([a-z]+ .*)", script, re.S):
            name = shlex.split(words)[0]
            command = main.get_command(click.Context(main), name)  # type: ignore[attr-defined]
            assert command is not None, name
            known = {option for each in command.params for option in each.opts}
            assert set(re.findall(r"--[a-z-]+", script if "-m okuru" in script else words)) <= known


def runs(job: dict[str, Any]) -> list[str]:
    """The scripts of a job, in their order."""
    return [" ".join(step["run"].split()) for step in job["steps"] if "run" in step]


def test_what_a_machine_runs_is_everything() -> None:
    """The linters, and all tests with the coverage that pyproject.toml requires."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == [
        "make setup",
        "make lint",
        'make test PYTEST_ARGS="--cov --cov-report=term"',
    ]
    assert "set -euo pipefail" in lines


@pytest.mark.parametrize("target", ["test", "infra-test", "test-coverage"])
def test_the_linters_are_there_before_the_tests_that_need_them(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    (needs,) = re.findall(rf"^{target}: (.*?) *##", makefile, re.M)
    assert needs.split() == ["$(READY)", "$(INFRA_READY)"]


def test_ci_tests_and_audits_and_builds() -> None:
    workflow = load(FOLDER / "ci.yml")
    assert workflow[ON] == {"pull_request": None, "push": {"branches": ["main"]}}
    jobs = workflow["jobs"]
    assert list(jobs) == ["test", "audit", "image"]
    assert not [job for job in jobs.values() if "if" in job]
    assert not [step for step in steps(FOLDER / "ci.yml") if "if" in step]
    assert not [each for job in jobs.values() for each in (job, *job["steps"]) if SOFT in each]

    test = jobs["test"]
    assert runs(test) == [".ci/run", ".venv/bin/coverage xml"]
    assert test["env"] == {"INFRA_TOOLS": "required"}
    assert "hashicorp/setup-terraform" in names(test)
    assert test["steps"][-1]["with"]["path"] == "coverage.xml"
    oldest = re.search(
        r'^requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert oldest
    assert test["strategy"]["matrix"]["python"] == [oldest[1], python_of_the_image()]

    assert runs(jobs["audit"])[-1].startswith(".venv/bin/pip-audit ")
    assert runs(jobs["audit"])[-1].endswith(" --requirement requirements/app.txt")
    assert runs(jobs["image"]) == [
        "make docker-build",
        "docker run --rm --read-only --tmpfs /tmp --cap-drop ALL okuru:local",
    ]
    assert jobs["image"]["steps"][-1]["with"]["image-ref"] == "okuru:local"


#: Of a step or a job that may fail unseen.
SOFT = "continue-on-error"


def python_of_the_image() -> str:
    (version,) = set(re.findall(r"^FROM .*python:(\d+\.\d+)", DOCKERFILE.read_text(), re.M))
    return str(version)


def test_a_deploy_is_of_a_push_to_main_that_has_passed() -> None:
    workflow = load(FOLDER / "deploy.yml")
    assert workflow[ON]["workflow_run"] == {
        "workflows": ["ci"],
        "types": ["completed"],
        "branches": ["main"],
    }
    build, deploy = workflow["jobs"]["build"], workflow["jobs"]["deploy"]
    assert list(workflow["jobs"]) == ["build", "deploy"]
    for condition in (
        "workflow_run.conclusion == 'success'",
        "workflow_run.event == 'push'",
        "head_repository.full_name == github.repository",
    ):
        assert condition in build["if"]
    assert deploy["needs"] == "build"  # and is skipped with it
    assert "if" not in deploy
    assert build["steps"][0]["with"]["ref"] == "${{ github.event.workflow_run.head_sha }}"
    assert workflow["env"]["COMMIT"] == build["steps"][0]["with"]["ref"]
    # One at a time in an environment, and none is cut off: it may be migrating, or going back.
    one = {"group": "deploy-${{ matrix.environment }}", "cancel-in-progress": False}
    assert deploy["concurrency"] == one
    back = {"group": "rollback-${{ inputs.environment }}", "cancel-in-progress": False}
    assert load(FOLDER / "rollback.yml")["concurrency"] == back
    assert deploy["strategy"] == {"max-parallel": 1, "matrix": {"environment": ["dev", "prod"]}}


def names(job: dict[str, Any]) -> list[str]:
    return [step.get("name", step.get("uses", "").partition("@")[0]) for step in job["steps"]]


def test_nothing_is_pushed_that_was_not_scanned() -> None:
    """What others' code runs beside is saved and measured before, and measured again after."""
    jobs = load(FOLDER / "deploy.yml")["jobs"]
    assert names(jobs["build"]) == [
        *("actions/checkout", "Build", "Save", "Scan", "actions/upload-artifact")
    ]
    assert names(jobs["deploy"]) == [
        *("Only the newest commit of main", "actions/download-artifact", "Load"),
        *("aws-actions/configure-aws-credentials", "Push", "Deploy"),
    ]
    build = dict(zip(names(jobs["build"]), jobs["build"]["steps"], strict=True))
    assert build["Scan"]["with"]["input"] == "image.tar"
    assert build["actions/upload-artifact"]["with"]["path"] == "image.tar"
    for step in (step for path in WORKFLOWS for step in steps(path)):
        if "trivy" in step.get("uses", ""):
            assert step["with"]["exit-code"] == "1"
            assert step["with"]["severity"] == "CRITICAL"


def test_who_deploys_has_the_time_to_go_back(prod: State) -> None:
    def waits(command: click.Command) -> float:
        return next(float(each.default) for each in command.params if each.name == "timeout")

    def session(path: Path) -> int:
        (took,) = (each["with"] for each in steps(path) if "configure-aws" in each.get("uses", ""))
        return int(took.get("role-duration-seconds", 3600))

    # A worker under constant load: until it rests, and the job that it has then (docs/adr/0021).
    held = max(queue.max_hold for queue in Catalogue.load(""))
    longest = protection.REST_AFTER + held + protection.REST_FOR
    (role,) = (each.values for each in prod.of("aws_iam_role") if "deploy" in each.values["name"])
    for name, job, command, ways in (
        ("deploy.yml", "deploy", deploy, 2),
        ("rollback.yml", "rollback", rollback, 1),
    ):
        allowed = load(FOLDER / name)["jobs"][job]["timeout-minutes"] * 60
        assert longest < waits(command)
        assert ways * waits(command) < allowed <= session(FOLDER / name)
        assert session(FOLDER / name) <= role["max_session_duration"]


def test_a_deploy_ends_by_asking_the_api() -> None:
    (step,) = [each for each in steps(FOLDER / "deploy.yml") if each.get("name") == "Deploy"]
    assert step["env"]["API_URL"] == "${{ vars.API_URL }}"
    assert '--url "$API_URL"' in step["run"]


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, []),
        ({"DRY_RUN": "true"}, ["--dry-run"]),
        ({"SERVICE": "web", "REVISION": "7"}, ["--service", "web", "--revision", "7"]),
    ],
)
def test_going_back_by_hand_is_what_was_asked_for(
    tmp_path: Path, asked: dict[str, str], options: list[str]
) -> None:
    (step,) = [each for each in steps(FOLDER / "rollback.yml") if each.get("name") == "Roll back"]
    assert step["env"].keys() == {"ENVIRONMENT", "SERVICE", "REVISION", "DRY_RUN"}
    python = tmp_path / "okuru" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)

    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", step["run"]], capture_output=True, text=True,
        env={
            "RUNNER_TEMP": str(tmp_path), "ENVIRONMENT": "dev",
            "SERVICE": "", "REVISION": "", "DRY_RUN": "false", **asked,
        },
    )  # fmt: skip

    said = ["-m", "okuru", "rollback", "--environment", "dev", "--json", *options]
    assert done.stdout.splitlines() == said, done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_other_action_runs_where_the_role_can_be_taken(path: Path) -> None:
    """GitHub's own and AWS's own, as few as it takes: each step of such a job could take it."""
    trusted = {
        *("actions/checkout", "actions/download-artifact"),
        "aws-actions/configure-aws-credentials",
    }
    for job in load(path)["jobs"].values():
        if "id-token" in job["permissions"]:
            used = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step}
            assert used <= trusted
