"""`okuru jobs`: how the background queue is doing."""

from __future__ import annotations

import json
import time
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app import db
from app.jobs import statistics
from app.jobs.models import STATUSES
from okuru.operating import database, outages_explained
from okuru.tables import console


@click.group()
def jobs() -> None:
    """Watch the background jobs."""


@jobs.command()
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(0.1), default=2.0, show_default=True, help="Seconds."
)
@click.option("--json", "as_json", is_flag=True, help="For scripts; with --watch a line a look.")
def stats(*, watch: bool, every: float, as_json: bool) -> None:
    """Show everyone's jobs by type and state, what waits in each band, and the throughput."""
    with database():
        if not watch:
            with outages_explained():
                _print(_measure(), as_json=as_json)
            return
        try:
            _watch(every, as_json=as_json)
        except KeyboardInterrupt:
            return


def _watch(every: float, *, as_json: bool) -> None:
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            try:
                measured = _measure()
            except db.OUTAGE_ERRORS:
                live.update(Text("the database does not answer"), refresh=True)
            else:
                if as_json:
                    _print(measured, as_json=True)
                else:
                    live.update(_shown(measured), refresh=True)
            time.sleep(every)


def _measure() -> dict[str, Any]:
    with db.transaction() as session:
        measured = statistics.stats(session)
        waiting = statistics.waiting(session)
    return {**measured, "bands": {band.band: vars(band) for band in waiting}}


def _print(measured: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(measured))
    else:
        console().print(_shown(measured))


def _shown(measured: dict[str, Any]) -> RenderableType:
    table = Table("job type")
    for status in STATUSES:
        table.add_column(status, justify="right")
    for job_type, counts in sorted(measured["by_type"].items()):
        table.add_row(job_type, *(str(counts.get(status, 0)) for status in STATUSES))
    bands = Table("band")
    for name in ("waiting", "oldest"):
        bands.add_column(name, justify="right")
    for band in measured["bands"].values():
        bands.add_row(band["band"], str(band["pending"]), f"{band['oldest_age']:.0f} s")
    rates = ", ".join(f"{count} in {name}" for name, count in measured["throughput"].items())
    return Group(table, bands, Text(f"completed: {rates}"))
