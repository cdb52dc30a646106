from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import marshmallow as ma
import pytest
from sqlalchemy import Engine

from app.jobs import processors
from app.jobs.processors import Context, processor
from tests.integration.jobs.steps import RESERVED, TYPE, Work


class Payload(ma.Schema):
    number = ma.fields.Integer(load_default=0)


@pytest.fixture(autouse=True)
def work(engine: Engine) -> Iterator[Work]:
    """Processors of the tests' own, registered as any other, and forgotten after each test."""
    processors.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processors, "_registry", dict(processors._registry))
        work = Work()

        @processor(TYPE, Payload)
        def act(context: Context, payload: dict[str, Any]) -> Any:
            return work(context, payload)

        @processor(RESERVED, Payload, reserved=True)
        def reserved(context: Context, payload: dict[str, Any]) -> Any:
            return work(context, payload)

        yield work
