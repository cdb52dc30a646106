"""The relay: takes staged tasks from the outbox and publishes them. It also stages what is due.

Any number of relays may run: each takes rows that no other holds. A crash between publishing and
committing publishes again; the guards of the deliveries make that harmless.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from app import db
from app.jobs import service as jobs
from app.jobs import statistics
from app.observability import metrics, tracing
from app.outbox import service as outbox
from app.outbox.service import Taken
from tasks.engine.publisher import Publisher, Refused

log = logging.getLogger(__name__)

#: Rows taken at once: ten calls of ten.
BATCH = 100
#: Seconds between looks at an empty outbox. No NOTIFY: it serialises commits.
IDLE = 0.1
#: Seconds that a queue rests after a call that failed whole: 1, 2, 4, … up to this.
MAX_REST = 30.0
#: A row that SQS refused waits this long for its next try.
REFUSED_DELAY = timedelta(seconds=30)
#: Seconds between two measurements of what waits.
MEASURE_EVERY = 5.0
#: Seconds between two looks for jobs whose time has come.
DUE_EVERY = 0.5


class Relay:
    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._stop = threading.Event()
        self._failures: dict[str, int] = {}
        self._resting_until: dict[str, float] = {}
        self._database_answers = True
        self._measured_at = float("-inf")
        self._looked_at = float("-inf")

    def run(self) -> None:
        """Publish until TERM or Ctrl-C; what was taken by then is finished."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda *_: self._stop.set())
        log.info("relay started")
        pause = 0.0
        while not self._stop.wait(pause):
            try:
                self._stage_due()
                full = self.run_once() == BATCH
                self._measure()
            except db.OUTAGE_ERRORS as error:
                self._say_outage(error)
                pause = 1.0
            else:
                self._say_recovery()
                pause = 0.0 if full else IDLE
            metrics.PROGRESS.labels("relay").set_to_current_time()
        self._publisher.close()
        log.info("relay stopped")

    def _stage_due(self) -> None:
        """Here and not by a task of beat's: a look costs no call of SQS, and is never late."""
        if time.monotonic() - self._looked_at < DUE_EVERY:
            return
        self._looked_at = time.monotonic()
        with db.transaction() as session:
            jobs.stage_due(session)

    def run_once(self) -> int:
        """Take one batch and publish it. Returns how many rows were taken."""
        with db.transaction() as session:
            taken = outbox.take(session, limit=BATCH, resting=self._resting())
            if not taken:
                return 0
            with tracing.relaying([(row.task, row.headers) for row in taken]) as going_on:
                # What is put back keeps the headers that it had.
                published = [
                    replace(row, headers=headers)
                    for row, headers in zip(taken, going_on, strict=True)
                ]
                refused = self._publisher.publish(published)
            self._rest_or_recover(taken, refused)
            # A call that failed whole says nothing about its rows: only the queue has to rest.
            outbox.put_back(session, _rows(taken, refused, whole_call=True))
            outbox.put_back(
                session, _rows(taken, refused, whole_call=False), refused_for=REFUSED_DELAY
            )
        self._count(published, refused)
        return len(taken)

    def _resting(self) -> list[str]:
        now = time.monotonic()
        return [queue for queue, until in self._resting_until.items() if now < until]

    def _rest_or_recover(self, taken: Sequence[Taken], refused: Sequence[Refused]) -> None:
        failed = {taken[each.index].queue: each.error for each in refused if each.whole_call}
        for queue, error in failed.items():
            failures = self._failures[queue] = self._failures.get(queue, 0) + 1
            self._resting_until[queue] = time.monotonic() + min(2.0 ** (failures - 1), MAX_REST)
            if failures == 1:
                log.warning("SQS takes nothing for queue %s", queue, extra={"error_code": error})
        for queue in {row.queue for row in taken} - failed.keys():
            if self._failures.pop(queue, 0):
                log.info("SQS takes messages for queue %s again", queue)

    def _count(self, taken: Sequence[Taken], refused: Sequence[Refused]) -> None:
        refused_by_index = {each.index: each for each in refused}
        for index, row in enumerate(taken):
            fields = {**row.headers, **tracing.log_fields(row.headers), "outbox_id": row.id}
            if error := refused_by_index.get(index):
                metrics.OUTBOX_REFUSED.labels(row.queue).inc()
                if not error.whole_call:
                    log.error(
                        "SQS refused %s", row.task, extra={**fields, "error_code": error.error}
                    )
            else:
                metrics.OUTBOX_PUBLISHED.labels(row.queue).inc()
                log.info("published %s", row.task, extra={**fields, **_ids(row)})

    def _measure(self) -> None:
        if time.monotonic() - self._measured_at < MEASURE_EVERY:
            return
        self._measured_at = time.monotonic()
        with db.transaction() as session:
            backlog = outbox.backlog(session)
            waiting = statistics.waiting(session)
        metrics.OUTBOX_DEPTH.set(backlog.depth)
        metrics.OUTBOX_AGE.set(backlog.oldest_age)
        for band in waiting:
            metrics.JOBS_PENDING.labels(band.band).set(band.pending)
            metrics.JOBS_OLDEST.labels(band.band).set(band.oldest_age)

    def _say_outage(self, error: Exception) -> None:
        if self._database_answers:
            log.warning("the database does not answer", extra={"error_code": type(error).__name__})
        self._database_answers = False

    def _say_recovery(self) -> None:
        if not self._database_answers:
            log.info("the database answers again")
        self._database_answers = True


def _rows(taken: Sequence[Taken], refused: Sequence[Refused], *, whole_call: bool) -> list[Taken]:
    return [taken[each.index] for each in refused if each.whole_call == whole_call]


def _ids(row: Taken) -> dict[str, Any]:
    """The arguments that are ids: a log line of a send has them at every step."""
    return {name: value for name, value in row.kwargs.items() if name.endswith("_id")}
