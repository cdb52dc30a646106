"""`okuru run`: the whole stack in the foreground."""

import os

import click
from rich.console import Console
from rich.table import Table

from app.jobs import processors
from okuru.stack.home import Home
from okuru.stack.stack import Stack

_DEFAULT_PORT = 8080


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="PORT",
    default=_DEFAULT_PORT,
    show_default=True,
    help="Port of the API.",
)
def run(port: int) -> None:
    """Run the API, the workers and the servers that they need, until Ctrl-C."""
    # Before anything starts: else each process would say it, and start again, and again.
    processors.load_or_exit(
        name.strip() for name in os.environ.get("OKURU_PROCESSORS", "").split(",") if name.strip()
    )
    console = Console()
    console.print("Starting PostgreSQL, Valkey and SQS…")
    try:
        with Stack(Home.from_environment(), port=port, console=console) as stack:
            stack.processes.start()
            stack.wait_until_ready()
            console.print(_welcome(stack))
            stack.stay()
    except KeyboardInterrupt:
        console.print("Stopped.")


def _welcome(stack: Stack) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, value in {
        "API": stack.api_url,
        "Documentation": f"{stack.api_url}/docs",
        "User's key": stack.keys["API_KEY"],
        "Operator's key": stack.keys["ADMIN_API_KEY"],
        "Variables": f". {os.path.relpath(stack.home.env_file)}",
        "Logs": os.path.relpath(stack.home.path / "log"),
        "Stop": "Ctrl-C",
    }.items():
        table.add_row(name, value)
    return table
