"""The scripts of deploy.yml, run as a runner would: with git, the AWS CLI and jq, and no Docker."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())
COMMIT = "c" * 40
ID = f"sha256:{'1' * 64}"
REPOSITORY = "000000000000.dkr.ecr.ap-northeast-1.amazonaws.com/okuru-dev"


def step(job: str, name: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = WORKFLOW["jobs"][job]["steps"]
    return next(each for each in found if each.get("name") == name)


class Runner:
    """Runs a step as GitHub's does, with a `docker` that writes down how it was called."""

    def __init__(self, folder: Path, tool: Callable[[str], str]) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.docker = folder / "bin" / "docker"
        self._tool = tool
        self.docker.parent.mkdir()
        self.does("")

    def does(self, script: str) -> None:
        """What `docker` does beside writing down its arguments, as Python."""
        self.docker.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            f"with open({str(self.folder / 'calls')!r}, 'a') as calls:\n"
            "    print(json.dumps([os.getpid(), *sys.argv[1:]]), file=calls)\n"
            f"{script}\n"
        )
        self.docker.chmod(0o755)

    def calls(self) -> list[list[Any]]:
        calls = self.folder / "calls"
        return (
            [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        )

    def run(self, job: str, name: str, **environment: str) -> subprocess.Popen[str]:
        script = self.folder / "script"
        script.write_text(step(job, name)["run"])
        programs = [self.docker.parent, *(Path(self._tool(each)).parent for each in ("jq", "git"))]
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script],
            cwd=self.folder,
            env={
                "PATH": os.pathsep.join([*map(str, programs), "/usr/bin", "/bin"]),
                "HOME": str(self.folder),
                "NO_PROXY": "127.0.0.1",
                "GITHUB_OUTPUT": str(self.output),
                "COMMIT": COMMIT,
                "REPOSITORY": REPOSITORY,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said, _ = process.communicate(timeout=120)
        return process


@pytest.fixture
def runner(tmp_path: Path, tool: Callable[[str], str]) -> Runner:
    return Runner(tmp_path, tool)


# --- only the newest commit of main -------------------------------------------------------------


@pytest.fixture
def git(runner: Runner) -> Callable[..., str]:
    """A repository on a server, with three commits: main has two of them."""
    server = runner.folder / "owner" / "okuru"
    server.mkdir(parents=True)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=server, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    for message in ("older", "newest"):
        git("commit", "--quiet", "--allow-empty", "--message", message)
    git("checkout", "--quiet", "-b", "other")
    git("commit", "--quiet", "--allow-empty", "--message", "never on main")
    return git


def ask(runner: Runner, commit: str) -> int:
    return runner.run(
        *("deploy", "Only the newest commit of main"),
        COMMIT=commit,
        TOKEN="secret-token",
        GITHUB_SERVER_URL=f"file://{runner.folder}",
        GITHUB_REPOSITORY="owner/okuru",
    ).returncode


def test_the_newest_commit_of_main_is_deployed(runner: Runner, git: Callable[..., str]) -> None:
    assert ask(runner, git("rev-parse", "main")) == 0, runner.said


@pytest.mark.parametrize("commit", ["main~1", "other"])
def test_an_older_commit_and_one_of_elsewhere_are_not(
    runner: Runner, git: Callable[..., str], commit: str
) -> None:
    wanted = git("rev-parse", commit)
    assert ask(runner, wanted) == 1
    assert f"main is at {git('rev-parse', 'main')}: {wanted} is older, or never was" in runner.said
    assert "secret-token" not in runner.said


def test_no_tag_and_no_branch_passes_for_main(runner: Runner, git: Callable[..., str]) -> None:
    elsewhere = git("rev-parse", "other")
    git("tag", "main", "other")
    git("branch", "a/refs/heads/main", "other")
    assert ask(runner, elsewhere) == 1
    assert ask(runner, git("rev-parse", "refs/heads/main")) == 0, runner.said
    git("branch", "--delete", "--force", "main")
    assert ask(runner, elsewhere) == 1
    assert "main is at no commit" in runner.said


# --- the scanned image and no other -------------------------------------------------------------


def save(path: Path, configuration: str) -> str:
    """A file as `docker save` writes it; returns its hash."""
    text = json.dumps([{"Config": configuration, "RepoTags": [f"okuru:{COMMIT}"]}]).encode()
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("configuration", [f"blobs/sha256/{'1' * 64}", f"{'1' * 64}.json"])
def test_what_the_build_handed_over_is_loaded(runner: Runner, configuration: str) -> None:
    made = save(runner.folder / "image.tar", configuration)
    assert runner.run("deploy", "Load", SHA256=made).returncode == 0, runner.said
    assert [call[1:] for call in runner.calls()] == [["load", "--input", "image.tar"]]
    assert runner.output.read_text() == f"id={ID}\n"


@pytest.mark.parametrize("made", [hashlib.sha256(b"another").hexdigest(), ""])
def test_what_somebody_put_there_is_not(runner: Runner, made: str) -> None:
    save(runner.folder / "image.tar", f"{'1' * 64}.json")
    assert runner.run("deploy", "Load", SHA256=made).returncode != 0
    assert runner.calls() == []


def test_the_build_says_the_hash_of_what_it_saved(runner: Runner) -> None:
    runner.does("open('image.tar', 'w').write('an image')")
    assert runner.run("build", "Save").returncode == 0, runner.said
    assert [call[1:] for call in runner.calls()] == [
        ["save", "--output", "image.tar", f"okuru:{COMMIT}"]
    ]
    assert runner.output.read_text() == f"sha256={hashlib.sha256(b'an image').hexdigest()}\n"
    handed = WORKFLOW["jobs"]["build"]["outputs"]["sha256"]
    assert handed == "${{ steps.save.outputs.sha256 }}"
    assert step("deploy", "Load")["env"]["SHA256"] == "${{ needs.build.outputs.sha256 }}"


# --- push ---------------------------------------------------------------------------------------


def manifest(identity: str) -> str:
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    configuration = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "size": 1,
        "digest": identity,
    }
    return json.dumps(
        {"schemaVersion": 2, "mediaType": kind, "config": configuration, "layers": []}
    )


@pytest.fixture
def registry(aws: str) -> Any:
    """An empty registry."""
    requests.post(f"{aws}/moto-api/reset", timeout=10).raise_for_status()
    client = boto3.client("ecr", endpoint_url=aws, region_name="ap-northeast-1")
    client.create_repository(repositoryName="okuru-dev", imageTagMutability="IMMUTABLE")
    return client


def push(runner: Runner, aws: str, tool: Callable[[str], str], pushed: str = ID) -> int:
    """The step, with a `docker push` that pushes the image `pushed`."""
    runner.does(
        "import boto3\n"
        "if sys.argv[1] == 'push':\n"
        f"    boto3.client('ecr').put_image(repositoryName='okuru-dev', imageTag={COMMIT!r},\n"
        f"        imageManifest={manifest(pushed)!r})\n"
        "elif sys.argv[1] == 'login':\n"
        "    sys.stdin.read()\n"
    )
    (runner.docker.parent / "aws").unlink(missing_ok=True)
    (runner.docker.parent / "aws").symlink_to(tool("aws"))
    return runner.run(
        *("deploy", "Push"),
        ID=ID,
        AWS_ENDPOINT_URL=aws,
        AWS_DEFAULT_REGION="ap-northeast-1",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
    ).returncode


def test_an_image_is_pushed_and_known_by_its_digest(
    runner: Runner, registry: Any, aws: str, tool: Callable[[str], str]
) -> None:
    assert push(runner, aws, tool) == 0, runner.said
    verbs = [call[1:] for call in runner.calls()]
    assert verbs == [
        ["login", "--username", "AWS", "--password-stdin", REPOSITORY.partition("/")[0]],
        ["tag", f"okuru:{COMMIT}", f"{REPOSITORY}:{COMMIT}"],
        ["push", f"{REPOSITORY}:{COMMIT}"],
    ]
    (there,) = registry.describe_images(repositoryName="okuru-dev")["imageDetails"]
    assert runner.output.read_text() == f"digest={there['imageDigest']}\n"
    # Again, as when the deploy failed and its job is run again.
    assert push(runner, aws, tool) == 0, runner.said
    assert len(runner.calls()) == len(verbs)
    assert runner.output.read_text() == f"digest={there['imageDigest']}\n" * 2


@pytest.mark.parametrize("before", [True, False])
def test_another_image_under_the_commit_is_never_deployed(
    runner: Runner, registry: Any, aws: str, tool: Callable[[str], str], before: bool
) -> None:
    other = f"sha256:{'2' * 64}"
    if before:
        registry.put_image(
            repositoryName="okuru-dev", imageTag=COMMIT, imageManifest=manifest(other)
        )
    assert push(runner, aws, tool, pushed=other) == 1
    assert f"::error::{REPOSITORY}:{COMMIT} is {other}, and not {ID}" in runner.said
    assert ("push" in [call[1] for call in runner.calls()]) != before
    assert not runner.output.exists()


# --- deploy -------------------------------------------------------------------------------------


def test_the_image_deploys_itself_and_hears_a_cancelled_run(runner: Runner) -> None:
    process = runner.run(
        "deploy", "Deploy", ENVIRONMENT="dev", DIGEST=ID, API_URL="https://api.example.com"
    )
    assert process.returncode == 0, runner.said
    ((number, *words),) = runner.calls()
    assert number == process.pid  # the step's first process, to which a runner sends its signals
    image = words.index(f"okuru:{COMMIT}")
    assert words[image + 1 :] == shlex.split(
        f"okuru deploy --environment dev --image {REPOSITORY}@{ID} --version {COMMIT} "
        "--url https://api.example.com --json"
    )
    given = {name for flag, name in pairwise(words[: image + 1]) if flag == "--env"}
    # boto3 reads no AWS_REGION. The runner's own token, which could take the role, stays outside.
    assert given == {
        *("AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        "ACCEPT_SHAPE",
    }
    for flag in ("--read-only", "--init", "--rm"):
        assert flag in words[:image]
    digest = step("deploy", "Deploy")["env"]["DIGEST"]
    assert digest == "${{ steps.push.outputs.digest }}"
    assert re.search(r"vars\.ACCEPT_SHAPE", step("deploy", "Deploy")["env"]["ACCEPT_SHAPE"])
