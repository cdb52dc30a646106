"""From the body of an SQS message to a task, believing as little as possible of it.

Celery and kombu believe their messages: a header can make a worker decompress gigabytes, run
another task afterwards, wait for hours, or end. Here a message is built anew from what is known to
be good; everything else about it is left out or refused.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A message body in SQS, and so a task's arguments, cannot be longer.
MAX_BODY = 1024 * 1024
#: What names a task or a message.
MAX_NAME = 255
#: A pool process gets its task pickled, and pickle gives up long before JSON does.
MAX_DEPTH = 32
#: Options by which a message asks for other tasks to be run; Celery writes them as null.
FOLLOW_UPS = ("callbacks", "errbacks", "chain", "chord")


class BadMessage(Exception):
    """A message that cannot become a task. The text says why, and nothing of its contents."""


def celery_message(body: str, kept_headers: Iterable[str]) -> dict[str, Any]:
    """kombu's envelope of a message that a Celery producer wrote.

    Args:
        kept_headers: the application's own headers, kept where they are short text.

    Raises:
        BadMessage: it is none, or asks for what a message may not ask for.
    """
    envelope = _object(_json(body), "the message")
    headers = _object(envelope.get("headers"), "headers")
    properties = _object(envelope.get("properties"), "properties")
    task, task_id = _name(headers, "task"), _name(headers, "id")
    if headers.get("compression"):
        raise BadMessage("compressed messages are refused: a small one can fill the memory")
    if envelope.get("content-type") != "application/json":
        raise BadMessage("its content type is not application/json")
    payload = _payload(envelope.get("body"), properties.get("body_encoding"))
    kept = {name: headers[name] for name in kept_headers if _is_name(headers.get(name))}
    return _envelope(payload, {**kept, "task": task, "id": task_id})


def foreign_message(body: str, task: str, message_id: str) -> dict[str, Any]:
    """The envelope that makes a message of another system the task `task`: its only argument is
    the text of the message, whatever that is."""
    return _envelope([[body], {}, {}], {"task": task, "id": message_id})


@dataclass(frozen=True)
class Said:
    """What a message says that it is. Also one that no worker would run."""

    task: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    traceparent: Any = None


def peek(body: str, foreign_task: str | None = None) -> Said | None:
    """What a message says, for whoever asks what it stood for; None if nothing can be read.

    Args:
        foreign_task: the task of all messages of its queue.
    """
    if foreign_task:
        return Said(foreign_task, (body,))
    try:
        envelope = _object(_json(body), "the message")
        headers = _object(envelope.get("headers"), "headers")
        args, kwargs, _options = _json(str(envelope.get("body")))
        task = headers.get("task")
    except (BadMessage, TypeError, ValueError):
        return None
    # JSON may escape what no database keeps as text: NUL, half a surrogate pair.
    if not isinstance(kwargs, dict) or not isinstance(task, str) or not task.isprintable():
        return None
    if _is_deeper([args, kwargs], MAX_DEPTH):
        return None
    told = tuple(args) if isinstance(args, list) else (args,)
    return Said(task[:200], told, kwargs, headers.get("traceparent"))


def _envelope(payload: Any, headers: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(payload)
    return {
        "body": text,
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "lang": "py",
            "root_id": headers["id"],
            "parent_id": None,
            "group": None,
            "retries": 0,
            "ignore_result": True,
            "argsrepr": "",
            "kwargsrepr": "",
            **headers,
        },
        "properties": {"body_encoding": "utf-8", "correlation_id": headers["id"]},
    }


def _payload(body: Any, encoding: Any) -> list[Any]:
    """[args, kwargs, options] of Celery's protocol 2."""
    if not isinstance(body, str) or len(body) > MAX_BODY:
        raise BadMessage("its body is no text")
    payload = _json(_unbase64(body) if encoding == "base64" else body)
    if not isinstance(payload, list) or len(payload) != 3:
        raise BadMessage("its body is not [args, kwargs, options]")
    args, kwargs, options = payload
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadMessage("its arguments are no list and no mapping")
    if _is_deeper(payload, MAX_DEPTH):
        raise BadMessage("its arguments are nested too deeply")
    if not isinstance(options, dict) or any(options.get(name) for name in FOLLOW_UPS):
        raise BadMessage("it asks for other tasks to be run")
    return [args, kwargs, dict.fromkeys(FOLLOW_UPS)]


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _json(text: str) -> Any:
    try:
        try:
            return json.loads(text)
        except ValueError:
            # Celery's producers elsewhere wrap the whole message in base64.
            return json.loads(_unbase64(text))
    except (ValueError, RecursionError):
        raise BadMessage("it is not JSON") from None


def _unbase64(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, ValueError):
        raise BadMessage("it is neither JSON nor base64 of JSON") from None


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadMessage(f"{name} is no JSON object")
    return value


def _name(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(name)
    if not _is_name(value):
        raise BadMessage(f"its header {name} is missing or no short text")
    return str(value)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()
