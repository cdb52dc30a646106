"""Promise 10: on a queue marked so, whatever lies there is the one task that it is for."""

from __future__ import annotations

import base64
import json
from collections import Counter

import pytest

from tests.acceptance.engine.conftest import MakeSite
from tests.acceptance.engine.messages import task
from tests.acceptance.engine.queues import MAX_RECEIVES
from tests.acceptance.engine.site import Site

DIES_WITHIN = 45.0

#: The task takes JSON objects.
GOOD: dict[str, str] = {
    "an object": '{"order": 1}',
    "an object with spaces": ' {"order" : 2}\n',
    "a top-level properties key": '{"properties": {"delivery_tag": "x"}, "n": 1}',
    "properties that are a number": '{"properties": 5}',
    "keys of kombu's envelope": '{"body": "x", "headers": {"task": "noop"}, "properties": {}}',
    "a task message of Celery's": task("noop", n="smuggled"),
    "Japanese": json.dumps({"名": "贈り物"}, ensure_ascii=False),
    "a large one": json.dumps({"text": "x" * 200_000}),
    "an empty object": "{}",
}
#: It raises on these.
BAD: dict[str, str] = {
    "bad JSON": '{"order": ',
    "a list": "[1,2]",
    "a string": '"str"',
    "a number": "7",
    "null": "null",
    "base64": base64.b64encode(b'{"order": 1}').decode(),
    "plain text": "hello",
    "deep JSON": "[" * 50_000,
}


class Aftermath:
    def __init__(self, site: Site) -> None:
        self.site = site
        self.worker = site.worker("foreign", "short")
        bodies = GOOD | BAD
        self.ids = dict(zip(bodies, site.send_bodies("foreign", bodies.values()), strict=True))
        site.send("short", n="beside")
        site.wait_for("end", ["beside"], within=15)
        site.wait_until_empty("foreign", within=DIES_WITHIN)
        self.dead = site.dead_letters("foreign")
        self.alive = self.worker.alive


@pytest.fixture(scope="module")
def aftermath(module_sites: MakeSite) -> Aftermath:
    return Aftermath(module_sites())


@pytest.mark.parametrize("name", GOOD)
def test_json_of_others_is_handed_to_the_queues_task_as_it_is(
    aftermath: Aftermath, name: str
) -> None:
    [end] = aftermath.site.ledger.read("end", message_id=aftermath.ids[name])
    assert end["task"] == "foreign"
    assert end["n"] == GOOD[name]
    assert end["receive_count"] == 1
    assert aftermath.ids[name] not in aftermath.dead


@pytest.mark.parametrize("name", BAD)
def test_what_the_task_refuses_dies_after_five_receives(aftermath: Aftermath, name: str) -> None:
    message_id = aftermath.ids[name]
    failures = aftermath.site.ledger.read("failure", message_id=message_id)
    assert [each["receive_count"] for each in failures] == list(range(1, MAX_RECEIVES + 1))
    assert {each["task"] for each in failures} == {"foreign"}
    assert aftermath.dead[message_id] == BAD[name]
    assert aftermath.site.ledger.read("end", message_id=message_id) == []


def test_the_worker_stays_up_and_nothing_else_ran(aftermath: Aftermath) -> None:
    assert aftermath.alive
    ran = Counter(entry["task"] for entry in aftermath.site.ledger.read("start"))
    assert ran == {"foreign": len(GOOD) + MAX_RECEIVES * len(BAD), "noop": 1}
