"""One thread that deletes messages, hides them for their back-off, and keeps held ones invisible.

The worker's event loop only enqueues: a slow or frozen SQS must not stop it. An order that fails is
tried again, alone, until the message's visibility is over; then SQS delivers the message again, and
the guards in the database find out that it had its effect.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.engine.sqs import SQS_ERRORS
from tasks.engine.visibility import Held

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger(__name__)

#: The most entries that SQS takes in one call.
BATCH = 10
#: Seconds that an order may wait for others to share its call.
LINGER = 0.1
#: Seconds until what failed is tried again.
RETRY_EVERY = 1.0
#: Seconds between two looks at what has to be kept invisible.
LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Order:
    """What is to become of one message.

    Attributes:
        hide_for: seconds, 0 for visible at once, None to delete it.
        until: the monotonic time after which the order is pointless.
    """

    queue_url: str
    receipt_handle: str
    hide_for: int | None
    until: float


class Settlement(threading.Thread):
    """Carries out orders in the order of their arrival. Started by the first one."""

    def __init__(self, make_client: Callable[[], SQSClient], held: Held | None = None) -> None:
        super().__init__(name="settlement", daemon=True)
        self._make_client = make_client
        self._held = held or Held()
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._later: list[tuple[float, Order]] = []
        self._failing = False
        self._closing = False
        self._starting = threading.Lock()

    def begin(self) -> None:
        """Start the thread, unless it runs: there is something to keep invisible."""
        with self._starting:
            if self.ident is None:
                self.start()

    def delete(self, queue_url: str, receipt_handle: str, *, within: float) -> None:
        self._put(Order(queue_url, receipt_handle, None, time.monotonic() + within))

    def hide(self, queue_url: str, receipt_handle: str, seconds: int, *, within: float) -> None:
        self._put(Order(queue_url, receipt_handle, seconds, time.monotonic() + within))

    def leave(self, receipt_handle: str) -> None:
        """Neither: its message is not ours to decide, and is kept invisible no longer."""
        self._held.drop(receipt_handle)

    def close(self, timeout: float) -> None:
        """Carry out what is left, for at most `timeout` seconds."""
        if self.is_alive():
            self._orders.put(None)
            self.join(timeout)

    def _put(self, order: Order) -> None:
        self._held.drop(order.receipt_handle)
        self.begin()
        self._orders.put(order)

    def run(self) -> None:
        sqs = self._make_client()
        while not self._closing or self._later:
            for group in _groups(self._collect()):
                self._carry_out(sqs, group)
            self._extend(sqs)

    def _collect(self) -> list[Order]:
        """Wait a while for orders, and then a moment for more; add those that failed before."""
        now = time.monotonic()
        batch = [order for due, order in self._later if due <= now]
        self._later = [(due, order) for due, order in self._later if due > now]
        deadline = now + (LINGER if batch or self._later or self._closing else LOOK_EVERY)
        lingering = False
        while len(batch) < BATCH:
            try:
                order = self._orders.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if order is None:
                self._closing = True
                break
            batch.append(order)
            if not lingering:
                lingering, deadline = True, time.monotonic() + LINGER
        return batch

    def _carry_out(self, sqs: SQSClient, orders: Sequence[Order]) -> None:
        orders = [order for order in orders if time.monotonic() < order.until]
        if not orders:
            return
        try:
            failed = _call(sqs, orders)
        except SQS_ERRORS as error:
            self._say(failing=True, why=type(error).__name__)
            failed = list(orders)
        else:
            self._say(failing=len(failed) == len(orders), why="it settled none of a batch")
        retry_at = time.monotonic() + RETRY_EVERY
        self._later += [(retry_at, order) for order in failed]

    def _extend(self, sqs: SQSClient) -> None:
        for queue_url, extensions in self._held.due().items():
            for start in range(0, len(extensions), BATCH):
                some = extensions[start : start + BATCH]
                entries: Any = [
                    {
                        "Id": str(number),
                        "ReceiptHandle": each.receipt_handle,
                        "VisibilityTimeout": each.seconds,
                    }
                    for number, each in enumerate(some)
                ]
                try:
                    answer = sqs.change_message_visibility_batch(
                        QueueUrl=queue_url, Entries=entries
                    )
                except SQS_ERRORS as error:
                    self._say(failing=True, why=type(error).__name__)
                    return
                self._say(failing=False)
                done = [int(each["Id"]) for each in answer.get("Successful", [])]
                self._held.extended(some[number].receipt_handle for number in done)
                for each in answer.get("Failed", []):
                    if each.get("SenderFault"):  # the handle is old: another delivery has the say
                        self._held.drop(some[int(each["Id"])].receipt_handle)

    def _say(self, *, failing: bool, why: str = "") -> None:
        if failing and not self._failing:
            log.warning("SQS does not settle messages: %s", why)
        elif self._failing and not failing:
            log.info("settling messages goes on")
        self._failing = failing


def _groups(batch: Sequence[Order]) -> list[list[Order]]:
    """Neighbours that fit one call. A message's own orders keep their order."""
    groups: list[list[Order]] = []
    for order in batch:
        kind = (order.queue_url, order.hide_for is None)
        if (
            groups
            and len(groups[-1]) < BATCH
            and (groups[-1][0].queue_url, groups[-1][0].hide_for is None) == kind
        ):
            groups[-1].append(order)
        else:
            groups.append([order])
    return groups


def _call(sqs: SQSClient, orders: Sequence[Order]) -> list[Order]:
    """One batch call. Returns the orders that SQS failed to carry out and may carry out later."""
    entries: list[Any] = [
        {"Id": str(number), "ReceiptHandle": order.receipt_handle}
        for number, order in enumerate(orders)
    ]
    answer: Any
    if orders[0].hide_for is None:
        answer = sqs.delete_message_batch(QueueUrl=orders[0].queue_url, Entries=entries)
    else:
        for entry, order in zip(entries, orders, strict=True):
            entry["VisibilityTimeout"] = order.hide_for
        answer = sqs.change_message_visibility_batch(QueueUrl=orders[0].queue_url, Entries=entries)
    settled = {int(each["Id"]) for each in answer.get("Successful", [])}
    # SenderFault: the handle is old, so another delivery of the message has the say.
    settled |= {int(each["Id"]) for each in answer.get("Failed", []) if each.get("SenderFault")}
    return [order for number, order in enumerate(orders) if number not in settled]
