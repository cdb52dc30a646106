"""What becomes of a message whose failure the application was told of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.engine.application import Cause, Failure
from tasks.engine.catalogue import Catalogue
from tasks.engine.failures import Recorder
from tasks.engine.settlement import Settlement
from tasks.engine.verdict import Settle
from tasks.engine.visibility import Held

QUEUE = Catalogue.load("http://sqs/0/")["gifts"]
FAILED = Failure(
    cause=Cause.WORKER_LOST, reason="killed", queue="gifts", message_id="m1", receive_count=1,
    last_receive=False, worker="w", task=None, kwargs={},
)  # fmt: skip


@pytest.mark.parametrize("settle", Settle)
def test_whatever_the_verdict_the_message_is_kept_invisible_no_longer(settle: Settle) -> None:
    held, verdict = Held(), SimpleNamespace(settle=settle, retry_after=None)
    settlement = Settlement(lambda: None, held)
    settlement.begin = lambda: None  # type: ignore[method-assign]  # no orders are carried out
    application = SimpleNamespace(on_failure=lambda _: verdict, outage_errors=())
    recorder = Recorder(application, settlement, lambda: None, 1.0)  # type: ignore[arg-type]
    held.add("h1", QUEUE, "url")
    recorder.record(FAILED, QUEUE, "url", "h1")
    recorder.close()
    assert held.take_all() == []
