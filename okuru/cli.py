"""The `okuru` command."""

from importlib import import_module

import click

# To add a command, write it in a module of its own and name it here.
COMMANDS = {
    "run": "okuru.run:run",
    "migrate": "okuru.migrate:migrate",
    "demo": "okuru.demo:demo",
    "keys": "okuru.keys:keys",
    "relay": "okuru.relay:relay",
    "health": "okuru.health:health",
    "queues": "okuru.queues:queues",
    "dlq": "okuru.dlq:dlq",
    "jobs": "okuru.jobs:jobs",
    "messages": "okuru.messages:messages",
    "reset-db": "okuru.reset_db:reset_db",
}


class _Commands(click.Group):
    """Imports a command when it is asked for, so that none waits for what others import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, command = COMMANDS[cmd_name].partition(":")
        try:
            found: click.Command = getattr(import_module(module), command)
        except ModuleNotFoundError as error:
            if error.name != "psutil":
                raise
            # Production is without requirements/dev.txt, and so without the local stack.
            return None
        return found


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Okuru: sends what must be sent exactly once."""
