"""`okuru run` as its user meets it: started, interrupted, killed, started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from okuru.stack.child import end_leftovers
from okuru.stack.home import Home
from okuru.stack.ports import LOOPBACK, choose
from tasks.engine import sqs
from tasks.engine.queues import visible_depth
from tests.acceptance.client import wait_until

OKURU = [sys.executable, "-c", "from okuru.cli import main; main()"]
#: Seconds. Generous: many of these start at the same time.
START_WITHIN = 90.0
STOP_WITHIN = 60.0


class Run:
    """One `okuru run` in a session of its own, as a terminal would start it."""

    def __init__(self, home: Home, port: int) -> None:
        self.home = home
        self.port = port
        self._output = home.path.with_suffix(f".{port}.txt").open("w+")
        self.process = subprocess.Popen(
            [*OKURU, "run", "--port", str(port)],
            env=_environment(home),
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        return Path(self._output.name).read_text()

    def wait_until_ready(self) -> None:
        def says_so() -> bool:
            assert self.process.poll() is None, self.output
            return "Operator's key" in self.output

        wait_until(says_so, within=START_WITHIN, what=lambda: self.output)

    def interrupt(self) -> None:
        """What Ctrl-C does: to the whole foreground group at once."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        return self.process.wait(STOP_WITHIN)

    def variables(self) -> dict[str, str]:
        return self.home.read_env()

    def depth(self, queue: str) -> int:
        env = self.variables()
        client = sqs.client(env["AWS_REGION"], endpoint_url=env["AWS_ENDPOINT_URL"])
        return visible_depth(client, env[queue])

    def gifts(self) -> list[str]:
        env = self.variables()
        headers = {"X-API-Key": env["API_KEY"]}
        answer = requests.get(f"{env['API_URL']}/gifts", headers=headers, timeout=30)
        return [item["gift_id"] for item in answer.json()["items"]]

    def create_gift(self) -> None:
        env = self.variables()
        headers = {"X-API-Key": env["API_KEY"]}
        url = f"{env['API_URL']}/gifts"
        answer = requests.post(url, headers=headers, json={"amount": 1}, timeout=30)
        assert answer.status_code == 201, answer.text


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    for process in _processes_of(home):
        process.kill()
    home.forget_data()


@pytest.fixture
def port() -> int:
    return choose(taken=set())


def test_a_stack_listens_on_the_loopback_only_and_publishes_how_to_use_it(
    home: Home, port: int
) -> None:
    run = Run(home, port)
    run.wait_until_ready()

    addresses = {
        connection.laddr.ip
        for process in _processes_of(home)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {LOOPBACK}

    assert stat.S_IMODE(home.env_file.stat().st_mode) == 0o600
    script = '. "$1"; env'
    sourced = subprocess.run(
        ["sh", "-c", script, "sh", str(home.env_file)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert f"API_URL=http://{LOOPBACK}:{port}" in sourced
    assert {"API_KEY", "ADMIN_API_KEY", "GIFTS_QUEUE_URL", "GIFTS_DLQ_URL"} <= {
        line.partition("=")[0] for line in sourced
    }
    assert run.gifts() == []

    run.process.terminate()
    assert run.wait() == 0
    assert _processes_of(home) == []


def test_a_second_stack_in_the_same_home_is_refused(home: Home, port: int) -> None:
    with home.locked():
        assert home.is_in_use()
        for command in (["run", "--port", str(port)], ["reset-db", "--yes"]):
            code, output = _okuru(home, *command)
            assert code == 1
            assert "a stack already runs in" in output
            assert "Traceback" not in output
    assert not home.is_in_use()


def test_a_port_in_use_is_named_before_anything_starts(home: Home) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        code, output = _okuru(home, "run", "--port", str(port))
    assert code == 1
    assert f"port {port} is in use" in output
    assert f"PORT={port + 1000}" in output
    assert "Traceback" not in output
    assert not (home.path / "postgres").exists()


@pytest.mark.parametrize(
    "reached", ["lock", "log/sqs.log", "log/postgres.log", "env", "run/web.json"]
)
def test_ctrl_c_at_any_moment_leaves_no_process(home: Home, port: int, reached: str) -> None:
    run = Run(home, port)
    wait_until((home.path / reached).exists, within=START_WITHIN, what=lambda: run.output)
    run.interrupt()
    run.interrupt()
    assert run.wait() == 0, run.output
    assert "Traceback" not in run.output
    assert _processes_of(home) == []
    assert list(home.run.glob("*.json")) == []


def test_what_a_killed_stack_left_is_ended_and_its_data_are_found_again(
    home: Home, port: int
) -> None:
    killed = Run(home, port)
    killed.wait_until_ready()
    killed.create_gift()
    before = killed.variables()
    left = [process for process in _processes_of(home) if process.pid != killed.process.pid]
    killed.process.kill()
    killed.wait()

    again = Run(home, port)
    again.wait_until_ready()

    assert not any(process.is_running() for process in left)
    assert len(again.gifts()) == 1
    assert again.variables() == before
    again.interrupt()
    assert again.wait() == 0


def test_a_stranger_with_a_recorded_pid_is_left_alone(home: Home, port: int) -> None:
    with home.locked(), subprocess.Popen(["sleep", "600"]) as stranger:
        record = {"pid": stranger.pid, "created": 1.0, "signal": signal.SIGTERM}
        (home.run / "web.json").write_text(json.dumps(record))

        assert end_leftovers(home) == []
        assert stranger.poll() is None
        stranger.kill()


def test_a_process_that_dies_is_started_again_and_said(home: Home, port: int) -> None:
    run = Run(home, port)
    run.wait_until_ready()
    for name in ("relay", "valkey", "sqs"):
        os.kill(json.loads((home.run / f"{name}.json").read_text())["pid"], signal.SIGKILL)
    wait_until(
        lambda: (
            "relay was ended by SIGKILL; it starts again" in run.output
            and "Valkey had died; it runs again" in run.output
            and "SQS had died; it runs again" in run.output
        ),
        within=START_WITHIN,
        what=lambda: run.output,
    )
    assert run.depth("GIFTS_QUEUE_URL") == run.depth("GIFTS_DLQ_URL") == 0
    run.process.terminate()
    assert run.wait() == 0
    assert _processes_of(home) == []


def test_a_closed_terminal_does_not_keep_the_stack_from_stopping(home: Home, port: int) -> None:
    command = [*OKURU, "run", "--port", str(port)]
    process = subprocess.Popen(command, env=_environment(home), stdout=subprocess.PIPE)
    wait_until((home.run / "beat.json").exists, within=START_WITHIN)
    assert process.stdout is not None
    process.stdout.close()
    process.terminate()
    process.wait(STOP_WITHIN)
    assert _processes_of(home) == []


def test_reset_db_makes_the_next_start_empty(home: Home, port: int) -> None:
    first = Run(home, port)
    first.wait_until_ready()
    first.create_gift()
    first.process.terminate()
    first.wait()
    elsewhere = (home.path / "postgres").resolve()

    code, output = _okuru(home, "reset-db", "--yes")
    assert code == 0, output
    assert not elsewhere.exists()

    second = Run(home, port)
    second.wait_until_ready()
    assert second.gifts() == []
    second.process.terminate()
    assert second.wait() == 0


def test_migrate_uses_the_local_database_for_the_duration(home: Home) -> None:
    assert _okuru(home, "migrate", "up")[0] == 0
    code, output = _okuru(home, "migrate", "check")
    assert code == 0, output
    assert _okuru(home, "migrate", "down")[0] == 0
    code, output = _okuru(home, "migrate", "up", "nowhere")
    assert code == 1
    assert "Traceback" not in output
    assert _processes_of(home) == []


def _environment(home: Home) -> dict[str, str]:
    """Not that of the test run, which names servers of its own."""
    kept = (
        "PATH",
        "HOME",
        "TMPDIR",
        "PYTHONPATH",
        "COVERAGE_PROCESS_START",
        "COVERAGE_PROCESS_CONFIG",
    )
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    few = {"WEB_PROCESSES": "1", "WORKER_COUNT": "1"}
    return {**environment, **few, "OKURU_HOME": str(home.path)}


def _okuru(home: Home, *arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        [*OKURU, *arguments],
        env=_environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )
    return result.returncode, result.stdout


def _processes_of(home: Home) -> list[psutil.Process]:
    """Whatever has the home in its environment, its arguments or its working folder."""
    data = str((home.path / "postgres").resolve())
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            traces = [*process.environ().values(), *process.cmdline(), process.cwd()]
            if any(str(home.path) in trace or data in trace for trace in traces):
                found.append(process)
        except psutil.Error:
            continue
    return found
