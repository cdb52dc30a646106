"""Jobs on the running stack: order, time, calling off, and a process that dies at work."""

from __future__ import annotations

import os
import random
import signal
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from okuru.stack.stack import Stack
from tests.acceptance.client import Client, wait_until
from tests.acceptance.test_walkthrough import log_lines, query

FINAL = ("COMPLETED", "FAILED", "CANCELLED")
#: Seconds. A killed worker's message is hidden until its visibility timeout of 60 s is over.
SOON, AFTER_A_KILL = 60, 120


class Jobs:
    def __init__(self, client: Client, folder: Path) -> None:
        self._client = client
        self._folder = folder

    def enqueue(self, *, payload: dict[str, Any] | None = None, **fields: Any) -> str:
        payload = {"folder": str(self._folder), **(payload or {})}
        body = {"job_type": "mark", "payload": payload, **fields}
        answer = self._client.request("POST", "/jobs", json=body)
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    def get(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self._client.request("GET", f"/jobs/{job_id}").json()
        return job

    def post(self, job_id: str, what: str) -> requests.Response:
        return self._client.request("POST", f"/jobs/{job_id}/{what}")

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]]
        items = self._client.request("GET", f"/jobs/{job_id}/attempts").json()["items"]
        return items

    def wait(self, job_id: str, *states: str, within: float = SOON) -> dict[str, Any]:
        wait_until(
            lambda: self.get(job_id)["status"] in states,
            within=within,
            what=lambda: f"{states}: {self.get(job_id)}, {self.attempts(job_id)}",
        )
        return self.get(job_id)

    def starts(self, job_id: str) -> int:
        file = self._folder / f"{job_id}.starts"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def effects(self, job_id: str) -> int:
        return len(list(self._folder.glob(f"job-{job_id}.effect")))


@pytest.fixture
def jobs(client: Client, tmp_path: Path) -> Jobs:
    return Jobs(client, tmp_path)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_job_is_done_and_tells_what_came_of_it(jobs: Jobs) -> None:
    job = jobs.wait(jobs.enqueue(), *FINAL)
    assert (job["status"], job["progress"], job["result"]) == ("COMPLETED", 100, {"execution": 1})
    assert job["progress_note"] == "at work"
    assert job["scheduled_at"] <= job["started_at"] <= job["completed_at"]


def test_retries_are_counted_and_have_an_end(jobs: Jobs) -> None:
    mended = jobs.enqueue(payload={"fail_times": 2})
    hopeless = jobs.enqueue(payload={"fail_times": 99}, max_retries=1)
    # More retries than its queue has receives.
    stubborn = jobs.enqueue(payload={"fail_times": 7}, max_retries=8)
    done, failed = jobs.wait(mended, *FINAL), jobs.wait(hopeless, *FINAL)
    assert (done["status"], done["retry_count"], jobs.effects(mended)) == ("COMPLETED", 2, 1)
    assert (failed["status"], failed["retry_count"], jobs.starts(hopeless)) == ("FAILED", 1, 2)
    assert failed["error_message"] == "UNEXPECTED: RuntimeError"
    done = jobs.wait(stubborn, *FINAL)
    assert (done["status"], done["retry_count"], jobs.starts(stubborn)) == ("COMPLETED", 7, 8)

    assert jobs.post(hopeless, "retry").status_code == 202
    wait_until(lambda: jobs.starts(hopeless) == 4, within=SOON, what="two executions more")


def test_three_hundred_jobs_run_in_the_order_of_their_bands_and_none_starves(
    stack: Stack, jobs: Jobs
) -> None:
    due = in_seconds(8)
    chosen = random.Random(4)
    priorities = [chosen.randint(-9, 9) for _ in range(300)]
    ids = [jobs.enqueue(priority=priority, scheduled_at=due) for priority in priorities]

    def ranked() -> list[str]:
        rows = query(
            stack,
            "SELECT band FROM jobs WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'COMPLETED'"
            " ORDER BY started_at",
            ids=ids,
        )
        return [row.band for row in rows]

    wait_until(lambda: len(ranked()) == 300, within=120, what=lambda: f"{len(ranked())} of 300")
    order = ranked()
    places = {
        band: [place for place, each in enumerate(order) if each == band]
        for band in ("high", "default", "low")
    }
    mean = {band: sum(found) / len(found) for band, found in places.items()}
    assert mean["high"] < mean["default"] < mean["low"], mean
    assert min(places["low"]) < max(places["high"]), "the low band waits for no other's end"
    assert all(jobs.starts(job_id) == jobs.effects(job_id) == 1 for job_id in ids)


def test_a_job_waits_for_its_time_in_the_database_alone(stack: Stack, jobs: Jobs) -> None:
    soon = jobs.enqueue(scheduled_at=in_seconds(3))
    far = jobs.enqueue(scheduled_at=in_seconds(400 * 86_400))
    past = jobs.enqueue(scheduled_at="2020-01-01T00:00:00+09:00")
    jobs.wait(past, "COMPLETED")
    job = jobs.wait(soon, "COMPLETED")
    assert job["started_at"] >= job["scheduled_at"]

    [row] = query(stack, "SELECT send_no, carrier FROM jobs WHERE id = CAST(:id AS uuid)", id=far)
    assert (jobs.get(far)["status"], row.send_no, row.carrier) == ("PENDING", 0, None)
    assert not query(stack, "SELECT 1 FROM outbox WHERE kwargs ->> 'job_id' = :id", id=far)
    assert jobs.starts(far) == 0


def test_a_cancelled_job_never_starts(jobs: Jobs) -> None:
    waiting = jobs.enqueue(scheduled_at=in_seconds(2))
    assert jobs.post(waiting, "cancel").json()["status"] == "CANCELLED"
    marker = jobs.enqueue(scheduled_at=in_seconds(3))
    jobs.wait(marker, "COMPLETED")
    assert (jobs.get(waiting)["status"], jobs.starts(waiting)) == ("CANCELLED", 0)


def test_a_job_at_work_is_called_off_as_soon_as_it_looks(jobs: Jobs) -> None:
    job_id = jobs.enqueue(payload={"seconds": 60})
    jobs.wait(job_id, "PROCESSING")
    answer = jobs.post(job_id, "cancel")
    assert (answer.status_code, answer.json()["cancel_requested"]) == (202, True)
    jobs.wait(job_id, "CANCELLED")
    assert jobs.effects(job_id) == 0
    assert [each["outcome"] for each in jobs.attempts(job_id)] == ["cancelled"]


def test_a_killed_process_costs_a_start_and_no_effect(jobs: Jobs) -> None:
    job_id = jobs.enqueue(payload={"seconds": 3})
    wait_until(lambda: jobs.get(job_id)["progress"] == 10, within=SOON, what="it is at work")
    [attempt] = jobs.attempts(job_id)
    os.kill(int(attempt["worker"].rpartition(":")[2]), signal.SIGKILL)
    job = jobs.wait(job_id, *FINAL)
    assert (job["status"], job["retry_count"]) == ("COMPLETED", 1)
    assert (jobs.starts(job_id), jobs.effects(job_id)) == (2, 1)
    assert [each["outcome"] for each in jobs.attempts(job_id)] == ["lost", "sent"]


def test_a_killed_worker_costs_a_start_and_no_effect(stack: Stack, jobs: Jobs) -> None:
    job_id = jobs.enqueue(payload={"seconds": 3})
    wait_until(lambda: jobs.get(job_id)["progress"] == 10, within=SOON, what="it is at work")
    stack.processes["jobs"].kill()
    job = jobs.wait(job_id, *FINAL, within=AFTER_A_KILL)
    assert (job["status"], jobs.starts(job_id), jobs.effects(job_id)) == ("COMPLETED", 2, 1)


def test_a_worker_that_is_told_to_stop_finishes_its_jobs(stack: Stack, jobs: Jobs) -> None:
    job_id = jobs.enqueue(payload={"seconds": 3})
    wait_until(lambda: jobs.get(job_id)["progress"] == 10, within=SOON, what="it is at work")
    stack.processes["jobs"].kill(signal.SIGTERM)
    job = jobs.wait(job_id, *FINAL)
    assert (job["status"], jobs.starts(job_id)) == ("COMPLETED", 1)


def test_long_jobs_keep_no_gift_waiting(client: Client, jobs: Jobs) -> None:
    """More of them than a worker has processes."""
    long = [jobs.enqueue(payload={"seconds": 60}) for _ in range(6)]
    wait_until(lambda: jobs.get(long[0])["progress"] == 10, within=SOON, what="they are at work")
    assert client.wait_until_final([client.create_and_send()], within=30) == {"SENT": 1}
    for job_id in long:
        jobs.post(job_id, "cancel")
    for job_id in long:
        jobs.wait(job_id, "CANCELLED")


def test_the_log_of_a_job_names_it(stack: Stack, jobs: Jobs) -> None:
    job_id = jobs.enqueue()
    jobs.wait(job_id, *FINAL)

    def lines() -> list[dict[str, Any]]:
        found = [line for line in log_lines(stack, "jobs") if line.get("job_id") == job_id]
        return [line for line in found if "duration_ms" in line and "job_type" in line]

    wait_until(lines, within=10, what="a line of the worker")
    assert {"worker_id", "job_id", "job_type", "duration_ms"} <= lines()[0].keys()


@pytest.mark.parametrize(
    ("process", "metric"),
    [
        ("jobs", 'jobs_processed_total{job_type="mark",status="success"}'),
        ("jobs", 'job_duration_seconds_bucket{job_type="mark"'),
        ("jobs", "job_lateness_seconds_bucket"),
        ("relay", 'jobs_pending{band="low"}'),
        ("relay", 'jobs_oldest_pending_age_seconds{band="high"}'),
    ],
)
def test_the_metrics_of_jobs_are_shown(stack: Stack, jobs: Jobs, process: str, metric: str) -> None:
    jobs.wait(jobs.enqueue(), *FINAL)
    port = psutil.Process(stack.processes[process].pid).environ()["METRICS_PORT"]
    http = requests.Session()
    http.trust_env = False
    read = partial(http.get, f"http://127.0.0.1:{port}/metrics", timeout=5)
    wait_until(lambda: metric in read().text, within=15, what=metric)
