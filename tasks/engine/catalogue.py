"""The queues, from `queues.json`: the one place that Python and Terraform both read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: SQS knows no longer visibility timeout than 12 hours.
MAX_VISIBILITY = 43_200


@dataclass(frozen=True)
class Queue:
    """One queue and its dead-letter queue. Times are in seconds.

    Attributes:
        group: the workers that consume it, by the name of their process in the Procfile.
        visibility_timeout: how long a received message is hidden; above every time limit.
        max_receive_count: receives after which SQS moves the message to the dead-letter queue.
        backoff: how long a failed message is hidden after its first, second, … receive.
        prefetch: messages that a worker holds for each of its processes. Short tasks want ten, so
            that one call brings many; long ones want one, so that none waits behind another.
        max_hold: how long a held message is kept invisible, waiting and running together.
        weight: of the queues with a prefetch of one, which share the processes: how often one with
            messages waiting is asked, compared with the others; 1 to 10. All are asked now and
            then, so that none starves.
        foreign_task: the task that each message of the queue is, for queues on which others put
            plain JSON; None for queues of Celery's messages.
    """

    name: str
    description: str
    visibility_timeout: int
    max_receive_count: int
    backoff: tuple[int, ...]
    retention_days: int
    prefetch: int
    max_hold: int
    group: str = "worker"
    weight: int = 1
    foreign_task: str | None = None

    @property
    def dead_letter_queue(self) -> str:
        return f"{self.name}-dlq"

    def retry_delay(self, receive_count: int, *, scale: float, at_least: float = 0) -> int:
        """Seconds to hide a message that failed at this receive.

        Args:
            scale: local stacks shorten every delay, so that a demonstration takes seconds.
            at_least: what a provider asked for; honoured up to the largest back-off.
        """
        step = self.backoff[min(receive_count, len(self.backoff)) - 1]
        delay = max(step, min(at_least, max(self.backoff)))
        return min(math.ceil(delay * scale), MAX_VISIBILITY)

    def untouched_limit(self, *, scale: float) -> int:
        """Seconds after which a message that is on its way must have been seen again."""
        held = max(self.max_hold, self.visibility_timeout)
        return math.ceil(max(self.backoff) * scale) + held


@dataclass(frozen=True)
class Catalogue:
    """All queues, and where they are."""

    queues: dict[str, Queue]
    url_prefix: str

    @classmethod
    def load(cls, url_prefix: str) -> Catalogue:
        """`url_prefix`: a queue's URL without its name, such as `https://sqs.…/1234/okuru-`."""
        entries = json.loads((Path(__file__).parent / "queues.json").read_text())
        return cls(
            {
                name: Queue(name=name, **{**entry, "backoff": tuple(entry["backoff"])})
                for name, entry in entries.items()
            },
            url_prefix,
        )

    def __getitem__(self, name: str) -> Queue:
        return self.queues[name]

    def __iter__(self) -> Iterator[Queue]:
        return iter(self.queues.values())

    def url(self, name: str) -> str:
        """The URL of a queue or a dead-letter queue."""
        return self.url_prefix + name

    def by_url(self, url: str) -> Queue:
        return self.queues[url.removeprefix(self.url_prefix)]
