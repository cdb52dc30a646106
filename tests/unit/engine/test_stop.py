"""What cannot be handed to a process costs neither its slot nor the worker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from tasks.engine.stop import Stop


class Request:
    handed = False

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def refuse(self, reason: str) -> None:
        self.reasons.append(reason)


def test_a_request_that_no_process_can_take_is_refused_and_its_slot_is_free() -> None:
    def fail(_request: Any) -> NoReturn:
        raise RecursionError("maximum recursion depth exceeded while pickling an object")

    worker = SimpleNamespace(_process_task=fail, semaphore=LaxBoundedSemaphore(1))
    Stop(SimpleNamespace(), worker)
    requests = [Request(), Request()]
    for request in requests:
        worker.semaphore.acquire(worker._process_task, request)
    assert [request.reasons for request in requests] == [
        ["no process can take it: RecursionError"]
    ] * 2
    assert worker.semaphore.value == 1
