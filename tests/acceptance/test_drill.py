"""The failures that `make drill` plays: the monitors call, the runbook mends, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from okuru.drill.command import Drill, Result, run_command
from okuru.drill.load import Load
from okuru.drill.provider import Provider
from okuru.drill.runbook import CURE, FIRST_LOOK, OVER, STOP_THE_BLEEDING
from okuru.drill.scenarios import SCENARIOS, Site
from okuru.drill.signals import MONITORS, SPEED, Condition, Signals, comparison
from okuru.stack.home import Home
from okuru.stack.stack import Stack
from tests.acceptance.client import wait_until


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = Home(tmp_path_factory.mktemp("drill"))
    with Provider() as provider:
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "SENDER": "webhook",
            "SENDER_URL": provider.url,
            "SENDER_SECRET": provider.secret,
        }
        with Stack(home, environ=environ) as stack:  # durable: PostgreSQL is stopped at once
            stack.processes.start()
            stack.wait_until_ready()
            yield Site(stack, provider)
    home.forget_data()


#: Played by the command itself, below.
BY_COMMAND = "poison"


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != BY_COMMAND])
def test_what_breaks_is_called_and_mended_and_nothing_is_lost(name: str, site: Site) -> None:
    scenario = SCENARIOS[name]
    result = Drill(scenario, site, Console(width=200)).run()
    assert set(scenario.monitors) <= result.called.keys()
    assert all(condition.is_true for condition in result.called.values())
    assert result.accepted > 10
    assert result.statuses == {"SENT": result.accepted}
    steps = [each["step"] for each in result.commands]
    assert {FIRST_LOOK, OVER} <= set(steps), "the runbook was not followed"
    assert result.is_good, [each for each in result.commands if each["exit_code"]]
    if name == "provider-down":
        assert CURE in steps
    if name in ("queue-backlog", "provider-down"):
        assert STOP_THE_BLEEDING in steps


def test_what_no_scenario_breaks_calls_as_well(site: Site) -> None:
    stack = site.stack
    with (
        Load(stack.api_url, stack.keys["API_KEY"], per_second=3) as load,
        Signals(stack) as signals,
    ):

        def calls(*monitors: str) -> bool:
            return set(monitors) <= signals.true().keys()

        def is_well() -> bool:
            return not signals.true() and signals.sees_traffic

        wait_until(is_well, within=60, what="no monitor calls")

        control(stack, "cancel_consumer")
        wait_until(lambda: calls("worker-not-consuming"), within=60, what="nothing is consumed")
        control(stack, "add_consumer")

        stack.sqs.child.signal(signal.SIGSTOP)
        wait_until(lambda: calls("outbox-age"), within=60, what="nothing leaves the outbox")
        stack.sqs.child.signal(signal.SIGCONT)

        stack.processes["web"].stop(grace=10)
        assert calls("healthy-hosts", "api-running-below-desired")
        stack.processes["web"].start()

        wait_until(is_well, within=90, what="no monitor calls any more")
        load.stop()
        wait_until(lambda: load.is_over, within=30, what="every caller has its answer")


def control(stack: Stack, order: str) -> None:
    code, output = run_command(f"celery -q -A tasks control {order} gifts", stack)
    assert code == 0, output


@pytest.mark.parametrize(
    ("result", "good"),
    [
        ({"accepted": 2, "statuses": {"SENT": 2}}, True),
        ({"accepted": 3, "statuses": {"SENT": 2}}, False),  # one is gone
        ({"accepted": 2, "statuses": {"SENT": 1, "QUEUED": 1}}, False),
        ({"commands": [(CURE, 0), (OVER, 0), (FIRST_LOOK, 1)]}, True),  # looking may fail
        ({"commands": [(CURE, 1)]}, False),
        ({"commands": [(OVER, 1)]}, False),
    ],
)
def test_a_drill_is_good_when_nothing_is_lost_and_the_cure_works(
    result: dict[str, Any], good: bool
) -> None:
    commands = [{"step": step, "exit_code": code} for step, code in result.get("commands", ())]
    told = {"accepted": 1, "statuses": {"SENT": 1}, **result, "commands": commands}
    assert Result("poison", **told).is_good is good


def test_the_command_says_in_json_what_happened(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On servers of its own, whatever the shell points at."""
    home = tmp_path_factory.mktemp("home")
    production = {
        "DATABASE_URL": "postgresql+psycopg2://okuru:secret@127.0.0.1:1/okuru",
        "QUEUE_URL_PREFIX": "http://127.0.0.1:1/1/okuru-",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    done = subprocess.run(
        [Path(sys.executable).parent / "okuru", "drill", BY_COMMAND, "--json"],
        env={**os.environ, **production, "OKURU_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["good"] is True
    assert set(SCENARIOS[BY_COMMAND].monitors) <= result["called"].keys()
    assert result["accepted"] > 10
    assert {each["step"] for each in result["commands"]} >= {FIRST_LOOK, CURE, OVER}
    assert "okuru dlq discard" in done.stderr


@pytest.mark.parametrize(
    ("value", "sign", "threshold", "true"),
    [(1, ">", 1, False), (1.1, ">", 1, True), (0, "<", 1, True), (1, "<", 1, False)],
)
def test_a_condition_is_that_of_its_monitor(
    value: float, sign: str, threshold: float, true: bool
) -> None:
    assert Condition("m", "w", value, sign, threshold).is_true is true


def test_thresholds_are_those_of_the_monitors_at_the_drills_speed() -> None:
    assert MONITORS.is_dir()
    assert comparison("queue-backlog", SPEED) == (">", 300 / SPEED)
    assert comparison("healthy-hosts", 1) == ("<", 1)
    assert comparison("slo-burn-fast", 1) == (">", 14.4)
