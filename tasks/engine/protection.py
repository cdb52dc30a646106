"""Keeps Amazon ECS from stopping a task of its own kind while this worker runs a long one.

ECS gives a container at most 120 s to stop. A worker whose tasks may take longer asks for "task
scale-in protection" while it holds any: then neither autoscaling nor a deployment stops it. Under
constant load it would be protected for ever, and a deployment would never end: so every now and
then it takes nothing new until it is idle, and is unprotected for a moment.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html
"""

from __future__ import annotations

import logging
import math
import threading
import time

import requests

from tasks.engine.visibility import Held

log = logging.getLogger(__name__)

#: Seconds between two looks. A message that comes to an idle worker does not wait for one.
LOOK_EVERY = 1.0
#: Seconds after which protection is asked for again while there is work: the newest task is
#: covered as long as it may run.
RENEW_EVERY = 60.0
#: Seconds without work after which it is given up: the next message often comes at once.
LINGER = 5.0
#: Seconds of protection after which a worker rests.
REST_AFTER = 600.0
#: Seconds that it is unprotected then: ECS looks about every ten.
REST_FOR = 30.0
#: Seconds that the agent of this container may take to answer.
ANSWER_WITHIN = 5.0


class Protection(threading.Thread):
    def __init__(self, held: Held, agent_uri: str, longest: float) -> None:
        """
        Args:
            agent_uri: what ECS puts into `ECS_AGENT_URI`.
            longest: seconds for which a task may be held.
        """
        super().__init__(name="protection", daemon=True)
        self._held = held
        self._url = f"{agent_uri}/task-protection/v1/state"
        self._minutes = math.ceil((longest + RENEW_EVERY) / 60) + 1
        self._http = requests.Session()
        self._http.trust_env = False  # it is on this very host
        self._wake = threading.Event()
        self._protected_at: float | None = None
        self._asked_at = float("-inf")
        self._busy_at = float("-inf")
        self._resting_until: float | None = None
        self._failing = False

    @property
    def is_resting(self) -> bool:
        """Whether the worker has to take nothing new."""
        return self._resting_until is not None

    def wake(self) -> None:
        """There is work."""
        if self._protected_at is None:
            self._wake.set()

    def run(self) -> None:
        while True:
            self._wake.wait(LOOK_EVERY)
            self._wake.clear()
            self._look(time.monotonic())

    def _look(self, now: float) -> None:
        if not self._held.is_empty:
            self._busy_at = now
            if now - self._asked_at >= RENEW_EVERY or self._protected_at is None:
                self._ask(True, now)
            if self._protected_at is not None and now - self._protected_at >= REST_AFTER:
                self._rest()
        elif self._protected_at is not None:
            if self.is_resting or now - self._busy_at >= LINGER:
                self._ask(False, now)
            if self.is_resting and self._protected_at is not None:
                self._rest_no_longer_than_it_helps(now)
        elif self._resting_until is not None and now >= self._resting_until:
            log.info("not stopped meanwhile: going on")
            self._resting_until = None

    def _rest(self) -> None:
        if self._resting_until is None:
            log.info("protected for %g minutes: taking nothing new until idle", REST_AFTER / 60)
            self._resting_until = float("inf")

    def _rest_no_longer_than_it_helps(self, now: float) -> None:
        """ECS does not take the protection back: it lapses by itself, and work is waiting."""
        if now - self._busy_at >= REST_FOR:
            log.warning("still protected: going on, and resting again in a while")
            self._resting_until = None
            self._protected_at = now

    def _ask(self, enabled: bool, now: float) -> None:
        self._asked_at = now
        wanted: dict[str, bool | int] = {"ProtectionEnabled": enabled}
        if enabled:
            wanted["ExpiresInMinutes"] = self._minutes
        try:
            answer = self._http.put(self._url, json=wanted, timeout=ANSWER_WITHIN)
            granted = answer.json().get("protection", {}).get("ProtectionEnabled") is enabled
            why = "" if granted else f"HTTP {answer.status_code}"
        # Whatever it is that answers: JSON of thousands of brackets is a RecursionError.
        except (requests.RequestException, ValueError, AttributeError, RecursionError) as error:
            granted, why = False, type(error).__name__
        self._say(failing=not granted, why=why)
        if not granted:
            return
        if not enabled:
            self._protected_at = None
            if not self._held.is_empty:  # it came meanwhile
                self._wake.set()
            if self.is_resting:
                self._resting_until = now + REST_FOR
        elif self._protected_at is None:
            self._protected_at = now

    def _say(self, *, failing: bool, why: str) -> None:
        if failing and not self._failing:
            log.warning("ECS does not take the protection of this task: %s", why)
        elif self._failing and not failing:
            log.info("ECS takes the protection of this task again")
        self._failing = failing
