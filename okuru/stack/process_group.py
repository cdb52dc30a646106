"""All processes of the Procfile."""

import shlex
from collections.abc import Iterator, Mapping

from rich.console import Console

from okuru import procfile
from okuru.stack.home import Home
from okuru.stack.interruption import Interruption
from okuru.stack.output import Terminal
from okuru.stack.processes import STOP_GRACE, Process, wait_while


class ProcessGroup(Mapping[str, Process]):
    """The processes by name, in the order of the Procfile."""

    def __init__(
        self,
        home: Home,
        environment: Mapping[str, str],
        console: Console | None,
        interruption: Interruption,
    ) -> None:
        commands = {name: shlex.split(line) for name, line in procfile.read().items()}
        self._interruption = interruption
        self.terminal = Terminal(console, list(commands))
        self._processes = {
            name: Process(
                home, name, command, _environment_of(home, name, environment), self.terminal
            )
            for name, command in commands.items()
        }

    def __getitem__(self, name: str) -> Process:
        return self._processes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._processes)

    def __len__(self) -> int:
        return len(self._processes)

    def start(self, *names: str) -> None:
        """Start the processes with these names, or all of them."""
        for name in names or self:
            with self._interruption.postponed():
                self[name].start()

    def stop(self) -> None:
        """Stop all that run: gently, and at once if the user asks again."""
        running = [process for process in self.values() if process.started]
        if not running:
            return
        self.terminal.say("stopping; the worker finishes what it holds. Ctrl-C again ends it now")
        # Who makes work stops before who does it.
        for process in reversed(running):
            process.ask_to_stop()
        wait_while(
            lambda: any(process.alive for process in running),
            seconds=STOP_GRACE,
            unless=lambda: self._interruption.in_a_hurry,
        )
        for process in running:
            process.end()


def _environment_of(home: Home, name: str, environment: Mapping[str, str]) -> dict[str, str]:
    return {
        **environment,
        "METRICS_PORT": str(home.port(f"metrics-{name}")),
        "PROMETHEUS_MULTIPROC_DIR": str(home.run / "metrics" / name),
    }
