"""Promise 2: a worker outlives its messages, and the good ones beside a bad one are not slowed."""

from __future__ import annotations

import base64
import copy
import json
import os
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.engine.conftest import MakeSite
from tests.acceptance.engine.messages import envelope, task
from tests.acceptance.engine.queues import MAX_RECEIVES
from tests.acceptance.engine.site import Site

#: Five receives with a second between each, and the long poll that finds it dead.
DIES_WITHIN = 45.0


def body(**changes: Any) -> str:
    """A task with something wrong about it. `n` says which one ran, if one did."""
    return json.dumps(envelope("noop", {"n": "odd"}, **changes))


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


#: Each kills a stock worker, or did once.
POISON: dict[str, str] = {
    "without an id": body(headers={"id": ...}),
    "an id that is no text": body(headers={"id": 7}),
    "an empty id": body(headers={"id": ""}),
    "an id of a thousand letters": body(headers={"id": "x" * 1000}),
    "without a task": body(headers={"task": ...}),
    "a task that is no text": body(headers={"task": ["noop"]}),
    "a task that nobody knows": task("nobody.knows"),
    "a task with a line break": task("no\nop"),
    "without headers": json.dumps({k: v for k, v in envelope().items() if k != "headers"}),
    "headers that are null": json.dumps({**envelope(), "headers": None}),
    "headers that are a list": json.dumps({**envelope(), "headers": []}),
    "without properties": json.dumps({k: v for k, v in envelope().items() if k != "properties"}),
    "properties that are a number": '{"properties": 5}',
    "properties that are empty": '{"properties": {}}',
    "a body of two elements": body(body="[[], {}]"),
    "a body of four elements": body(body="[[], {}, {}, {}]"),
    "a body that is null": body(body=None),
    "a body that is an object": body(body={}),
    "a body that is a number": body(body="7"),
    "a body that is no JSON": body(body="[[], {}, {"),
    "a body that is no base64": body(body="*", properties={"body_encoding": "base64"}),
    "a body with a lonely surrogate": body(body='[["\\ud800"], 1, {}]'),
    "arguments that are no list": json.dumps(envelope("noop", args=5)),
    "kwargs that are no mapping": json.dumps(envelope("noop", [1])),
    "kwargs that are text": json.dumps(envelope("noop", "n")),
    "wrong arguments": task("sleep", nonsense=1),
    "too many arguments": json.dumps(envelope("noop", args=[1, 2, 3])),
    "options that are a list": json.dumps({**envelope(), "body": "[[], {}, []]"}),
    "plain text": "hello",
    "one letter": "x",
    "null": "null",
    "a number": "1e999",
    "NaN": "NaN",
    "a list": "[1, 2]",
    "a string": '"str"',
    "an empty object": "{}",
    "foreign JSON": '{"order": 1, "lines": [2]}',
    "base64 of nothing in particular": base64.b64encode(bytes(range(200))).decode(),
    "base64 of JSON": base64.b64encode(b'{"body": 1}').decode(),
    "undecodable base64": base64.b64encode(b"\xff\xfe{}").decode(),
    "XML": "<?xml version='1.0'?><a/>",
    "deep JSON": deep(50_000),
    "a deep body": body(body=f"[{deep(50_000)}, {{}}, {{}}]"),
    "deep arguments": json.dumps({**envelope(), "body": f"[[{deep(900)}], 1, {{}}]"}),
    "arguments too deep for pickle": body(body=f'[[], {{"x": {deep(600)}}}, {{}}]'),
    "pickle": body(content_type="application/x-python-serialize", body="gASVBAAAAAAAAABLAS4="),
    "yaml": body(content_type="application/x-yaml", body="[[], {}, {}]"),
    "an unknown content type": body(content_type="application/x-unknown"),
    "a content type that is no text": body(content_type=[1]),
    "a compression": body(headers={"compression": "application/x-gzip"}),
    "a compression that nobody knows": body(headers={"compression": "zap"}),
}

#: Wrong about how, not about what: the task runs as if they were not there, or the message dies.
ODD: dict[str, str] = {
    "a time limit of text": body(headers={"timelimit": ["x", "y"]}),
    "a time limit of one": body(headers={"timelimit": [1]}),
    "a time limit of three": body(headers={"timelimit": [1, 2, 3]}),
    "a time limit that is a number": body(headers={"timelimit": 5}),
    "a time limit below zero": body(headers={"timelimit": [-1, -1]}),
    "an eta that is no time": body(headers={"eta": "tomorrow"}),
    "an eta that is a number": body(headers={"eta": 5}),
    "an eta of next year": body(headers={"eta": "2099-01-01T00:00:00+00:00"}),
    "an eta out of range": body(headers={"eta": "9999-12-31T23:59:59-23:59"}),
    "an expiry that is no time": body(headers={"expires": "never"}),
    "an expiry that is an object": body(headers={"expires": {}}),
    "an expiry in the past": body(headers={"expires": "2001-01-01T00:00:00+00:00"}),
    "retries that are text": body(headers={"retries": "many"}),
    "retries below zero": body(headers={"retries": -5}),
    "a group that is an object": body(headers={"group": {"a": 1}}),
    "a group index of text": body(headers={"group": "g", "group_index": "x"}),
    "a root that is a list": body(headers={"root_id": [1]}),
    "stamps that are text": body(headers={"stamped_headers": "x", "stamps": 5}),
    "stamps without their headers": body(headers={"stamped_headers": ["a"], "stamps": {}}),
    "a shadow that is a list": body(headers={"shadow": [1]}),
    "a language that is another": body(headers={"lang": "js"}),
    "a replaced nesting of text": body(headers={"replaced_task_nesting": "x"}),
    "an origin that is null": body(headers={"origin": None, "argsrepr": 5, "kwargsrepr": []}),
    "a method": body(headers={"meth": "__call__"}),
    "a header named self": body(headers={"self": 1, "message": 2, "args": 3}),
    "without delivery info": body(properties={"delivery_info": ...}),
    "delivery info without a routing key": body(properties={"delivery_info": {"exchange": ""}}),
    "delivery info that is null": body(properties={"delivery_info": None}),
    "delivery info that lies": body(
        properties={"delivery_info": {"sqs_queue": "http://x/", "sqs_message": {}}}
    ),
    "a delivery tag that lies": body(properties={"delivery_tag": {"a": 1}}),
    "a priority of text": body(properties={"priority": "high"}),
    "a reply address": body(properties={"reply_to": "steady", "correlation_id": 5}),
    "an unknown body encoding": body(properties={"body_encoding": "rot13"}),
    "a body encoding that is a list": body(properties={"body_encoding": []}),
    "an unknown charset": body(content_encoding="klingon"),
    "a charset that is null": body(content_encoding=None),
    "a binary charset": body(content_encoding="binary"),
    "a message in base64": base64.b64encode(body().encode()).decode(),
    "a compression that is false": body(headers={"compression": False}),
    "a callback": json.dumps(envelope("noop", {"n": "odd"}, embed={"callbacks": "x"})),
    "an errback": json.dumps(envelope("noop", {"n": "odd"}, embed={"errbacks": [5]})),
    "a chord": json.dumps(envelope("noop", {"n": "odd"}, embed={"chord": {"a": 1}})),
    "a chain": json.dumps(envelope("noop", {"n": "odd"}, embed={"chain": [{"task": 5}]})),
    "a request id of a megabyte": body(headers={"request_id": "x" * 300_000}),
    "a request id that is a list": body(headers={"request_id": [1]}),
}

#: Good messages, bad tasks.
TASKS: dict[str, str] = {
    "raises": task("raises"),
    "is out of memory": task("memory"),
    "exits": task("exits"),
    "kills its process": task("dies"),
    "passes its hard limit": task("hard"),
    "passes its soft limit": task("soft"),
    "does not hear its soft limit": task("stubborn"),
    **{
        f"raises what is {kind}": task("raises_odd", kind=kind)
        for kind in (
            "unpicklable",
            "two-arguments",
            "huge",
            "surrogate",
            "shutdown",
            "interrupt",
            "generator-exit",
            "base",
            "group",
        )
    },
}


class Aftermath:
    """One worker that was given all of it at once, with good messages in between."""

    def __init__(self, site: Site, bodies: dict[str, str], **options: Any) -> None:
        self.site = site
        self.worker = site.worker("short", "steady", **options)
        pid = self.worker.pid
        sent: list[str] = []
        good = iter(range(10_000))
        for text in bodies.values():
            sent += [text, task(n=f"good-{next(good)}")]
        began = time.monotonic()
        ids = site.send_bodies("short", sent)
        self.ids = dict(zip(bodies, ids[::2], strict=True))
        self.good = {f"good-{n}" for n in range(len(bodies))}
        # Those in another queue, sent while the worker chews on the bad ones.
        self.beside = {f"beside-{n}" for n in range(20)}
        for n in sorted(self.beside):
            site.send("steady", n=n)
        site.wait_for("end", self.beside | self.good, within=DIES_WITHIN)
        self.took = (
            max(entry["at"] for entry in site.ledger.read("end") if entry["n"] in self.beside)
            - began
        )
        site.wait_until_empty("short", within=DIES_WITHIN + len(bodies) / 4)
        self.alive = self.worker.alive and self.worker.pid == pid
        self.dead = site.dead_letters("short")
        self.failures = {
            name: site.ledger.read("failure", message_id=message_id)
            for name, message_id in self.ids.items()
        }

    def ran(self, name: str) -> bool:
        return bool(self.site.ledger.read("end", message_id=self.ids[name]))

    def died(self, name: str) -> bool:
        return self.ids[name] in self.dead


@pytest.fixture(scope="module")
def poisoned(module_sites: MakeSite) -> Aftermath:
    return Aftermath(module_sites(), POISON | ODD)


@pytest.fixture(scope="module")
def mistreated(module_sites: MakeSite) -> Aftermath:
    return Aftermath(module_sites(), TASKS, concurrency=6)


def test_bad_messages_leave_the_worker_alive(poisoned: Aftermath) -> None:
    assert poisoned.alive


def test_good_messages_beside_bad_ones_run_once_and_soon(poisoned: Aftermath) -> None:
    starts = poisoned.site.ledger.counts("start")
    assert {name: starts[name] for name in poisoned.good | poisoned.beside} == dict.fromkeys(
        poisoned.good | poisoned.beside, 1
    )
    assert poisoned.took < 8


@pytest.mark.parametrize("name", POISON)
def test_poison_ends_as_a_dead_letter_with_its_reason(poisoned: Aftermath, name: str) -> None:
    assert poisoned.died(name)
    assert not poisoned.ran(name)
    assert_recorded(poisoned.failures[name])


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_runs_once_or_ends_as_a_dead_letter(poisoned: Aftermath, name: str) -> None:
    """And never neither: nothing vanishes."""
    if poisoned.ran(name):
        assert not poisoned.died(name)
        assert len(poisoned.site.ledger.read("start", message_id=poisoned.ids[name])) == 1
    else:
        assert poisoned.died(name)
        assert_recorded(poisoned.failures[name])


def test_bad_tasks_leave_the_worker_alive(mistreated: Aftermath) -> None:
    assert mistreated.alive


def test_good_messages_beside_bad_tasks_run_once(mistreated: Aftermath) -> None:
    starts = mistreated.site.ledger.counts("start")
    assert {name: starts[name] for name in mistreated.good} == dict.fromkeys(mistreated.good, 1)


@pytest.mark.parametrize("name", TASKS)
def test_a_bad_task_ends_as_a_dead_letter_with_its_reason(mistreated: Aftermath, name: str) -> None:
    assert mistreated.died(name)
    assert not mistreated.ran(name)
    assert_recorded(mistreated.failures[name])


def assert_recorded(failures: list[dict[str, Any]]) -> None:
    """Once for each delivery, with a reason that can be read and kept."""
    assert [each["receive_count"] for each in failures] == list(range(1, MAX_RECEIVES + 1))
    assert [each["last_receive"] for each in failures] == [False] * (MAX_RECEIVES - 1) + [True]
    for each in failures:
        assert each["cause"]
        assert 0 < len(each["reason"]) <= 1000
        each["reason"].encode()


# --- a fuzzer -----------------------------------------------------------------------------------

SEED = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(2**32))
MESSAGES = int(os.environ.get("FUZZ_MESSAGES") or 150)

VALUES: list[Any] = [
    None, True, 0, -1, 2**70, 1.5, 1e308, "", "x", "\u0000", "\ud800", "日本", "x" * 5000, [], {},
    [None], [[]], {"": ""}, {"task": "noop"}, ["noop", {}], "2001-01-01T00:00:00", "base64",
    "application/json", "utf-8", "pickle", {"exchange": "", "routing_key": "steady"}, "celery",
    [[], {}, {}],
]  # fmt: skip


class Fuzzer:
    """Breaks a good message in a few places. The seed says how."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def body(self) -> str:
        known = str(uuid.UUID(int=self._random.getrandbits(128)))
        document: Any = envelope("noop", {"n": "fuzz"}, headers={"id": known, "root_id": known})
        document["properties"] |= {"correlation_id": known, "delivery_tag": known}
        for _ in range(self._random.randint(1, 4)):
            self._change(document)
        if self._random.random() < 0.4:
            document["body"] = self._payload()
        text = json.dumps(document)
        spoil = self._random.random()
        if spoil < 0.1:
            text = self._cut(text)
        elif spoil < 0.2:
            text = base64.b64encode(text.encode()).decode()
        return text or "x"

    def _payload(self) -> str:
        parts: list[Any] = [[], {"n": "fuzz"}, dict.fromkeys(("callbacks", "chain", "chord"))]
        for _ in range(self._random.randint(1, 2)):
            parts[self._random.randrange(3)] = self._value()
        if self._random.random() < 0.3:
            parts = parts[: self._random.randint(0, 3)]
        text = json.dumps(parts)
        return self._cut(text) if self._random.random() < 0.2 else text

    def _change(self, document: dict[str, Any]) -> None:
        where: Any = self._random.choice(
            [document, *[v for v in document.values() if isinstance(v, dict)]]
        )
        name = self._random.choice([*where, "compression", "expires", "eta", "x-strange"])
        if self._random.random() < 0.3:
            where.pop(name, None)
        else:
            where[name] = self._value()

    def _value(self) -> Any:
        makers: list[Callable[[], Any]] = [
            lambda: self._random.choice(VALUES),
            lambda: [self._random.choice(VALUES) for _ in range(self._random.randint(0, 4))],
            lambda: {str(self._random.choice(VALUES)): self._random.choice(VALUES)},
        ]
        return copy.deepcopy(self._random.choice(makers)())

    def _cut(self, text: str) -> str:
        at = self._random.randrange(len(text))
        match self._random.randrange(3):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + self._random.choice('{}[]",:\\x7') + text[at:]
            case _:
                return text[:at] + text[at + self._random.randint(1, 20) :]


def test_the_fuzzer_repeats_itself() -> None:
    one, two = (Fuzzer(7) for _ in range(2))
    assert [one.body() for _ in range(50)] == [two.body() for _ in range(50)]


def test_whatever_is_sent_runs_once_or_ends_as_a_dead_letter(site: Site) -> None:
    """FUZZ_SEED and FUZZ_MESSAGES repeat a run, or make a longer one."""
    sys.stdout.write(f"FUZZ_SEED={SEED}\n")
    fuzzer = Fuzzer(SEED)
    worker = site.worker("short", "steady")
    bodies = [fuzzer.body() for _ in range(MESSAGES)]
    ids = dict(zip(site.send_bodies("short", bodies), bodies, strict=True))
    good = {f"good-{n}" for n in range(20)}
    site.send_many("steady", "noop", [{"n": n} for n in good])
    site.wait_for("end", good, within=15)
    site.wait_until_empty("short", within=DIES_WITHIN + MESSAGES / 4)
    assert worker.alive, worker.output
    dead = set(site.dead_letters("short"))
    starts = Counter(entry["message_id"] for entry in site.ledger.read("start"))
    ends = Counter(entry["message_id"] for entry in site.ledger.read("end"))
    failures = Counter(entry["message_id"] for entry in site.ledger.read("failure"))
    for message_id, text in ids.items():
        if message_id in dead:
            assert (ends[message_id], failures[message_id]) == (0, MAX_RECEIVES), text
        else:
            assert (starts[message_id], ends[message_id]) == (1, 1), text
    assert 0 < len(dead) < MESSAGES, "a fuzzer should find both"
