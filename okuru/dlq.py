"""`okuru dlq`: look at dead letters, send again what they stand for, or give them up."""

from __future__ import annotations

import getpass
import json
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from app import db
from app.delivery import letters
from app.delivery.models import Attempt, DeadLetter, deliverables
from app.delivery.redrive import Command, Outcome
from okuru.operating import database, engine, outages_explained
from okuru.tables import console
from tasks.engine.catalogue import Catalogue
from tasks.engine.dead_letters import READING, Reading
from tasks.engine.queues import depth

if TYPE_CHECKING:
    from tasks.letters import Criteria, Decide, Handled

#: The exit code of a command that Ctrl-C has ended.
INTERRUPTED = 130
#: Columns of a terminal below which a letter is a block of lines, not a row.
TABLE_WIDTH = 180
#: Characters of a letter's body that `show` shows.
MAX_BODY = 500

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


@click.group()
def dlq() -> None:
    """Look at dead letters; redrive or discard them.

    QUEUE is the queue whose messages died, such as "gifts". `list` and `show` read what the
    reconciler has copied into the database, `redrive` and `discard` the dead-letter queue itself.
    """


# --- options ------------------------------------------------------------------------------------

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class _Since(click.ParamType[datetime]):
    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> datetime:
        if isinstance(value, datetime):
            return value
        if span := re.fullmatch(r"(\d{1,6})([smhd])", value):
            return datetime.now(UTC) - timedelta(**{UNITS[span[2]]: int(span[1])})
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail("say 90s, 30m, 2h or 7d, or a time such as 2026-01-31T09:30:00Z", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class _Match(click.ParamType[tuple[str, str]]):
    name = "FIELD=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: Any) -> tuple[str, str]:
        field, equals, wanted = value.partition("=")
        if not (field and equals):
            self.fail("say FIELD=VALUE", param, ctx)
        return field, wanted


def _with_options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator for all of them; the help shows them in this order."""

    def decorate(command: F) -> F:
        for each in reversed(decorators):
            command = each(command)
        return command

    return decorate


_selection = _with_options(
    click.argument("queue", type=click.Choice(list(Catalogue.load("").queues))),
    click.option("--task", help="Only letters of this task."),
    click.option(
        "--since", type=_Since(), help="Only letters first seen since then: 2h, or a time."
    ),
    click.option(
        "--match",
        type=_Match(),
        multiple=True,
        help="Only letters with this argument or field, such as gift_id=… or message_id=….",
    ),
)
_json = click.option("--json", "as_json", is_flag=True, help="For scripts.")
_acting = _with_options(
    _selection,
    click.option("--limit", type=click.IntRange(1), help="Letters at most."),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Letters a second."),
    click.option(
        "--dry-run/--yes",
        default=True,
        help="Say what would be done, which is the default; or do it.",
    ),
    click.option("--reason", default="", help="Why; kept with what was done. --yes needs it."),
    click.option("--actor", help="Who; by default this user on this machine."),
    _json,
)
_limit = click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="Letters at most."
)


# --- look ---------------------------------------------------------------------------------------


@dlq.command("list")
@_selection
@_limit
@_json
def list_letters(*, limit: int, as_json: bool, **selection: Any) -> None:
    """Show the dead letters of QUEUE, oldest first, each with its last error."""
    with _looking(limit, selection) as found:
        rows = [_summary(letter, reason) for letter, reason in found]
    if as_json:
        click.echo(json.dumps({"items": rows}))
        return
    if not rows:
        _say_none(selection)
        return
    if console().width < TABLE_WIDTH:
        for row in rows:
            console().print(Panel(_grid(row)))
        return
    table = Table(Column("message", no_wrap=True, min_width=36))  # to be copied whole
    columns = ("task", "subject_id", "request_id", "send_no", "receive_count", "first_seen_at",
               "last_seen_at", "reason")  # fmt: skip
    for column in columns:
        table.add_column(column.removesuffix("_at").replace("_", " "))
    for row in rows:
        table.add_row(Text(row["message_id"]), *(_text(row[column]) for column in columns))
    console().print(table)


@dlq.command()
@_selection
@_limit
@_json
def show(*, limit: int, as_json: bool, **selection: Any) -> None:
    """Show dead letters of QUEUE with all that was tried: when, by whom, and its error."""
    shown = []
    with _looking(limit, selection) as found, db.transaction() as session:
        for letter, reason in found:
            tried = letters.history(session, letter, deliverables().get(letter.task or ""))
            attempts = [_attempt(each) for each in tried]
            shown.append({**_summary(letter, reason), "body": letter.body, "attempts": attempts})
    if as_json:
        click.echo(json.dumps({"items": shown}))
        return
    if not shown:
        _say_none(selection)
    for each in shown:
        console().print(_panel(each))


def _say_none(selection: dict[str, Any]) -> None:
    narrowed = any(selection[by] for by in ("task", "since", "match"))
    click.echo(f"no dead letters of {selection['queue']}{' fit' if narrowed else ''}")


@contextmanager
def _looking(
    limit: int, selection: dict[str, Any]
) -> Iterator[Iterator[tuple[DeadLetter, str | None]]]:
    from tasks.letters import stored_fit

    engine()
    criteria = _criteria(selection)
    with outages_explained(), database(), db.transaction() as session:
        found = letters.find(session, selection["queue"], task=criteria.task, since=criteria.since)
        yield islice((each for each in found if stored_fit(criteria, each[0])), limit)
    _mention_unknown_fields(criteria)


def _criteria(selection: dict[str, Any]) -> Criteria:
    from tasks.letters import Criteria

    return Criteria(selection["task"], selection["since"], dict(selection["match"]))


def _summary(letter: DeadLetter, reason: str | None) -> dict[str, Any]:
    return {
        "message_id": letter.message_id,
        "queue": letter.queue,
        "task": letter.task,
        "subject_id": _id(letter.subject_id),
        "request_id": letter.request_id,
        "send_no": letter.send_no,
        "receive_count": letter.receive_count,
        "trace": letter.trace,
        "first_seen_at": _moment(letter.first_seen_at),
        "last_seen_at": _moment(letter.last_seen_at),
        "reason": reason,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "started_at": _moment(attempt.started_at),
        "ended_at": _moment(attempt.ended_at),
        "send_no": attempt.send_no,
        "message_id": attempt.message_id,
        "receive_count": attempt.receive_count,
        "worker": attempt.worker,
        "outcome": attempt.outcome,
        "error_code": attempt.error_code,
        "error_message": attempt.error_message,
    }


def _grid(row: dict[str, Any]) -> Table:
    fields = Table.grid(padding=(0, 2))
    for name, value in row.items():
        fields.add_row(name, _text(value))
    return fields


def _panel(shown: dict[str, Any]) -> Panel:
    fields = _grid({name: shown[name] for name in shown if name not in ("attempts", "body")})
    fields.add_row("body", _text(shown["body"][:MAX_BODY]))
    tried = Table(title="attempts", title_justify="left")
    columns = ("started_at", "receive_count", "worker", "outcome", "error_code", "error_message")
    for column in columns:
        tried.add_column(column.removesuffix("_at").replace("_", " "))
    for attempt in shown["attempts"]:
        tried.add_row(*(_text(attempt[column]) for column in columns))
    return Panel(Group(fields, tried if shown["attempts"] else Text("no attempt was recorded")))


# --- act ----------------------------------------------------------------------------------------


@dlq.command()
@_acting
def redrive(**options: Any) -> None:
    """Send again what the dead letters of QUEUE stand for.

    Each is a new send: a new send number, a new message, five new executions. The old letter is
    deleted afterwards, and so is one whose row has been sent since. A letter that is no known task
    is refused: discard it. Run it again if it is interrupted: nothing is lost or doubled.
    """
    from tasks.letters import redriving

    def decide(command: Command) -> Decide:
        from tasks.celery import app

        known = {name for name in app.tasks if not name.startswith("celery.")}
        return redriving(command, known - deliverables().keys())

    _act("redrive", decide, **options)


@dlq.command()
@_acting
def discard(**options: Any) -> None:
    """Delete dead letters of QUEUE for ever. Their rows stay as they are."""
    from tasks.letters import discarding

    _act("discard", discarding, **options)


def _act(
    verb: str,
    decide: Callable[[Command], Decide],
    *,
    limit: int | None,
    rate: float | None,
    dry_run: bool,
    reason: str,
    actor: str | None,
    as_json: bool,
    **selection: Any,
) -> None:
    from tasks.letters import handle

    if not dry_run and not reason.strip():
        raise click.UsageError("--yes needs --reason: it is kept with what was done")
    command = Command(actor or f"{getpass.getuser()}@{socket.gethostname()}", reason)
    made = engine()
    queue = made.catalogue[selection["queue"]]
    criteria = _criteria(selection)
    handled: list[Handled] = []
    interrupted = False
    with outages_explained(), database():
        lie = depth(made.sqs, made.catalogue.url(queue.dead_letter_queue))
        with Reading(made.sqs, made.catalogue, queue) as reading:
            found = handle(
                reading, criteria, decide(command),
                limit=limit, rate=rate, dry_run=dry_run,
            )  # fmt: skip
            total = lie.visible if limit is None else min(limit, lie.visible)
            try:
                for each in _with_progress(found, total, verb, quiet=as_json):
                    handled.append(each)
            except KeyboardInterrupt:
                interrupted = True
    _report(verb, handled, command, dry_run=dry_run, as_json=as_json)
    _mention_unknown_fields(criteria)
    if lie.in_flight:
        click.echo(
            f"{lie.in_flight} more were hidden by another look at the queue: run it again in"
            f" {READING} s",
            err=True,
        )
    if interrupted:
        click.echo(
            f"interrupted: what was decided is kept under batch {command.batch}; {verb} again for"
            " the rest",
            err=True,
        )
        raise SystemExit(INTERRUPTED)
    if not dry_run and not all(each.deleted for each in handled):
        raise SystemExit(1)


def _mention_unknown_fields(criteria: Criteria) -> None:
    """A field that no letter has is rather a slip of the hand than a wish."""
    for name in sorted(criteria.match.keys() - criteria.met):
        click.echo(f"no letter that was looked at has a field {name}", err=True)


def _with_progress(found: Iterable[T], total: int, verb: str, *, quiet: bool) -> Iterator[T]:
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(), transient=True,
    )  # fmt: skip
    with bar:
        yield from bar.track(found, total=total, description=verb)


def _report(
    verb: str, handled: list[Handled], command: Command, *, dry_run: bool, as_json: bool
) -> None:
    counts = Counter(str(each.decision.outcome) for each in handled)
    if as_json:
        rows = [
            {
                "message_id": each.letter.message_id,
                "task": each.letter.task,
                "subject_id": _id(each.letter.subject_id),
                "outcome": each.decision.outcome,
                "send_no": each.decision.send_no,
                "why": each.decision.why,
                "deleted": each.deleted,
            }
            for each in handled
        ]
        about = {"dry_run": dry_run, "batch": None if dry_run else str(command.batch)}
        click.echo(json.dumps({**about, "counts": counts, "items": rows}))
        return
    if handled:
        table = Table(Column("message", no_wrap=True, min_width=36), "task", "subject", "outcome")
        for each in handled:
            table.add_row(
                Text(each.letter.message_id),
                _text(each.letter.task),
                _text(_id(each.letter.subject_id)),
                _text(": ".join(filter(None, [each.decision.outcome, each.decision.why]))),
            )
        console().print(table)
    said = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()))
    if dry_run:
        click.echo(f"would be: {said or 'nothing to do'}. Nothing was changed: --yes does it")
        return
    click.echo(f"{said or 'nothing to do'} (batch {command.batch})")
    left = [
        each for each in handled
        if not each.deleted and each.decision.outcome is not Outcome.REFUSED
    ]  # fmt: skip
    if left:
        click.echo(f"{len(left)} could not be deleted: {verb} again deletes them", err=True)


# --- values -------------------------------------------------------------------------------------


def _id(value: Any) -> str | None:
    return None if value is None else str(value)


def _moment(value: datetime | None) -> str | None:
    """As the API writes one."""
    return None if value is None else value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _text(value: Any) -> Text:
    """What a message says is not to steer a terminal, nor to turn the direction of a line."""
    shown = "" if value is None else str(value)
    return Text(
        "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in shown)
    )
