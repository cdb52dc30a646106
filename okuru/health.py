"""`okuru health`: the health check of a container. Few imports: it runs every half minute."""

from __future__ import annotations

import http.client
import os
import time
import urllib.request
from contextlib import suppress

import click

#: Seconds that a process has to answer.
ANSWER_WITHIN = 3.0
#: Seconds without progress after which a process is taken to hang. They look every few seconds,
#: beat every 15; no outage of what they depend on keeps them from it.
STALE_AFTER = 60.0
#: Seconds by which a clock may be put back while the process goes on.
PUT_BACK = 86_400.0
#: Bytes of an answer that are read: `/metrics` has some hundred thousand.
MAX_ANSWER = 10_000_000
#: What each process says of itself (`okuru_progress_timestamp_seconds`).
PARTS = {"worker": "receive", "jobs": "receive", "relay": "relay", "beat": "beat"}


@click.command()
@click.argument("process", type=click.Choice(["web", *PARTS]))
def health(process: str) -> None:
    """Say whether the PROCESS in this container lives and gets on with its work.

    The exit code is 0 or 1. An outage of the database or of SQS is not its fault: to start it
    again would not help.
    """
    if process == "web":
        _get(_address("PORT", "8080") + "/healthz")
        click.echo("web answers")
        return
    metrics = _get(_address("METRICS_PORT", "") + "/metrics")
    age = time.time() - _last_progress(metrics, PARTS[process])
    # Not well either: no number at all, or a time to come, but for what a clock is put back by.
    if not -PUT_BACK <= age <= STALE_AFTER:
        raise click.ClickException(f"{process} has made no progress for {age:.0f} s")
    click.echo(f"{process} got on with its work {max(age, 0):.0f} s ago")


def _address(variable: str, default: str) -> str:
    port = os.environ.get(variable, default)
    if port in ("", "0"):
        raise click.ClickException(f"{variable} is not set: the process says nothing of itself")
    host = os.environ.get("HOST", "127.0.0.1")
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::', 'localhost') else host}:{port}"  # noqa: S104


def _get(url: str) -> str:
    # No proxy: it is this very container that is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_WITHIN) as answer:
            text: str = answer.read(MAX_ANSWER).decode(errors="replace")
            return text
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise click.ClickException(f"{url} does not answer: {error}") from None


def _last_progress(metrics: str, part: str) -> float:
    sample = f'okuru_progress_timestamp_seconds{{part="{part}"}} '
    for line in metrics.splitlines():
        if line.startswith(sample):
            with suppress(ValueError):
                return float(line.removeprefix(sample))
    raise click.ClickException(f"it has not said yet that {part} makes progress")
