"""`celery inspect` and `celery control` as an operator types them, and what Valkey's end does."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import psutil
import pytest
from celery import Celery

from okuru.stack.home import PROJECT
from okuru.stack.stack import Stack
from tasks.engine.catalogue import Catalogue
from tasks.engine.control import install
from tests.acceptance.client import Client, wait_until

#: Seconds. A worker comes back to a Valkey that was away for up to 30 s, and jitter.
BACK_WITHIN = 60.0
#: The worker of all but the jobs: whoever names it waits for no other's reply.
NODE = f"celery@{socket.gethostname()}"
#: A reply may take this long on a busy machine; Celery's own default is 1.
REPLY_WITHIN = 5.0
TO_NODE = ("--timeout", str(REPLY_WITHIN), "--destination", NODE)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Its one line of error."""
        assert self.code != 0
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1, self.err
        return lines[0]


def celery(stack: Stack, *arguments: str, answer: str = "", **environment: str) -> Said:
    """`celery -A tasks …`, plain."""
    done = subprocess.run(
        ["celery", "-A", "tasks", *arguments],
        env={**stack.environment, **environment},
        cwd=PROJECT,
        input=answer,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


def inspect(stack: Stack, *command: str) -> Any:
    """What the worker replied."""
    said = celery(stack, "inspect", *TO_NODE, "--json", *command)
    assert said.code == 0, said
    return json.loads(said.out)[NODE]


def control(stack: Stack, *command: str) -> Any:
    """What the worker replied."""
    said = celery(stack, "control", *TO_NODE, "--json", *command)
    assert said.code == 0, said
    (replies,) = json.loads(said.out)
    return replies[NODE]


def wait_until_it_pings(stack: Stack) -> None:
    def pings() -> bool:
        said = celery(stack, "inspect", *TO_NODE, "ping")
        return said.code == 0 and "pong" in said.out

    wait_until(pings, within=BACK_WITHIN, what="a reply")


@pytest.fixture
def answering(stack: Stack) -> Stack:
    """The stack with a worker that answers."""
    wait_until_it_pings(stack)
    return stack


@pytest.fixture
def watch(stack: Stack) -> Iterator[Callable[..., Any]]:
    """`inspect` from this process: for what is asked again and again."""
    app = Celery("watching", set_as_current=False)
    install(app, stack.valkey.url, pool_size=2)

    def watch(command: str) -> Any:
        found = app.control.inspect(destination=[NODE], timeout=REPLY_WITHIN)
        return getattr(found, command)()[NODE]

    yield watch
    app.close()


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    valkey = psutil.Process(stack.valkey.child.pid)
    valkey.suspend()
    try:
        yield
    finally:
        valkey.resume()


def assert_unreachable(stack: Stack) -> None:
    address = f"127.0.0.1:{stack.valkey.port}"
    for command in (["inspect", "ping"], ["control", "pool_grow"]):
        assert celery(stack, *command).error.startswith(
            f"Error: the control plane at {address} cannot be reached: "
        )


def assert_sent(client: Client, count: int = 8) -> None:
    gifts = [client.create_and_send() for _ in range(count)]
    assert client.wait_until_final(gifts, within=60) == {"SENT": count}
    assert [client.outcomes(gift) for gift in gifts] == [["sent"]] * count


def test_a_plain_ping_is_answered(answering: Stack) -> None:
    """By both workers: that of the jobs, too."""

    def said() -> str:
        return celery(answering, "inspect", "ping").out

    wait_until(lambda: "2 nodes online" in said(), within=BACK_WITHIN, what="two pongs")


def test_inspect_shows_what_a_worker_does(
    answering: Stack, client: Client, watch: Callable[..., Any]
) -> None:
    # Celery writes a limit that another test has set behind the name.
    registered = {each.partition(" ")[0] for each in inspect(answering, "registered")}
    assert {"gifts.send", "delivery.reconcile"} <= registered

    stats = inspect(answering, "stats")
    assert stats["pid"] == answering.processes["worker"].pid
    assert len(stats["pool"]["processes"]) == int(answering.environment["WORKER_COUNT"])
    assert isinstance(inspect(answering, "reserved"), list)

    gifts = [client.create_and_send(simulate={"delay_ms": 8000}) for _ in range(3)]

    def sending(tasks: list[Any]) -> set[str]:
        return {task["kwargs"]["gift_id"] for task in tasks if task["name"] == "gifts.send"}

    wait_until(lambda: sending(watch("active")) == set(gifts), within=30, what="all at work")
    assert sending(inspect(answering, "active")) <= set(gifts)
    assert client.wait_until_final(gifts, within=90) == {"SENT": len(gifts)}


def test_a_pool_grows_and_shrinks(answering: Stack, watch: Callable[..., Any]) -> None:
    def processes() -> int:
        return len(watch("stats")["pool"]["processes"])

    before = processes()
    assert "ok" in control(answering, "pool_grow", "2")
    wait_until(lambda: processes() == before + 2, within=30, what="two more processes")
    assert "ok" in control(answering, "pool_shrink", "2")
    wait_until(lambda: processes() == before, within=30, what="two fewer processes")
    assert "has 1 to" in control(answering, "pool_shrink", str(before))["error"]
    assert processes() == before


def test_limits_are_changed(answering: Stack, client: Client) -> None:
    assert "ok" in control(answering, "time_limit", "gifts.send", "1")
    gift = client.create_and_send(simulate={"delay_ms": 4000})
    wait_until(lambda: client.outcomes(gift)[:1] == ["timeout"], within=30, what="a timeout")
    assert "ok" in control(answering, "rate_limit", "gifts.send", "100/s")
    assert "ok" in control(answering, "time_limit", "gifts.send", "14", "19")
    attributes = ["rate_limit", "soft_time_limit", "time_limit"]
    assert (
        "gifts.send [rate_limit=100/s soft_time_limit=14.0 time_limit=19.0]"
        in inspect(answering, "registered", *attributes)
    )  # fmt: skip
    assert "ok" in control(answering, "rate_limit", "gifts.send", "0")
    # A new one: by now the first may have used up its executions.
    gift = client.create_and_send(simulate={"delay_ms": 4000})
    assert client.wait_until_final([gift], within=75) == {"SENT": 1}
    assert "no rate" in control(answering, "rate_limit", "gifts.send", "100/x")["error"]
    assert control(answering, "rate_limit", "nothing", "1/s") == {"error": "unknown task"}


def test_a_queue_is_left_and_taken_up_again(
    answering: Stack, client: Client, watch: Callable[..., Any]
) -> None:
    def queues() -> set[str]:
        return {queue["name"] for queue in watch("active_queues")}

    everything = queues()
    assert "ok" in control(answering, "cancel_consumer", "gifts")
    wait_until(lambda: queues() == everything - {"gifts"}, within=30, what="without gifts")
    assert "ok" in control(answering, "add_consumer", "gifts")
    wait_until(lambda: queues() == everything, within=30, what="with gifts")
    assert_sent(client)


def test_nothing_is_created_in_aws(answering: Stack, watch: Callable[..., Any]) -> None:
    sqs = boto3.client(
        "sqs",
        region_name=answering.environment["AWS_REGION"],
        endpoint_url=answering.environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=answering.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=answering.environment["AWS_SECRET_ACCESS_KEY"],
    )
    consumed = {queue["name"] for queue in watch("active_queues")}
    for command in ("add_consumer", "cancel_consumer"):
        assert "no queue of the catalogue: mine" in control(answering, command, "mine")["error"]
    assert {queue["name"] for queue in watch("active_queues")} == consumed
    catalogue = Catalogue.load(answering.environment["QUEUE_URL_PREFIX"])
    names = [name for each in catalogue for name in (each.name, each.dead_letter_queue)]
    made = {url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]}
    assert made == {catalogue.url(name).rpartition("/")[2] for name in names}


def test_a_shutdown_is_answered_and_finishes_what_runs(answering: Stack, client: Client) -> None:
    first = answering.processes["worker"].pid
    gifts = [client.create_and_send(simulate={"delay_ms": 4000}) for _ in range(3)]
    wait_until(lambda: all(client.outcomes(gift) for gift in gifts), within=30, what="executing")
    assert "ok" in control(answering, "shutdown")
    wait_until(
        lambda: answering.processes["worker"].pid != first,
        within=60,
        what="the supervisor starts another",
    )
    assert client.wait_until_final(gifts, within=60) == {"SENT": 3}
    assert [client.outcomes(gift) for gift in gifts] == [["sent"]] * 3
    wait_until_it_pings(answering)


@pytest.mark.parametrize(
    "command",
    [
        ["control", "revoke", "an-id"],
        ["control", "terminate", "KILL", "an-id"],
        ["control", "revoke_by_stamped_headers", "mark=one"],
        ["purge", "--force"],
        ["purge"],
    ],
    ids=lambda command: " ".join(command),
)
def test_what_deletes_unrun_tasks_is_refused_with_the_reason(
    answering: Stack, command: list[str]
) -> None:
    said = celery(answering, *command, answer="y\n")
    assert "is refused: " in said.error
    assert "never ran" in said.error or "never runs" in said.error
    assert said.out == ""


def test_a_worker_that_is_to_purge_first_does_not_start(stack: Stack) -> None:
    said = celery(stack, "worker", "--purge", "-n", "purging@%h")
    assert "purge is refused: it deletes messages whose tasks never ran" in said.error


def test_a_killed_valkey_is_said_and_stops_no_task(answering: Stack, client: Client) -> None:
    worker = answering.processes["worker"].pid
    answering.valkey.child.signal(signal.SIGKILL)
    wait_until(lambda: not answering.valkey.child.alive, within=20)
    assert_sent(client)
    assert_unreachable(answering)
    answering.valkey.start()
    answering.valkey.wait_until_ready()
    wait_until_it_pings(answering)
    assert answering.processes["worker"].pid == worker


def test_a_frozen_valkey_is_said_and_stops_no_task(answering: Stack, client: Client) -> None:
    worker = answering.processes["worker"].pid
    with frozen(answering):
        assert_sent(client)
        assert_unreachable(answering)
    wait_until_it_pings(answering)
    assert answering.processes["worker"].pid == worker


def test_a_worker_stops_while_valkey_is_frozen(answering: Stack, client: Client) -> None:
    first = answering.processes["worker"].pid
    with frozen(answering):
        answering.processes["worker"].kill(signal.SIGTERM)
        wait_until(
            lambda: answering.processes["worker"].pid != first,
            within=60,
            what="the supervisor starts another",
        )
        assert_sent(client)
    wait_until_it_pings(answering)


def test_a_worker_that_never_saw_valkey_works_and_comes_back_by_itself(
    stack: Stack, client: Client
) -> None:
    """And says the outage once, however often it tries."""
    stack.processes["worker"].stop()
    stack.valkey.child.signal(signal.SIGKILL)
    wait_until(lambda: not stack.valkey.child.alive, within=20)
    stack.processes["worker"].start()  # with a fresh log
    worker = stack.processes["worker"].pid
    assert_sent(client)

    def lines() -> list[str]:
        log = stack.home.log_path("worker").read_text()
        said = [json.loads(line)["message"] for line in log.splitlines() if line.startswith("{")]
        return [line.partition(";")[0] for line in said if "control plane" in line]

    assert_unreachable(stack)
    stack.valkey.start()
    stack.valkey.wait_until_ready()
    wait_until_it_pings(stack)
    assert stack.processes["worker"].pid == worker
    assert lines() == [
        "the control plane cannot be reached",
        "the control plane is reached",
    ]
