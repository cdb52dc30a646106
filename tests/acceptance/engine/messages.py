"""Bodies of SQS messages: as the relay writes them, and as nobody should."""

from __future__ import annotations

import json
import uuid
from typing import Any


def envelope(
    task: str = "noop",
    kwargs: Any = None,
    *,
    args: Any = (),
    embed: Any = None,
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """A task message of Celery's protocol 2 in kombu's envelope.

    Args:
        headers: more headers; one that is `...` is left out.
        properties: the same for properties.
        top: the same for what stands beside them, such as `body`.
    """
    task_id = str(uuid.uuid4())
    return _with(
        {
            "body": json.dumps([args, {} if kwargs is None else kwargs, embed or {}]),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": _with(
                {
                    "lang": "py",
                    "task": task,
                    "id": task_id,
                    "root_id": task_id,
                    "parent_id": None,
                    "group": None,
                    "meth": None,
                    "shadow": None,
                    "eta": None,
                    "expires": None,
                    "retries": 0,
                    "timelimit": [None, None],
                    "argsrepr": "",
                    "kwargsrepr": "",
                    "origin": "tests",
                    "ignore_result": True,
                },
                headers,
            ),
            "properties": _with(
                {
                    "correlation_id": task_id,
                    "reply_to": "",
                    "delivery_mode": 2,
                    "delivery_info": {"exchange": "", "routing_key": "short"},
                    "priority": 0,
                    "body_encoding": "utf-8",
                    "delivery_tag": str(uuid.uuid4()),
                },
                properties,
            ),
        },
        top,
    )


def task(name: str = "noop", /, **kwargs: Any) -> str:
    """An ordinary message."""
    return json.dumps(envelope(name, kwargs))


def _with(fields: dict[str, Any], changes: dict[str, Any] | None) -> dict[str, Any]:
    changed = {
        **fields,
        **{
            k.replace("_", "-") if k.startswith("content_") else k: v
            for k, v in (changes or {}).items()
        },
    }
    return {name: value for name, value in changed.items() if value is not ...}
