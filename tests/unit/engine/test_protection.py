"""When a worker asks ECS not to be stopped, against an agent on a real socket."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from tasks.engine.catalogue import Catalogue
from tasks.engine.protection import LINGER, RENEW_EVERY, REST_AFTER, REST_FOR, Protection
from tasks.engine.visibility import Held
from tests.ecs_agent import Agent, ecs_agent

JOBS = Catalogue.load("https://sqs.example/1/okuru-")["jobs-high"]


@pytest.fixture
def agent() -> Iterator[Agent]:
    with ecs_agent() as running:
        yield running


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def protection(agent: Agent, held: Held) -> Protection:
    return Protection(held, agent.uri, JOBS.max_hold)


def hold(held: Held, handle: str = "h") -> None:
    held.add(handle, JOBS, "https://sqs.example/1/okuru-jobs-high")


def test_a_worker_with_work_is_protected_for_as_long_as_its_longest_task(
    agent: Agent, held: Held, protection: Protection
) -> None:
    protection._look(0)
    assert agent.asked == []
    hold(held)
    protection._look(1)
    assert agent.asked == [
        {
            "path": "/api/some-id/task-protection/v1/state",
            "ProtectionEnabled": True,
            "ExpiresInMinutes": 18,
        }
    ]
    assert JOBS.max_hold + RENEW_EVERY < 18 * 60


def test_it_is_renewed_while_there_is_work_and_given_up_a_moment_after(
    agent: Agent, held: Held, protection: Protection
) -> None:
    hold(held)
    for now in (0.0, 1.0, RENEW_EVERY - 1):
        protection._look(now)
    assert agent.wishes == [True]
    protection._look(RENEW_EVERY)
    assert agent.wishes == [True, True]
    held.drop("h")
    protection._look(RENEW_EVERY + LINGER - 1)
    assert agent.wishes == [True, True]
    protection._look(RENEW_EVERY + LINGER)
    protection._look(RENEW_EVERY + LINGER + 1)
    assert agent.wishes == [True, True, False]


def test_under_constant_load_it_rests_until_idle_and_a_while_longer(
    agent: Agent, held: Held, protection: Protection
) -> None:
    hold(held)
    protection._look(0)
    protection._look(REST_AFTER - 1)
    assert not protection.is_resting
    protection._look(REST_AFTER)
    assert protection.is_resting
    protection._look(REST_AFTER + 500)  # the longest task is still running: protected all the time
    assert agent.wishes[-1] is True
    held.drop("h")
    protection._look(REST_AFTER + 501)  # it does not linger
    assert agent.wishes[-1] is False
    protection._look(REST_AFTER + 501 + REST_FOR - 1)
    assert protection.is_resting
    protection._look(REST_AFTER + 501 + REST_FOR)
    assert not protection.is_resting
    hold(held)
    protection._look(REST_AFTER + 600)
    assert agent.wishes[-1] is True
    assert not protection.is_resting


def test_it_rests_no_longer_than_that_can_help(
    agent: Agent, held: Held, protection: Protection
) -> None:
    """Who is not unprotected cannot be stopped, and messages wait."""
    hold(held)
    protection._look(0)
    protection._look(REST_AFTER)
    held.drop("h")
    agent.status, agent.answer = 500, b"{}"
    protection._look(REST_AFTER + REST_FOR - 1)
    assert protection.is_resting
    protection._look(REST_AFTER + REST_FOR)
    assert not protection.is_resting
    hold(held)
    protection._look(2 * REST_AFTER + REST_FOR - 1)
    assert not protection.is_resting
    protection._look(2 * REST_AFTER + REST_FOR)
    assert protection.is_resting


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, b"{}"),
        (200, b"[" * 100_000),
        (400, b'{"error": {"Code": "AccessDeniedException"}}'),
        (200, b'{"failure": {"Reason": "DEPLOYMENT_BLOCKED"}}'),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b'{"protection": {"ProtectionEnabled": false}}'),
    ],
)
def test_what_is_not_granted_is_asked_again_and_said_once(
    agent: Agent,
    held: Held,
    protection: Protection,
    caplog: pytest.LogCaptureFixture,
    status: int,
    answer: bytes,
) -> None:
    caplog.set_level(logging.INFO)
    agent.status, agent.answer = status, answer
    hold(held)
    for now in (0.0, 1.0, 2.0):
        protection._look(now)
    assert agent.wishes == [True] * 3
    agent.status, agent.answer = 200, None
    protection._look(3)
    protection._look(4)
    assert agent.wishes == [True] * 4
    said = [record.message for record in caplog.records if record.name.startswith("tasks")]
    assert len(said) == 2
    assert "does not take" in said[0]
    assert "again" in said[1]


def test_work_that_comes_while_protection_is_given_up_does_not_wait(
    held: Held, protection: Protection
) -> None:
    hold(held)
    protection._look(0)
    protection._ask(False, LINGER)  # it looked idle
    assert protection._wake.is_set()


def test_no_proxy_is_asked_for_what_is_on_this_host(
    agent: Agent, held: Held, protection: Protection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hold(held)
    protection._look(0)
    assert agent.wishes == [True]


def test_an_agent_that_never_answers_is_asked_again(
    held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.engine.protection.ANSWER_WITHIN", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        protection = Protection(held, uri, JOBS.max_hold)
        hold(held)
        protection._look(0)
    assert "ReadTimeout" in caplog.text
    assert protection._protected_at is None


def test_work_that_comes_to_an_idle_worker_does_not_wait_for_the_next_look(
    agent: Agent, held: Held, protection: Protection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.engine.protection.LOOK_EVERY", 600)
    asked = threading.Event()
    monkeypatch.setattr(protection, "_ask", lambda *_: asked.set())
    protection.start()
    hold(held)
    protection.wake()
    assert asked.wait(30)
