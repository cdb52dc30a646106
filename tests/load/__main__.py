"""`python -m tests.load`: starts real servers, measures, prints tables, writes JSON and a plot."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from okuru.stack.environment import bypass_proxy
from okuru.stack.home import Home
from okuru.stack.interruption import Interruption
from okuru.stack.postgres import Postgres
from tests.load import accept, backlog, gifts, memory, noop, report
from tests.load.consumer import run_to_end
from tests.load.emulator import Emulator
from tests.load.environment import BENCH, common

PARTS = ("noop", "gifts", "accept", "memory", "backlog")
KEPT = Path(".local") / "bench"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--messages", type=click.IntRange(100, 50_000), default=3_000, help="No-op tasks.")
@click.option("--sends", type=click.IntRange(100, 20_000), default=1_000, help="Real sends.")
@click.option("--requests", type=click.IntRange(100, 20_000), default=1_600, help="HTTP requests.")
@click.option("--rounds", type=click.IntRange(1, 20), default=5, help="Of each contender.")
@click.option("--waiting", type=click.IntRange(200, 100_000), default=10_000, help="For memory.")
@click.option("--gifts", "many", type=click.IntRange(1_000, 10_000_000), default=1_000_000)
@click.option("--outbox", type=click.IntRange(1_000, 1_000_000), default=100_000)
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="May be repeated.")
@click.option("--json", "json_path", type=Path, default=KEPT / "results.json")
@click.option("--plot", "plot_path", type=Path, default=KEPT / "results.png")
def main(
    messages: int,
    sends: int,
    requests: int,
    rounds: int,
    waiting: int,
    many: int,
    outbox: int,
    only: tuple[str, ...],
    json_path: Path,
    plot_path: Path,
) -> None:
    """Measure the engine and the accept path beside what they could be instead.

    Contenders take turns, round by round, on one SQS emulator and one PostgreSQL of this run's
    own; everything stays on 127.0.0.1 and ends with the command.
    """
    parts = only or PARTS
    steps = {
        "noop": rounds * len(noop.CONTENDERS),
        "gifts": rounds * len(gifts.CONTENDERS),
        "accept": rounds * 5,
        "memory": 12,
        "backlog": 3,
    }
    os.environ.update(bypass_proxy(os.environ))
    # In a pipe nothing is cut off.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    results: dict[str, Any] = {"machine": report.machine(), "options": _options()}
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn())
    with _servers() as (home, emulator, postgres):
        measures: dict[str, Callable[..., Any]] = {
            "noop": lambda done: noop.measure(
                home, emulator, messages=messages, rounds=rounds, done=done
            ),
            "gifts": lambda done: gifts.measure(
                home, emulator, postgres, messages=sends, rounds=rounds, done=done
            ),
            "accept": lambda done: accept.measure(
                home, emulator, postgres, requests=requests, rounds=rounds, done=done
            ),
            "memory": lambda done: memory.measure(
                home, emulator, postgres, waiting=waiting, done=done
            ),
            "backlog": lambda done: backlog.measure(
                postgres, gifts=many, outbox=outbox, times=400, done=done
            ),
        }
        with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
            for part in PARTS:
                if part in parts:
                    bar = bars.add_task(part, total=steps[part])
                    results[part] = measures[part](lambda bar=bar: bars.advance(bar))
                    _write(json_path, results)  # should a later part fail
    results["aims"] = report.aims(results)
    report.show(results, console)
    _write(json_path, results)
    plot_path.parent.mkdir(parents=True, exist_ok=True)
    run_to_end(
        [str(BENCH / "bin" / "python"), "-m", "tests.load.plot", str(json_path), str(plot_path)],
        {**common(), "MPLCONFIGDIR": str(KEPT / "matplotlib")},
    )
    console.print(f"Written: {json_path}, {plot_path}")


def _write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")


def _options() -> dict[str, Any]:
    parameters = click.get_current_context().params
    return {name: value for name, value in parameters.items() if not isinstance(value, Path)}


def _tidy_up(home: Home) -> Callable[..., None]:
    """What a failed run leaves is its logs."""

    def leave(kind: type[BaseException] | None, *_: object) -> None:
        home.forget_data()
        if kind is None or issubclass(kind, KeyboardInterrupt):
            shutil.rmtree(home.path, ignore_errors=True)
        else:
            click.echo(f"The logs are in {home.path / 'log'}", err=True)

    return leave


@contextmanager
def _servers() -> Iterator[tuple[Home, Emulator, Postgres]]:
    """The emulator and a PostgreSQL with its durability on, in a folder of the run's own."""
    with ExitStack() as undo:
        interruption = undo.enter_context(Interruption())
        # Short and traversable: PostgreSQL may have to run as another user.
        path = Path(tempfile.mkdtemp(prefix="okuru-bench-"))
        home = Home(path)
        undo.push(_tidy_up(home))
        undo.enter_context(home.locked())
        emulator, postgres = Emulator(home), Postgres(home)
        for server in (emulator, postgres):
            undo.callback(server.stop)
            server.start()
        for server in (emulator, postgres):
            server.wait_until_ready(interruption.check)
        with interruption.released():
            yield home, emulator, postgres


if __name__ == "__main__":
    main()
