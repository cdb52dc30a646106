"""Processors of somebody's own, as OKURU_PROCESSORS names them: their effects can be counted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import marshmallow as ma

from app.jobs.processors import Context, processor


class Mark(ma.Schema):
    folder = ma.fields.String(required=True)
    seconds = ma.fields.Float(load_default=0)
    fail_times = ma.fields.Integer(load_default=0)


@processor("mark", Mark)
def mark(context: Context, payload: dict[str, Any]) -> dict[str, int]:
    """Leaves a file for each start, and one for the effect, however often it starts."""
    folder = Path(payload["folder"])
    with (folder / f"{context.job.id}.starts").open("a") as starts:
        starts.write(f"{context.job.execution}\n")
    until = time.monotonic() + payload["seconds"]
    context.progress(10, "at work")
    while time.monotonic() < until:
        context.stop_if_cancelled()
        time.sleep(0.05)
    if context.job.execution <= payload["fail_times"]:
        raise RuntimeError("as it was asked to")
    (folder / f"{context.idempotency_key.replace(':', '-')}.effect").touch(exist_ok=False)
    return {"execution": context.job.execution}
