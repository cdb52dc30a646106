"""The five failures: what breaks, which monitors call, what mends it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass

from okuru.drill.provider import Provider
from okuru.stack.stack import Stack
from tasks.engine import sqs
from tasks.engine.catalogue import Catalogue

#: Bodies that can never become a task: no JSON, another's JSON, a task that nobody knows.
POISON = (
    "not JSON",
    json.dumps({"gift": 1}),
    json.dumps(
        {
            "body": "[[], {}, {}]",
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": "nobody.knows", "id": "drill"},
            "properties": {"body_encoding": "utf-8"},
        }
    ),
)


@dataclass
class Site:
    stack: Stack
    provider: Provider


@dataclass(frozen=True)
class Scenario:
    """
    Attributes:
        broken: what is done to the stack, in words.
        monitors: which must call; the section of the first one is followed.
        mended: what ends the failure in production, in words; None if the commands do.
        per_second: gifts that callers send meanwhile.
    """

    name: str
    broken: str
    monitors: tuple[str, ...]
    break_it: Callable[[Site], None]
    mended: str | None
    mend_it: Callable[[Site], None] = lambda _: None
    per_second: float = 3


def _stop_worker(site: Site) -> None:
    site.stack.processes["worker"].stop(grace=10)


def _start_worker(site: Site) -> None:
    site.stack.processes["worker"].start()


def _slow_provider(site: Site) -> None:
    site.provider.takes = 3


def _fast_provider(site: Site) -> None:
    site.provider.takes = 0


def _stop_database(site: Site) -> None:
    site.stack.postgres.child.signal(signal.SIGQUIT)  # at once, without a farewell


def _start_database(site: Site) -> None:
    site.stack.restart_dead_servers()


def _send_poison(site: Site) -> None:
    environment = site.stack.environment
    client = sqs.client(
        environment["AWS_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    url = Catalogue.load(environment["QUEUE_URL_PREFIX"]).url("gifts")
    for body in POISON:
        client.send_message(QueueUrl=url, MessageBody=body)
    client.close()


def _provider_down(site: Site) -> None:
    site.provider.is_down = True


def _provider_up(site: Site) -> None:
    site.provider.is_down = False


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "worker-down",
            "the worker is stopped, and nobody starts it again",
            ("worker-running-below-desired", "queue-backlog"),
            _stop_worker,
            "ECS starts another task",
            _start_worker,
        ),
        Scenario(
            "queue-backlog",
            "the provider takes 3 s for an answer: four processes are too few",
            ("queue-backlog",),
            _slow_provider,
            "the provider is fast again",
            _fast_provider,
            per_second=6,
        ),
        Scenario(
            "db-down",
            "PostgreSQL is stopped at once, under load",
            ("alb-5xx", "slo-burn-fast"),
            _stop_database,
            "the database fails over",
            _start_database,
        ),
        Scenario(
            "poison",
            f"somebody puts {len(POISON)} messages on the queue that can never become a task",
            ("dead-letters",),
            _send_poison,
            None,
        ),
        Scenario(
            "provider-down",
            "the provider answers 503 to everybody",
            ("worker-failures", "dead-letters"),
            _provider_down,
            "the provider answers again",
            _provider_up,
        ),
    )
}
