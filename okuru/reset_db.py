"""`okuru reset-db`: an empty database and empty queues at the next start."""

import click

from okuru.stack.child import end_leftovers
from okuru.stack.home import Home


@click.command("reset-db")
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset_db(*, yes: bool) -> None:
    """Delete the local database and the local queues."""
    home = Home.from_environment()
    with home.locked():
        if not yes:
            click.confirm(f"Delete all data in {home.path}?", abort=True)
        end_leftovers(home)
        home.forget_data()
    click.echo(f"Deleted. The next start makes a new database in {home.path}.")
