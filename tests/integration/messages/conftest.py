from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from app import db
from app.config import Settings
from app.jobs import processors


@pytest.fixture(autouse=True)
def worker(settings: Settings, engine: Engine) -> Iterator[None]:
    """What a worker's process has: the processors, and its own patience with locks."""
    processors.load()
    pool = db.configure(settings, db.WORKER)
    yield
    pool.dispose()
