"""One thread that deletes messages and hides them for their back-off, in batches.

The worker's event loop only enqueues: a slow or frozen SQS must not stop it. A call that fails is
tried again until the message's visibility is over; then SQS delivers the message again, and the
guards in the database find out that it had its effect.
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

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger(__name__)

#: The most entries that SQS takes in one call.
BATCH = 10
#: Seconds that a message may wait for others to share its call.
LINGER = 0.1
#: Seconds between tries while SQS does not answer.
RETRY_EVERY = 1.0


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

    def __init__(self, make_client: Callable[[], SQSClient]) -> None:
        super().__init__(name="settlement", daemon=True)
        self._make_client = make_client
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._starting = threading.Lock()

    def delete(self, queue_url: str, receipt_handle: str, *, within: float) -> None:
        self._put(Order(queue_url, receipt_handle, None, time.monotonic() + within))

    def hide(self, queue_url: str, receipt_handle: str, seconds: int, *, within: float) -> None:
        self._put(Order(queue_url, receipt_handle, seconds, time.monotonic() + within))

    def close(self, timeout: float) -> None:
        """Carry out what is left, for at most `timeout` seconds."""
        if self.is_alive():
            self._orders.put(None)
            self.join(timeout)

    def _put(self, order: Order) -> None:
        with self._starting:
            if self.ident is None:
                self.start()
        self._orders.put(order)

    def run(self) -> None:
        sqs = self._make_client()
        open_orders = True
        while open_orders:
            batch, open_orders = self._collect()
            for group in _groups(batch):
                self._carry_out(sqs, group)

    def _collect(self) -> tuple[list[Order], bool]:
        """Wait for an order, then a moment for more. False when `close()` was called."""
        batch: list[Order] = []
        deadline: float | None = None
        while len(batch) < BATCH:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                order = self._orders.get(timeout=wait)
            except queue.Empty:
                break
            if order is None:
                return batch, False
            batch.append(order)
            deadline = deadline or time.monotonic() + LINGER
        return batch, True

    def _carry_out(self, sqs: SQSClient, orders: Sequence[Order]) -> None:
        silent = True
        while orders := [order for order in orders if time.monotonic() < order.until]:
            try:
                orders = _call(sqs, orders)
            except SQS_ERRORS as error:
                if silent:
                    log.warning("SQS does not settle messages: %s", type(error).__name__)
                    silent = False
            if orders:
                time.sleep(RETRY_EVERY)
        if not silent:
            log.info("settling messages goes on")


def _groups(batch: Sequence[Order]) -> list[list[Order]]:
    """Neighbours that fit one call. A message's own orders keep their order."""
    groups: list[list[Order]] = []
    for order in batch:
        kind = (order.queue_url, order.hide_for is None)
        if groups and (groups[-1][0].queue_url, groups[-1][0].hide_for is None) == kind:
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
    # SenderFault: the handle is old, so another delivery of the message has the say.
    return [
        orders[int(failed["Id"])]
        for failed in answer.get("Failed", [])
        if not failed.get("SenderFault")
    ]
