"""The command itself: break, watch, follow the runbook, see it recover."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import click
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from app import db
from okuru.drill import runbook
from okuru.drill.load import Load
from okuru.drill.provider import Provider
from okuru.drill.runbook import CURE, FIRST_LOOK, OVER, STOP_THE_BLEEDING
from okuru.drill.scenarios import SCENARIOS, Scenario, Site
from okuru.drill.signals import SPEED, Condition, Signals
from okuru.stack.errors import StackError
from okuru.stack.home import PROJECT, Home
from okuru.stack.stack import Stack
from okuru.tables import WIDE

#: What a drill takes from the shell.
KEPT = ("PATH", "PYTHONPATH", "LANG", "TMPDIR")
#: Seconds between two looks at the conditions.
LOOK_EVERY = 0.5
#: Seconds within which the monitors must call, and everything must be well again.
CALLS_WITHIN = 120.0
WELL_WITHIN = 180.0
#: Seconds after which the commands of the cure are given again: letters may still be on their way.
AGAIN_EVERY = 10.0
#: Seconds that a command may take; lines of it that are shown, and of these the last ones.
COMMAND_WITHIN = 120.0
SHOWN_LINES = 14
LAST_LINES = 3
#: Before each line of them.
INDENT = "  "


@dataclass
class Result:
    scenario: str
    called: dict[str, Condition] = field(default_factory=dict)
    commands: list[dict[str, object]] = field(default_factory=list)
    accepted: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Nothing that was acknowledged is lost, and every command of the cure worked."""
        cures = [each for each in self.commands if each["step"] in (CURE, OVER)]
        return self.statuses == {"SENT": self.accepted} and all(
            each["exit_code"] == 0 for each in cures
        )


@click.command()
@click.argument("name", metavar="SCENARIO", type=click.Choice(list(SCENARIOS)))
@click.option("--json", "as_json", is_flag=True, help="The result on stdout; the rest on stderr.")
def drill(name: str, *, as_json: bool) -> None:
    """Play a failure on the local stack, and mend it as docs/runbook.md says.

    Shows which monitors would call, by the thresholds of terraform/datadog and a clock that runs
    faster, gives the runbook's commands, and watches the recovery. SCENARIO is worker-down,
    queue-backlog, db-down, poison or provider-down. Exits 0 if every send that was acknowledged
    has arrived.
    """
    scenario = SCENARIOS[name]
    console = Console(stderr=as_json)
    with Provider() as provider:
        # Its own servers, whatever the shell points at: this does harm.
        environ = {name: os.environ[name] for name in KEPT if name in os.environ}
        environ |= {
            "SENDER": "webhook",
            "SENDER_URL": provider.url,
            "SENDER_SECRET": provider.secret,
        }
        home = Home(Home.from_environment().path / "drill")
        with Stack(home, environ=environ) as stack:
            with console.status("starting the processes"):
                stack.processes.start()
                stack.wait_until_ready()
            try:
                result = Drill(scenario, Site(stack, provider), console).run()
            finally:
                console.print("[dim]stopping the processes[/]")
        home.forget_data()  # the next one begins with nothing
    if as_json:
        click.echo(json.dumps({**asdict(result), "good": result.is_good}))
    if not result.is_good:
        raise SystemExit(1)


class Drill:
    def __init__(self, scenario: Scenario, site: Site, console: Console) -> None:
        self._scenario = scenario
        self._site = site
        self._console = console
        self._result = Result(scenario.name)

    def run(self) -> Result:
        stack, scenario = self._site.stack, self._scenario
        section = scenario.monitors[0]
        with (
            Load(stack.api_url, stack.keys["API_KEY"], per_second=scenario.per_second) as load,
            Signals(stack) as signals,
        ):
            self._say(
                f"Callers send {scenario.per_second:g} gifts a second. A drill's clock is {SPEED} "
                "times as fast: five minutes are ten seconds. At first no monitor calls:"
            )
            with self._waiting("until everything is well"):
                _until(
                    lambda: not signals.true() and signals.sees_traffic and len(load.accepted) > 10,
                    CALLS_WITHIN,
                    lambda: f"at first: {_named(signals)}",
                )
            self._show(signals.conditions())

            self._say(f"Now {scenario.broken}.")
            scenario.break_it(self._site)
            with self._waiting("until the monitors call"):
                _until(lambda: self._all_called(signals), CALLS_WITHIN, lambda: _named(signals))
            self._show(self._result.called.values())

            self._say(f"The runbook, section {section}:")
            self._give(section, FIRST_LOOK)
            self._give(section, STOP_THE_BLEEDING)
            if scenario.mended:
                self._say(f"Meanwhile {scenario.mended}.")
                scenario.mend_it(self._site)
            self._give(section, CURE)

            load.stop()
            with self._waiting("until everything has recovered"):
                self._recover(load, signals)
            self._show(
                [each for each in signals.conditions() if each.monitor in self._result.called]
            )
            self._give(section, OVER)
        self._say(
            f"{self._result.accepted} sends were acknowledged meanwhile: "
            + ", ".join(f"{count} {status}" for status, count in self._result.statuses.items())
            + f"; {len(self._site.provider.accepted & set(load.accepted))} reached the provider."
        )
        return self._result

    def _all_called(self, signals: Signals) -> bool:
        for monitor, condition in signals.true().items():
            self._result.called.setdefault(monitor, condition)
        return set(self._scenario.monitors) <= self._result.called.keys()

    def _recover(self, load: Load, signals: Signals) -> None:
        """Wait for the end of every send, giving the cure again while letters come in."""
        section = self._scenario.monitors[0]
        again_at = time.monotonic() + AGAIN_EVERY

        def well() -> bool:
            nonlocal again_at
            over = load.is_over  # before the count: who was told yes is then in it
            self._count(load.accepted)
            true = signals.true()
            if "dead-letters" in true and time.monotonic() > again_at:
                self._give(section, CURE)
                again_at = time.monotonic() + AGAIN_EVERY
            return over and not true and self._result.statuses.keys() <= {"SENT"}

        _until(well, WELL_WITHIN, lambda: f"{_named(signals)} {self._result.statuses}")

    def _count(self, gift_ids: list[str]) -> None:
        engine = db.engine_for(self._site.stack.environment["DATABASE_URL"], db.OPERATOR)
        statement = text("SELECT status FROM gifts WHERE id = ANY(CAST(:ids AS uuid[]))")
        ids = list(gift_ids)
        with engine.connect() as connection:
            statuses = Counter(connection.scalars(statement, {"ids": ids}))
        engine.dispose()
        self._result.accepted, self._result.statuses = len(ids), dict(statuses)

    def _give(self, section: str, step: str) -> None:
        """Run the local commands of a step; say what is for production alone."""
        for command in runbook.commands_of(section, step):
            if not command.is_local:
                self._console.print(f"[dim]in production: {command.line}[/]", highlight=False)
                continue
            self._console.print(f"[bold cyan]{step}[/] $ {command.line}", highlight=False)
            code, output = run_command(
                command.line, self._site.stack, columns=self._console.width - len(INDENT)
            )
            lines = output.splitlines()
            if len(lines) > SHOWN_LINES:  # the last ones say what came of it
                kept = SHOWN_LINES - LAST_LINES
                left = len(lines) - SHOWN_LINES
                lines = [*lines[:kept], f"… {left} lines more", *lines[-LAST_LINES:]]
            for line in lines:
                self._console.print(
                    f"{INDENT}{line}", markup=False, highlight=False, no_wrap=True, crop=True
                )
            self._result.commands.append({"step": step, "line": command.line, "exit_code": code})

    def _show(self, conditions: Iterable[Condition]) -> None:
        table = Table("", "here", f"threshold at {SPEED}×", "calls")
        table.columns[0].no_wrap = True
        for each in conditions:
            table.add_row(
                each.monitor,
                f"{each.what}: {each.value:.3g}",
                f"{each.comparison} {each.threshold:.3g}",
                "[bold red]yes[/]" if each.is_true else "no",
            )
        self._console.print(table)

    def _say(self, words: str) -> None:
        self._console.print(f"\n[bold]{words}[/]")

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        with self._console.status(f"waiting {what}"):
            yield


def run_command(line: str, stack: Stack, *, columns: int = WIDE) -> tuple[int, str]:
    """Run a line of the runbook as an operator of this stack. Returns exit code and output."""
    done = subprocess.run(  # noqa: S603 - from a page of this repository
        ["/bin/sh", "-c", line],
        env={**stack.environment, **stack.keys, "API_URL": stack.api_url, "COLUMNS": str(columns)},
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_WITHIN,
        check=False,
    )
    return done.returncode, done.stdout


def _named(signals: Signals) -> str:
    return f"these call: {', '.join(signals.true()) or 'none'}"


def _until(condition: Callable[[], bool], within: float, problem: Callable[[], str]) -> None:
    """
    Raises:
        StackError: it did not come true in time.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"not within {within:g} s; {problem()}")
        time.sleep(LOOK_EVERY)
