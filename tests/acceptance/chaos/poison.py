"""Messages that no worker can or should run. Each has to end in the dead-letter queue.

The kinds are those that ended, stalled or fooled a stock worker, and some that are only odd.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import uuid
from collections.abc import Callable
from typing import Any

Body = dict[str, Any]


def celery_message(
    chance: random.Random,
    task: str = "gifts.send",
    args: Any = (),
    kwargs: Any = None,
    embed: Any = None,
    payload: Any = None,
    **headers: Any,
) -> Body:
    """A message as the relay writes it, for a gift that does not exist."""
    task_id = _uuid(chance)
    if kwargs is None:
        kwargs = {"gift_id": _uuid(chance), "send_no": 1, "request_id": "poison"}
    embed = embed or {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return {
        "body": json.dumps([args, kwargs, embed] if payload is None else payload),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "retries": 0,
            "timelimit": [None, None],
            "eta": None,
            "expires": None,
            "argsrepr": "",
            "kwargsrepr": "",
            "ignore_result": True,
            **headers,
        },
        "properties": {
            "correlation_id": task_id,
            "body_encoding": "utf-8",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "gifts"},
            "priority": 0,
            "delivery_tag": _uuid(chance),
        },
    }


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def _without(message: Body, *path: str) -> Body:
    inner = message
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return message


def _gift(chance: random.Random, **changes: Any) -> Body:
    kwargs = {"gift_id": _uuid(chance), "send_no": 1, "request_id": "poison", **changes}
    return celery_message(chance, kwargs=kwargs)


def _bomb() -> str:
    return base64.b64encode(gzip.compress(b"[" + b"0," * 2_000_000 + b"0]")).decode()


KINDS: dict[str, Callable[[random.Random], Body | list[Any] | str]] = {
    "plain text": lambda c: f"hello {c.random()}",
    "bare JSON": lambda _: [1, 2, 3],
    "JSON that looks like kombu's": lambda _: {"properties": 5},
    "empty properties": lambda _: {"properties": {}},
    "base64 of nothing readable": lambda c: base64.b64encode(c.randbytes(60)).decode(),
    "deep nesting": lambda _: "[" * 30_000 + "]" * 30_000,
    "no id": lambda c: _without(celery_message(c), "headers", "id"),
    "no task": lambda c: _without(celery_message(c), "headers", "task"),
    "no headers": lambda c: _without(celery_message(c), "headers"),
    "no delivery_info": lambda c: _without(celery_message(c), "properties", "delivery_info"),
    "a body of two": lambda c: celery_message(c, payload=[[], {}]),
    "a body that is null": lambda c: {**celery_message(c), "body": None},
    "a body that is not base64": lambda c: {
        **celery_message(c),
        "body": "%%%",
        "properties": {**celery_message(c)["properties"], "body_encoding": "base64"},
    },
    "kwargs that are no mapping": lambda c: celery_message(c, kwargs=[1]),
    "args that are no list": lambda c: celery_message(c, args=7),
    "arguments that do not fit": lambda c: celery_message(c, kwargs={"gift": 1}),
    "an unknown task": lambda c: celery_message(c, task="os.system", args=["true"], kwargs={}),
    "pickle": lambda c: {**celery_message(c), "content-type": "application/x-python-serialize"},
    "a bad time limit": lambda c: celery_message(c, timelimit=["soon", {}]),
    "expired": lambda c: celery_message(c, expires="2001-01-01T00:00:00+00:00"),
    "for the year 2100": lambda c: celery_message(c, eta="2100-01-01T00:00:00+00:00"),
    "another task behind it": lambda c: celery_message(
        c, embed={"callbacks": [{"task": "delivery.recover_stalled", "args": []}]}
    ),
    "compressed": lambda c: {
        **celery_message(c, compression="application/x-gzip"),
        "body": _bomb(),
    },
    "a gift that does not exist": _gift,
    "a gift id that is none": lambda c: _gift(c, gift_id="x' OR 1=1 --"),
    "a gift id with a NUL": lambda c: _gift(c, gift_id="\0" * 36),
    "half a surrogate pair": lambda c: _gift(c, request_id="\ud800"),
    "a huge send number": lambda c: _gift(c, send_no=2**63),
    "a send number that is text": lambda c: _gift(c, send_no="one"),
}


def messages(chance: random.Random, count: int) -> list[tuple[str, str]]:
    """(kind, body) of so many messages: every kind once before any comes twice."""
    kinds = list(KINDS)
    chance.shuffle(kinds)
    made = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        body = KINDS[kind](chance)
        made.append((kind, body if isinstance(body, str) else json.dumps(body)))
    return made
