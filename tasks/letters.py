"""Dead messages as the rules of deliveries know them, and an operator's way through a DLQ."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeGuard
from uuid import UUID

from sqlalchemy.orm import Session

from app import db
from app.delivery import letters, redrive
from app.delivery.models import DeadLetter, deliverables, is_send_no
from app.delivery.recovery import Letter
from app.delivery.redrive import Command, Decision
from app.delivery.service import Model
from app.messages.messages import RECEIVE_AGAIN
from app.outbox.service import Message
from tasks.engine import intake
from tasks.engine.dead_letters import BATCH, DeadMessage, Reading

#: Seconds that SQS may take to ask all of its servers for letters.
WAIT = 1


def letter_of(message: DeadMessage, model: Model | None) -> Letter:
    """What can be read of a message that may be anything."""
    kwargs = message.kwargs
    subject = kwargs.get(model.lifecycle.subject) if model else None
    send_no = kwargs.get("send_no")
    request_id = kwargs.get("request_id")
    trace = message.traceparent
    try:
        subject_id = UUID(str(subject)) if subject else None
    except ValueError:
        subject_id = None
    return Letter(
        message_id=message.message_id,
        queue=message.queue,
        receive_count=message.receive_count,
        body=message.body,
        task=message.task,
        subject_id=subject_id,
        send_no=send_no if is_send_no(send_no) else None,
        request_id=request_id[:255] if _is_text(request_id) else None,
        trace=trace[:255] if _is_text(trace) else None,
    )


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is text that the database can keep: no NUL, no half of a surrogate pair."""
    return isinstance(value, str) and value.isprintable()


# --- an operator's selection --------------------------------------------------------------------


@dataclass(frozen=True)
class Criteria:
    """Which letters are meant: those that fit all that is given."""

    task: str | None = None
    since: datetime | None = None
    match: Mapping[str, str] = field(default_factory=dict)
    """Values by the name of an argument of the task, or of a field of the letter."""
    met: set[str] = field(default_factory=set)
    """Those names of `match` that a letter had."""

    def fit(
        self, about: Mapping[str, Any], kwargs: Mapping[str, Any], first_seen: datetime
    ) -> bool:
        """
        Args:
            about: the letter's own fields: message_id, task, subject_id, …
        """
        known = {**kwargs, **about}
        self.met.update(self.match.keys() & known.keys())
        if self.task is not None and about["task"] != self.task:
            return False
        if self.since is not None and first_seen < self.since:
            return False
        return all(
            name in known and _says(known[name], wanted) for name, wanted in self.match.items()
        )


def _says(value: Any, wanted: str) -> bool:
    return wanted == (
        value if isinstance(value, str) else json.dumps(value, default=str).strip('"')
    )


def stored_fit(criteria: Criteria, letter: DeadLetter) -> bool:
    """Whether a letter fits as the reconciler has copied it."""
    said = intake.peek(letter.body)
    named = said.kwargs if said else _object(letter.body)
    return criteria.fit(_fields(letter), named, letter.first_seen_at)


def _object(body: str) -> dict[str, Any]:
    """The fields of another system's message, such as the id that it has there."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _fields(letter: Letter | DeadLetter) -> dict[str, Any]:
    names = ("message_id", "task", "subject_id", "request_id", "send_no", "receive_count", "trace")
    return {name: getattr(letter, name) for name in names}


# --- what an operator does ----------------------------------------------------------------------

Decide = Callable[[Session, DeadMessage, Letter, Model | None], Decision]


def redriving(command: Command, known_tasks: Collection[str]) -> Decide:
    """Decides to send again. `known_tasks`: those that may be staged as they are."""

    def decide(
        session: Session, message: DeadMessage, letter: Letter, model: Model | None
    ) -> Decision:
        task, kwargs = _as_it_is(message, known_tasks)
        return redrive.redrive(session, letter, model, command, message=task, kwargs=kwargs)

    return decide


def _as_it_is(
    message: DeadMessage, known_tasks: Collection[str]
) -> tuple[Message | None, Mapping[str, Any]]:
    """The task to stage for a letter that delivers nothing, if there is one."""
    if message.task == RECEIVE_AGAIN.task and message.args == (message.body,):
        # It came as another system's JSON; we publish tasks of our own only.
        return RECEIVE_AGAIN, {"body": message.body}
    # The outbox has no place for positional arguments.
    if message.task is None or message.task not in known_tasks or message.args:
        return None, {}
    return Message(message.task, message.queue), message.kwargs


def discarding(command: Command) -> Decide:
    """Decides to give up."""
    return lambda session, _message, letter, model: redrive.discard(session, letter, model, command)


@dataclass(frozen=True)
class Handled:
    """One letter, what was decided about it, and whether it is out of the queue."""

    letter: Letter
    decision: Decision
    deleted: bool


def handle(
    reading: Reading,
    criteria: Criteria,
    decide: Decide,
    *,
    limit: int | None = None,
    rate: float | None = None,
    dry_run: bool,
) -> Iterator[Handled]:
    """Decide about each letter that fits, a transaction each, and delete it afterwards.

    Whoever is killed in between leaves letters that were decided: the next run only deletes them.

    Args:
        limit: letters at most.
        rate: letters a second at most.
        dry_run: every transaction is rolled back, and nothing is deleted.
    """
    pace = _Pace(None if dry_run else rate)
    seen: set[str] = set()
    handled = 0
    while limit is None or handled < limit:
        # What was left in the queue comes back after a while: then all have been seen.
        messages = [
            each for each in reading.receive(pace.at_once, wait=WAIT) if each.message_id not in seen
        ]
        if not messages:
            return
        seen |= {each.message_id for each in messages}
        meant = _meant(messages, criteria)[: None if limit is None else limit - handled]
        decided: list[tuple[Letter, Decision]] = []
        try:
            for message in meant:
                pace.wait()
                decided.append(_decide(message, decide, dry_run=dry_run))
        finally:
            done = [letter.message_id for letter, each in decided if each.may_be_deleted]
            deleted = set() if dry_run else reading.delete(done)
        handled += len(decided)
        for letter, decision in decided:
            yield Handled(letter, decision, letter.message_id in deleted)


def _meant(messages: Sequence[DeadMessage], criteria: Criteria) -> list[DeadMessage]:
    with db.transaction() as session:
        known = letters.first_seen(session, [each.message_id for each in messages])
    now = datetime.now(UTC)
    return [
        each
        for each in messages
        if criteria.fit(
            _fields(letter_of(each, _model(each))),
            each.kwargs or _object(each.body),
            known.get(each.message_id, now),
        )
    ]


def _decide(message: DeadMessage, decide: Decide, *, dry_run: bool) -> tuple[Letter, Decision]:
    model = _model(message)
    letter = letter_of(message, model)
    with db.transaction() as session:
        decision = decide(session, message, letter, model)
        if dry_run:
            session.rollback()
    return letter, decision


def _model(message: DeadMessage) -> Model | None:
    return deliverables().get(message.task or "")


class _Pace:
    """Waits so that a second has no more letters than it may."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()
        #: A second's letters: those that were received are hidden for `READING` seconds only.
        self.at_once = max(1, min(BATCH, int(rate))) if rate else BATCH

    def wait(self) -> None:
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(now, self._next) + self._interval
