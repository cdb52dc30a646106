"""`okuru queues`: make, compare and watch the queues of `tasks/engine/queues.json`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app import db
from app.delivery import recovery
from app.delivery.models import deliverables
from app.outbox import service as outbox
from app.outbox.service import Backlog
from okuru.operating import database, engine, outages_explained
from okuru.tables import console
from tasks.engine import queues as on_sqs
from tasks.engine.catalogue import Queue
from tasks.engine.engine import Engine
from tasks.engine.queues import Depth
from tasks.engine.sqs import SQS_ERRORS

as_json_option = click.option("--json", "as_json", is_flag=True, help="For scripts.")


@click.group()
def queues() -> None:
    """Make, compare and watch the queues of the catalogue."""


@queues.command()
def create() -> None:
    """Make the queues and their dead-letter queues on a local SQS.

    Queues that exist keep their messages and get the catalogue's settings. In AWS Terraform makes
    them: this needs AWS_ENDPOINT_URL.
    """
    made = engine()
    if not os.environ.get("AWS_ENDPOINT_URL"):
        raise click.ClickException(
            "AWS_ENDPOINT_URL is not set: in AWS the queues are Terraform's. "
            "For the local stack: . .local/env, then again"
        )
    with outages_explained():
        on_sqs.create(made.sqs, made.catalogue)
    for queue in made.catalogue:
        for name in (queue.name, queue.dead_letter_queue):
            click.echo(made.catalogue.url(name))


@queues.command()
@as_json_option
def check(*, as_json: bool) -> None:
    """Name every difference between SQS and the catalogue; exit code 1 if there is one.

    Compares the visibility timeout, the redrive policy, the retention and the encryption.
    """
    made = engine()
    with outages_explained():
        found = on_sqs.differences(made.sqs, made.catalogue)
    if as_json:
        click.echo(json.dumps({"differences": [asdict(each) for each in found]}))
    else:
        for each in found:
            click.echo(str(each))
        if not found:
            click.echo(f"{len(made.catalogue.queues)} queues are as the catalogue declares them")
    if found:
        raise SystemExit(1)


# --- stats --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What is known of one queue; None is not known."""

    queue: str
    depth: int | None
    in_flight: int | None
    delayed: int | None
    oldest_age: float | None
    """Seconds since the queued row that waits longest was touched. SQS itself does not say."""
    dead_letters: int | None


@queues.command()
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds."
)
@as_json_option
def stats(*, watch: bool, every: float, as_json: bool) -> None:
    """Show what waits: in the queues, in the dead-letter queues, in the outbox.

    "oldest" is how long the queued row that waits longest has not been touched; queues that carry
    no rows have none, as SQS says nothing about ages. With --watch --json: one line a look.
    """
    made = engine()
    with database():
        if not watch:
            with outages_explained():
                _print(_measure(made), _outbox(), as_json=as_json)
            return
        try:
            _watch(made, every, as_json=as_json)
        except KeyboardInterrupt:
            return


def _watch(made: Engine, every: float, *, as_json: bool) -> None:
    """Measure for ever; what does not answer is n/a until it does."""
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            measured, backlog = _while_it_lasts(made)
            if as_json:
                _print(measured, backlog, as_json=True)
            else:
                live.update(_shown(measured, backlog), refresh=True)
            time.sleep(every)


def _while_it_lasts(made: Engine) -> tuple[list[Measured], Backlog | None]:
    try:
        measured = _measure(made)
    except (*SQS_ERRORS, *db.OUTAGE_ERRORS):
        measured = [Measured(queue.name, *[None] * 5) for queue in made.catalogue]
    try:
        return measured, _outbox()
    except db.OUTAGE_ERRORS:
        return measured, None


def _measure(made: Engine) -> list[Measured]:
    return [_measure_one(made, queue) for queue in made.catalogue]


def _measure_one(made: Engine, queue: Queue) -> Measured:
    live: Depth = on_sqs.depth(made.sqs, made.catalogue.url(queue.name))
    dead: Depth = on_sqs.depth(made.sqs, made.catalogue.url(queue.dead_letter_queue))
    return Measured(
        queue.name,
        live.visible,
        live.in_flight,
        live.delayed,
        _oldest_age(queue),
        dead.visible + dead.in_flight + dead.delayed,
    )


def _oldest_age(queue: Queue) -> float | None:
    models = [model for model in deliverables().values() if queue.name in model.lifecycle.queues]
    if not models:
        return None
    with db.transaction() as session:
        ages = [recovery.longest_untouched(session, model, queue.name) for model in models]
    return max((age for age in ages if age is not None), default=0.0)


def _outbox() -> Backlog:
    with db.transaction() as session:
        return outbox.backlog(session)


def _print(measured: list[Measured], backlog: Backlog | None, *, as_json: bool) -> None:
    if as_json:
        click.echo(
            json.dumps(
                {
                    "queues": [asdict(each) for each in measured],
                    "outbox": None if backlog is None else asdict(backlog),
                }
            )
        )
    else:
        console().print(_shown(measured, backlog))


def _shown(measured: list[Measured], backlog: Backlog | None) -> RenderableType:
    table = Table("queue")
    for name in ("depth", "in flight", "delayed", "oldest", "dead letters"):
        table.add_column(name, justify="right")
    for each in measured:
        dead = Text(_number(each.dead_letters), style="bold red" if each.dead_letters else "")
        table.add_row(
            each.queue,
            _number(each.depth),
            _number(each.in_flight),
            _number(each.delayed),
            _age(each.oldest_age),
            dead,
        )
    depth, age = (None, None) if backlog is None else (backlog.depth, backlog.oldest_age)
    return Group(table, Text(f"outbox: {_number(depth)} rows, the oldest {_age(age)}"))


def _number(value: int | None) -> str:
    return "n/a" if value is None else str(value)


def _age(seconds: float | None) -> str:
    return "n/a" if seconds is None else f"{seconds:.0f} s"
