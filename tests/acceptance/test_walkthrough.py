"""What the README promises, on the running stack."""

from __future__ import annotations

import json
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from okuru.stack.stack import Stack
from tests.acceptance.client import Client, fresh_key, wait_until

#: Seconds. The open poll of a worker that another test has just stopped may have taken a message:
#: it is hidden for the visibility timeout of 30 s.
SOON = 75

README = Path(__file__).parents[2] / "README.md"


def log_lines(stack: Stack, process: str) -> list[dict[str, Any]]:
    """Every line, parsed. Celery writes its word on a shutdown past all loggers."""
    lines = stack.home.log_path(process).read_text().splitlines()
    return [json.loads(line) for line in lines if line and not line.startswith("worker: ")]


def test_the_curl_walk_of_the_readme(stack: Stack, tmp_path: Path) -> None:
    (walk,) = re.findall(r"<!-- walk: .*? -->\n```sh\n(.*?)```", README.read_text(), re.S)
    (tmp_path / ".local").symlink_to(stack.home.path)
    said = subprocess.run(
        ["sh", "-e"], input=walk, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    statuses = re.findall(r"^HTTP/1.1 (\d+)", said.stdout, re.M)
    assert statuses == ["202", "200", "409"]
    assert '"status":"SENT"' in said.stdout
    assert '"outcome":"transient"' in said.stdout
    assert '"outcome":"sent"' in said.stdout
    services = set(re.findall(r'"service": "(\w+)"', said.stdout))
    assert services == {"api", "relay", "worker"}


def test_the_jobs_of_the_readme(stack: Stack, tmp_path: Path) -> None:
    (block,) = re.findall(r"<!-- jobs: .*? -->\n```sh\n(.*?)```", README.read_text(), re.S)
    (tmp_path / ".local").symlink_to(stack.home.path)
    said = subprocess.run(
        ["sh", "-e"], input=f". .local/env\n{block}", cwd=tmp_path, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    for word in ('"job_type":"data_analysis"', '"email":"hanako@example.com"', '"throughput"'):
        assert word in said.stdout


def test_one_request_id_is_in_every_log_of_a_send(stack: Stack, client: Client) -> None:
    key = fresh_key()
    gift_id = client.create()
    client.send(gift_id, key)
    assert client.wait_until_final([gift_id], within=SOON) == {"SENT": 1}

    def lines(process: str) -> list[dict[str, str]]:
        return [line for line in log_lines(stack, process) if line.get("request_id") == key]

    for process in ("web", "relay", "worker"):
        wait_until(lambda name=process: lines(name), within=10, what=f"a line of {process}")
        assert all(line["gift_id"] == gift_id for line in lines(process)), process


def test_every_log_line_is_json_and_holds_no_code(stack: Stack, client: Client) -> None:
    gift_id = client.create_and_send()
    client.wait_until_final([gift_id], within=SOON)
    code = client.get(gift_id)["code"]
    psutil.Process(stack.processes["worker"].pid).children()[0].kill()
    wait_until(
        lambda: "multiprocessing" in {line["logger"] for line in log_lines(stack, "worker")},
        within=15,
        what="billiard's word on it",
    )
    for process in stack.processes:
        assert code not in stack.home.log_path(process).read_text()
        for line in log_lines(stack, process):
            assert {"timestamp", "level", "service", "message", "status"} <= line.keys(), line


@pytest.mark.parametrize(
    ("process", "metric"),
    [
        ("web", "okuru_http_requests_total"),
        ("worker", 'okuru_deliveries_total{kind="gift",outcome="sent"}'),
        ("worker", "okuru_delivery_latency_seconds_bucket"),
        ("worker", "okuru_worker_breaker_open 0.0"),
        ("relay", "okuru_outbox_published_total"),
        ("relay", "okuru_outbox_depth_rows 0.0"),
    ],
)
def test_each_process_shows_its_metrics(
    stack: Stack, client: Client, process: str, metric: str
) -> None:
    client.wait_until_final([client.create_and_send()], within=SOON)
    port = psutil.Process(stack.processes[process].pid).environ()["METRICS_PORT"]
    url = f"http://127.0.0.1:{port}/metrics"
    http = requests.Session()
    http.trust_env = False
    wait_until(lambda: metric in http.get(url, timeout=5).text, within=15, what=metric)


def test_the_database_logs_no_values_of_a_failed_statement(stack: Stack) -> None:
    with pytest.raises(DBAPIError):
        query(stack, "SELECT 1 / 0, :words", words="secret words")
    log = stack.home.log_path("postgres").read_text()
    assert "division by zero" in log
    assert "secret words" not in log


def test_the_users_own_aws_account_is_none_of_the_processes_business(stack: Stack) -> None:
    for process in stack.processes:
        environment = psutil.Process(stack.processes[process].pid).environ()
        assert environment["AWS_ACCESS_KEY_ID"] == "local"
        assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & environment.keys(), process


def query(stack: Stack, statement: str, **values: Any) -> list[Any]:
    engine = create_engine(stack.environment["DATABASE_URL"])
    with engine.connect() as connection:
        return list(connection.execute(text(statement), values))


def test_a_gift_without_executions_left_is_a_dead_letter(stack: Stack, client: Client) -> None:
    gift_id = client.create_and_send(simulate={"fail_times": 5})
    assert client.wait_until_final([gift_id], within=SOON) == {"FAILED": 1}
    assert client.outcomes(gift_id) == ["transient"] * 5
    assert client.get(gift_id)["last_error"] == ("SIMULATED_FAILURE: the simulated provider failed")
    letters = partial(
        query,
        stack,
        "SELECT queue, task, receive_count > 5 FROM dead_letters WHERE subject_id = :gift_id",
        gift_id=gift_id,
    )
    wait_until(letters, within=SOON, what="SQS buries the message, and a sweep sees it")
    assert letters() == [("gifts", "gifts.send", True)]


def test_a_refused_gift_fails_at_once(client: Client) -> None:
    gift_id = client.create_and_send(simulate={"permanent": True})
    assert client.wait_until_final([gift_id], within=SOON) == {"FAILED": 1}
    assert client.outcomes(gift_id) == ["permanent"]


def test_two_of_every_process_are_harmless(stack: Stack, client: Client) -> None:
    """A second worker, relay and beat beside the first ones."""
    doubles = [
        subprocess.Popen(
            command,
            env={**stack.environment, "METRICS_PORT": "0"},
            cwd=README.parent,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for command in (
            ["celery", "-A", "tasks", "worker", "--hostname", "second@%h"],
            ["okuru", "relay"],
            ["celery", "-A", "tasks", "beat"],
        )
    ]
    try:
        gifts = [
            client.create_and_send(simulate={"fail_times": number % 3}) for number in range(30)
        ]
        assert client.wait_until_final(gifts, within=SOON) == {"SENT": 30}
        for number, gift_id in enumerate(gifts):
            assert client.outcomes(gift_id) == ["transient"] * (number % 3) + ["sent"]
    finally:
        for process in doubles:
            process.terminate()
        for process in doubles:
            process.wait(30)
