"""The Dockerfile, its context and compose.yaml, as they can be read; test_image.py runs it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from app import config
from tests.infra.dockerfile import (
    BUILD,
    COPIED,
    DOCKERFILE,
    IMAGE,
    LINES,
    ROOT,
    RULES,
    SQS,
    in_context,
    stages,
)

# --- the Dockerfile -----------------------------------------------------------------------------


def test_hadolint_finds_nothing(tool: Callable[[str], str]) -> None:
    done = subprocess.run([tool("hadolint"), DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_checkov_finds_nothing(tool: Callable[[str], str]) -> None:
    done = subprocess.run(
        [
            *(tool("checkov"), "--framework", "dockerfile", "--file", DOCKERFILE),
            *("--compact", "--quiet", "--skip-download"),
        ],
        capture_output=True,
        text=True,
    )
    assert "Failed checks: 0, Skipped checks: 0" in done.stdout, done.stdout
    assert done.returncode == 0


def test_every_image_is_pinned_by_its_digest() -> None:
    # A stage may also begin where another one ended.
    used = [stage.all("FROM")[0].partition(" ")[0] for stage in stages()]
    used += [service["image"] for service in SERVICES.values()]
    own = [*(stage.name for stage in stages()), "okuru:local", "okuru-sqs:local"]
    assert [image for image in used if image not in own] != []
    for image in used:
        assert image in own or re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image


def test_the_image_runs_as_nobody_in_particular_and_holds_no_secret() -> None:
    assert IMAGE.all("USER") == ["10001:10001"]
    assert IMAGE.all("VOLUME") == ["/tmp"]
    named = " ".join(stage_line for stage in stages() for stage_line in stage.all("ENV"))
    named += " ".join(line for stage in stages() for line in stage.all("ARG"))
    assert not re.search(r"secret|password|token|key|credential", named, re.I)
    assert not any("DATABASE" in line for stage in stages() for _, line in stage.instructions)


def test_the_image_finds_its_programs_and_says_its_version() -> None:
    (environment,) = IMAGE.all("ENV")
    assert dict(pair.split("=", 1) for pair in environment.split()) == {
        "PATH": "/opt/okuru/bin:$PATH",
        "PYTHONPATH": "/srv/okuru",
        "PYTHONDONTWRITEBYTECODE": "1",
        "DD_VERSION": "${VERSION}",
    }
    assert IMAGE.all("EXPOSE") == ["8080"]
    assert "pip uninstall --yes pip" in IMAGE.all("RUN")[0]  # nobody installs more
    assert "compileall" in BUILD.all("RUN")[-1]  # a read-only image keeps no bytecode


def test_the_last_layer_has_what_the_build_made_and_nothing_of_the_context() -> None:
    assert IMAGE.all("COPY") == [
        "--from=build /opt/okuru /opt/okuru",
        "--from=build /srv/okuru /srv/okuru",
    ]
    assert not re.search(r"apt|curl|pip install", " ".join(IMAGE.all("RUN")))
    for stage in (BUILD, SQS):
        for line in [run for run in stage.all("RUN") if "install" in run]:
            assert "--require-hashes" in line
            assert "--only-binary :all:" in line
            assert "--mount=type=cache" in line


# --- the context --------------------------------------------------------------------------------


def test_the_context_is_what_the_dockerfile_copies() -> None:
    assert RULES[0] == "*"
    allowed = [rule.removeprefix("!") for rule in RULES[1:]]
    assert len(allowed) == len([rule for rule in RULES if rule.startswith("!")])
    for rule in allowed:
        assert any(rule == path or rule.startswith(f"{path}/") for path in COPIED), rule
    for path in COPIED:
        assert (ROOT / path).exists()
        assert any(rule == path or rule.startswith(f"{path}/") for rule in allowed), path


def test_every_tracked_file_of_the_code_is_in_the_context() -> None:
    """A new kind of file is named in .dockerignore, or the image would lack it."""
    done = subprocess.run(
        ["git", "ls-files", "--", *COPIED], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"this is no checkout, so nobody knows what is tracked: {done.stderr.strip()}")
    tracked = [path for path in done.stdout.splitlines() if not path.endswith(".md")]
    assert len(tracked) > 100
    assert [path for path in tracked if not in_context(path)] == []


def test_what_lies_about_is_not_in_the_context() -> None:
    names = [
        *(".env", ".env.docker", "env", "prod.tfvars", "terraform.tfstate", "config.py~"),
        *("key.pem", "server.key", "id_ed25519", "keystore.p12", "service-account.json"),
        *("credentials", "credentials.json", ".aws/credentials", ".netrc", ".pypirc"),
        *("dump.sql", "local.db", ".git/config", "secrets.yaml", "__pycache__/s.cpython-313.pyc"),
    ]
    folders = ["", "app/", "app/gifts/", "okuru/", "tasks/engine/", "migrations/", "requirements/"]
    paths = [folder + name for folder in folders for name in names]
    assert [path for path in paths if in_context(path)] == []


# --- compose.yaml -------------------------------------------------------------------------------

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"] == "okuru:local"]


def test_every_process_of_the_procfile_is_there_with_its_line() -> None:
    assert {name: SERVICES[name]["command"] for name in LINES} == LINES
    assert set(OURS) == {*LINES, "migrate", "queues"}


@pytest.mark.parametrize("name", OURS)
def test_a_container_runs_as_in_production(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["init"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    known = config.variables() | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DD_TRACE_ENABLED"}
    assert set(service["environment"]) <= known
    assert service["environment"]["ENVIRONMENT"] == "production"
    if name in LINES:
        assert service["healthcheck"]["test"] == ["CMD", "okuru", "health", name]
        assert service["stop_grace_period"] == "120s"
        assert service["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
        assert service["depends_on"]["queues"] == {"condition": "service_completed_successfully"}


def test_the_api_can_be_reached_from_this_machine_and_nothing_else_at_all() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"web": ["127.0.0.1:${PORT:-8080}:8080"]}
    assert [name for name, service in SERVICES.items() if service["networks"] != ["inside"]] == [
        "web"
    ]
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_the_settings_of_compose_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Production's rules, and a password as `make docker-up` writes it."""
    password = "0123456789abcdef" * 3
    for variable in config.variables():
        monkeypatch.delenv(variable, raising=False)
    for variable, value in SERVICES["web"]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{POSTGRES_PASSWORD[^}]*\}", password, value))
    settings = config.Settings.from_env()
    assert not settings.is_local
    assert password in settings.database_url


def test_the_secret_of_compose_is_made_and_not_committed() -> None:
    assert ".env.docker" in (ROOT / ".gitignore").read_text().splitlines()
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", ".env.docker"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "umask 077" in made
    assert "secrets.token_hex" in made
