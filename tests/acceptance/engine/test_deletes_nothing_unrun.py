"""Promise 3: nothing is deleted that did not run, whichever way Celery would have done it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.engine.conftest import MakeSite
from tests.acceptance.engine.messages import envelope, task
from tests.acceptance.engine.queues import MAX_RECEIVES
from tests.acceptance.engine.site import START_WITHIN, Site

DIES_WITHIN = 45.0
PAST = "2001-01-01T00:00:00+00:00"
REVOKED = "11111111-1111-1111-1111-111111111111"


def message(name: str = "noop", n: str = "unrun", **changes: Any) -> str:
    return json.dumps(envelope(name, {"n": n}, **changes))


def signature(name: str, **fields: Any) -> dict[str, Any]:
    """Of a task that a message asks for."""
    return {
        "task": name,
        "args": [],
        "kwargs": {"n": "forged"},
        "options": {"queue": "short", "task_id": "x"},
        "subtask_type": None,
        "immutable": True,
        **fields,
    }


#: Messages that a stock worker deletes without running their task.
UNRUN: dict[str, str] = {
    "kwargs that are no mapping": json.dumps(envelope("noop", [1, 2])),
    "an undecodable body": message(body="]["),
    "a disallowed content type": message(content_type="application/x-python-serialize"),
    "a compression header": message(headers={"compression": "application/x-bz2"}),
}
#: The same, but there is nothing wrong with them, and they had better run.
RUN: dict[str, str] = {
    "an expiry in the past": message(headers={"expires": PAST}),
    "an eta in a hundred years": message(headers={"eta": "2126-01-01T00:00:00+00:00"}),
    "a revoked id": message(headers={"id": REVOKED}),
    "a revoked stamp": message(headers={"stamped_headers": ["mark"], "stamps": {"mark": ["bad"]}}),
}
#: Tasks that a stock worker takes for done when they end like this.
ENDS: dict[str, str] = {
    "ignores": task("ignores"),
    "retries": task("retries"),
    "retries by itself": task("retries_by_itself"),
    "rejects": task("rejects", requeue=False),
    "rejects with requeue": task("rejects", requeue=True),
    "replaces itself": task("replaces"),
}
#: Celery's own tasks, by which a message could run others, or wait for ever.
BUILT_IN: dict[str, str] = {
    name: json.dumps(envelope(name, kwargs, args=args))
    for name, args, kwargs in [
        ("celery.backend_cleanup", [], {}),
        ("celery.chord_unlock", ["group", signature("noop")], {"result": []}),
        ("celery.accumulate", [1], {}),
        ("celery.chain", [], {"n": 1}),
        ("celery.chord", [[signature("noop")], signature("noop")], {}),
        ("celery.group", [[signature("noop")], "result", "group", []], {}),
        ("celery.map", [signature("noop"), [["forged"]]], {}),
        ("celery.starmap", [signature("noop"), [["forged"]]], {}),
        ("celery.chunks", [signature("noop"), [["forged"]], 1], {}),
    ]
}
#: Messages that ask for other tasks to be run.
FORGED: dict[str, str] = {
    f"{option} after {name}": json.dumps(
        envelope(name, {"n": f"{option}-{name}"}, embed={option: asked})
    )
    for name in ("noop", "raises")
    for option, asked in {
        "callbacks": [signature("noop")],
        "errbacks": [signature("noop")],
        "chain": [signature("noop")],
        "chord": signature("noop"),
    }.items()
}


class Aftermath:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.worker = site.worker("short", REVOKED=REVOKED, concurrency=4)
        bodies = {**UNRUN, **RUN, **ENDS, **BUILT_IN, **FORGED}
        self.ids = dict(zip(bodies, site.send_bodies("short", bodies.values()), strict=True))
        site.wait_until_empty("short", within=DIES_WITHIN)
        self.dead = set(site.dead_letters("short"))
        self.alive = self.worker.alive

    def count(self, event: str, name: str) -> int:
        return len(self.site.ledger.read(event, message_id=self.ids[name]))

    def died(self, name: str) -> bool:
        return self.ids[name] in self.dead


@pytest.fixture(scope="module")
def aftermath(module_sites: MakeSite) -> Aftermath:
    return Aftermath(module_sites())


def test_every_message_ran_or_is_a_dead_letter(aftermath: Aftermath) -> None:
    vanished = [
        name
        for name in aftermath.ids
        if not aftermath.died(name) and not aftermath.count("end", name)
    ]
    assert vanished == []
    assert aftermath.alive


@pytest.mark.parametrize("name", UNRUN)
def test_what_cannot_run_is_kept_as_a_dead_letter(aftermath: Aftermath, name: str) -> None:
    assert aftermath.died(name)
    assert aftermath.count("start", name) == 0
    assert aftermath.count("failure", name) == MAX_RECEIVES


@pytest.mark.parametrize("name", RUN)
def test_no_header_and_no_command_makes_a_worker_skip_a_task(
    aftermath: Aftermath, name: str
) -> None:
    assert (aftermath.count("start", name), aftermath.count("end", name)) == (1, 1)
    assert not aftermath.died(name)


@pytest.mark.parametrize("name", ENDS)
def test_only_a_task_that_returns_is_done(aftermath: Aftermath, name: str) -> None:
    assert aftermath.died(name)
    assert aftermath.count("start", name) == MAX_RECEIVES


@pytest.mark.parametrize("name", BUILT_IN)
def test_celerys_own_tasks_cannot_be_asked_for(aftermath: Aftermath, name: str) -> None:
    assert aftermath.died(name)
    assert aftermath.count("failure", name) == MAX_RECEIVES


@pytest.mark.parametrize("name", FORGED)
def test_a_message_is_one_task_and_asks_for_no_other(aftermath: Aftermath, name: str) -> None:
    """It is refused, or its own task alone runs."""
    assert aftermath.died(name) or aftermath.count("end", name) == 1


def test_nothing_was_published_by_the_worker(aftermath: Aftermath) -> None:
    assert aftermath.site.proxy.count("SendMessage", "SendMessageBatch") == 0
    assert aftermath.site.ledger.read("start", n="forged") == []
    assert aftermath.site.ledger.read("start", n="replaced") == []


def test_a_worker_asks_sqs_for_nothing_but_this(aftermath: Aftermath) -> None:
    """What its role has to allow: see docs."""
    assert {call.action for call in aftermath.site.proxy.find()} <= {
        "ReceiveMessage",
        "DeleteMessage",
        "DeleteMessageBatch",
        "ChangeMessageVisibility",
        "ChangeMessageVisibilityBatch",
        "GetQueueAttributes",
    }


# --- what a worker refuses ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"acks_late": False},
        {"acks_on_failure_or_timeout": True},
        {"acks_on_failure": True},
        {"acks_on_timeout": True},
        {"reject_on_worker_lost": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_task_that_would_lose_messages_keeps_the_worker_from_starting(
    site: Site, options: dict[str, Any]
) -> None:
    site.send("short", n="kept")
    worker = site.worker("short", ready=False, TASK_OPTIONS=json.dumps(options))
    assert worker.wait(within=START_WITHIN) != 0
    assert "misdeclared" in worker.output, worker.output
    assert next(iter(options)).split("_")[0] in worker.output
    assert "Traceback" not in worker.output
    assert site.depths("short") == (1, 0)


@pytest.fixture
def unguarded(site: Site) -> Iterator[Site]:
    """A queue without a redrive policy."""
    url = site.catalogue.url("short")
    site.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": ""})
    return site


def test_a_worker_does_not_start_on_a_queue_without_dead_letters(unguarded: Site) -> None:
    unguarded.send("short", n="kept")
    worker = unguarded.worker("short", "steady", ready=False)
    assert worker.wait(within=START_WITHIN) != 0
    assert "short" in worker.output
    assert "redrive" in worker.output.lower()
    assert "Traceback" not in worker.output
    assert unguarded.depths("short") == (1, 0)


def test_a_queue_that_loses_its_redrive_policy_loses_no_message(site: Site) -> None:
    site.worker("short")
    url = site.catalogue.url("short")
    site.sqs.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": ""})
    site.send("short", "raises", n="kept")
    site.wait_until(
        lambda: site.ledger.counts("start")["kept"] > MAX_RECEIVES + 1,
        within=DIES_WITHIN,
        what="a seventh receive",
    )
    assert sum(site.depths("short")) == 1


def test_purging_is_refused_with_the_reason(site: Site) -> None:
    site.send_many("short", "noop", [{"n": n} for n in range(3)])
    code, output = site.celery("purge", "-f", "-Q", "short")
    assert code != 0
    assert "purg" in output
    assert "Traceback" not in output
    assert site.depths("short") == (3, 0)
    assert site.proxy.count("PurgeQueue") == 0


def test_a_worker_that_is_told_to_purge_first_does_not(site: Site) -> None:
    site.send_many("short", "noop", [{"n": n} for n in range(3)])
    site.worker("short", ready=False, options=["--purge"])
    site.wait_until(
        lambda: not site.workers[0].alive or len(site.ledger.read("end")) == 3,
        within=START_WITHIN,
        what="it runs the tasks, or ends",
    )
    assert len(site.ledger.read("end")) == 3 or site.depths("short") == (3, 0)
    assert site.proxy.count("PurgeQueue") == 0
