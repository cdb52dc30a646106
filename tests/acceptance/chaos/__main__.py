"""`make chaos`: every scenario in full, about ten minutes, and a report.

A seed fixes the plan of the faults, not the moment at which a process meets them: the same seed
strikes alike, and need not hit alike.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from okuru.stack.home import Home
from tests.acceptance.chaos.report import Result, as_json, table
from tests.acceptance.chaos.scenarios import SCENARIOS, Scenario
from tests.acceptance.chaos.world import settle, world

#: Violations shown for each scenario; `--json` has all.
SHOWN = 10


@click.command()
@click.option("--seed", type=int, help="Of an earlier run; by default a new one.")
@click.option(
    "--scenario",
    "names",
    type=click.Choice(list(SCENARIOS)),
    multiple=True,
    help="Only this one; may be given again.",
)
@click.option(
    "--sends",
    type=click.IntRange(10),
    default=1000,
    show_default=True,
    help="Of the largest scenarios.",
)
@click.option("--short", is_flag=True, help="The faults strike for seconds: as in `make test`.")
@click.option("--json", "wants_json", is_flag=True, help="Print the results as JSON.")
def main(seed: int | None, names: Sequence[str], sends: int, short: bool, wants_json: bool) -> None:
    """Break everything at hand, and look whether each gift was sent once.

    Exits 1 if a promise was broken; the logs and the provider's ledger are kept then.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    console = Console(stderr=wants_json)
    console.print(f"Seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="okuru-chaos-"))
    results: list[Result] = []
    waiting = deque(SCENARIOS[name] for name in names or SCENARIOS)
    try:
        while waiting:
            home = Home(folder / f"world-{len(results)}")
            try:
                _strike(home, waiting, results, seed=seed, sends=sends, short=short, to=console)
            finally:
                home.forget_data()  # as root it lies elsewhere
    finally:
        is_whole = not waiting and not any(each.broken for each in results)
        if is_whole:
            shutil.rmtree(folder)
        else:
            console.print(f"Logs and ledgers: {folder}")
    console.print(table(results))
    for each in results:
        for line in each.broken[:SHOWN]:
            console.print(f"[red]{each.scenario}[/]: {line}", highlight=False)
    if wants_json:
        click.echo(json.dumps({"seed": seed, "results": as_json(results)}, indent=2))
    raise SystemExit(0 if is_whole else 1)


def _strike(
    home: Home,
    waiting: deque[Scenario],
    results: list[Result],
    *,
    seed: int,
    sends: int,
    short: bool,
    to: Console,
) -> None:
    """One scenario after the other, until one leaves a world that the next could not use."""
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
    )
    is_settled = True
    with world(home) as made, Progress(*columns, console=to) as bars:
        while waiting and is_settled:
            scenario = waiting.popleft()
            bar = bars.add_task(scenario.name, total=scenario.sends_of(sends), state="striking")
            show = partial(bars.update, bar)
            notice = partial(_show_count, show)
            run = scenario.run(made, seed=seed, sends=sends, short=short, notice=notice)
            is_settled = settle(made, [run], say=partial(_show_state, show))
            result = Result.of(scenario, run)
            results.append(result)
            broken = f"[red]{len(result.broken)} broken[/]"
            show(state=broken if result.broken else "[green]kept[/]")
            bars.stop_task(bar)


def _show_count(show: Callable[..., None], accepted: int) -> None:
    show(completed=accepted)


def _show_state(show: Callable[..., None], state: str) -> None:
    show(state=state)


if __name__ == "__main__":
    main()
