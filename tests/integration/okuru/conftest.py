from __future__ import annotations

from types import ModuleType

import pytest

from app.config import Settings
from tasks import letters
from tests.integration.celery_app import worker_app, workers
from tests.integration.okuru.operator import Operator

__all__ = ["worker_app", "workers"]


@pytest.fixture
def operator(
    workers: ModuleType, settings: Settings, sqs_url: str, monkeypatch: pytest.MonkeyPatch
) -> Operator:
    """Runs `okuru …` on this test's own database and queues."""
    # The emulator's one server knows at once that there are no more letters.
    monkeypatch.setattr(letters, "WAIT", 0)
    # Whoever imported `tasks.celery` first may have had another environment.
    monkeypatch.setattr(workers, "settings", settings)
    return Operator(workers, sqs_url)
