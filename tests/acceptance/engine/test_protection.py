"""Amazon ECS is asked not to stop a worker that holds a long task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.client import wait_until
from tests.acceptance.engine.site import Site
from tests.ecs_agent import Agent, ecs_agent


@pytest.fixture
def agent() -> Iterator[Agent]:
    with ecs_agent() as running:
        yield running


def test_a_worker_is_protected_while_it_holds_a_long_task(site: Site, agent: Agent) -> None:
    site.worker("long", concurrency=1, ECS_AGENT_URI=agent.uri)
    assert agent.wishes == []
    site.send_many("long", "sleep", [{"n": 1, "seconds": 3}])
    wait_until(lambda: agent.wishes == [True], within=20, what="it is protected")
    assert site.ledger.read("end") == []
    site.wait_for("end", [1], within=20)
    wait_until(lambda: agent.wishes == [True, False], within=20, what="it may be stopped")


def test_under_constant_load_it_can_be_stopped_now_and_then(site: Site, agent: Agent) -> None:
    site.worker("long", concurrency=1, ECS_AGENT_URI=agent.uri, REST_AFTER="2", REST_FOR="2")
    names = list(range(12))
    site.send_many("long", "sleep", [{"n": n, "seconds": 0.5} for n in names])
    wait_until(lambda: False in agent.wishes, within=30, what="it may be stopped")
    assert len(site.ledger.counts("end")) < len(names)  # though there is work
    site.wait_for("end", names, within=60)
    assert site.ledger.counts("start") == dict.fromkeys(names, 1)


def test_short_tasks_need_no_protection(site: Site, agent: Agent) -> None:
    site.worker("long", concurrency=1, ECS_AGENT_URI=agent.uri, GRACE="31")
    site.send_many("long", "sleep", [{"n": 1, "seconds": 2}])
    site.wait_for("end", [1], within=20)
    assert agent.asked == []


def test_an_agent_that_does_not_answer_keeps_nobody_from_work(site: Site) -> None:
    worker = site.worker("long", concurrency=1, ECS_AGENT_URI="http://127.0.0.1:1")
    site.send_many("long", "sleep", [{"n": n, "seconds": 0.1} for n in (1, 2)])
    site.wait_for("end", [1, 2], within=20)
    assert len([line for line in worker.said("WARNING", "warning") if "protection" in line]) <= 1
