"""A provider that only pretends: it fails at random, or just as a gift says."""

from __future__ import annotations

import random
import time

from app.delivery.errors import PermanentError, TransientError
from app.gifts.senders import Parcel


class SimulatedSender:
    def __init__(self, failure_rate: float) -> None:
        """`failure_rate`: the share of calls that fail, 0 to 1."""
        self.failure_rate = failure_rate

    def send(self, parcel: Parcel, execution: int) -> None:
        script = parcel.simulate
        time.sleep(script.get("delay_ms", 0) / 1000)
        if not script:
            fails = random.random() < self.failure_rate  # noqa: S311 - not for secrets
        else:
            fails = execution <= script.get("fail_times", 0)
        if fails:
            raise TransientError("SIMULATED_FAILURE", "the simulated provider failed")
        if script.get("permanent"):
            raise PermanentError("SIMULATED_REFUSAL", "the simulated provider refused the gift")
