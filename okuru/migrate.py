"""`okuru migrate`: the schema of the database, up and down."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import alembic.command
import click
from alembic.util.exc import CommandError
from sqlalchemy.orm import Session

from app import db
from okuru.stack.environment import chosen_by_user
from okuru.stack.errors import StackError
from okuru.stack.home import Home
from okuru.stack.interruption import Interruption
from okuru.stack.provision import outages_explained


@click.group()
def migrate() -> None:
    """Change the schema of DATABASE_URL, or else of the local database."""


@migrate.command()
@click.argument("revision", default="head")
def up(revision: str) -> None:
    """Upgrade to REVISION, by default the latest.

    A schema of a later release stays as it is: this code works on it.
    """
    with _database() as url:
        try:
            db.upgrade(url, revision)
        except CommandError:
            if revision != "head" or not _is_later(url):
                raise
            click.echo("the schema is of a later release, and stays as it is")
            return
        alembic.command.current(db.alembic_config(url))


@migrate.command()
@click.argument("revision", default="-1")
def down(revision: str) -> None:
    """Downgrade to REVISION, by default one step."""
    with _database() as url:
        alembic.command.downgrade(db.alembic_config(url), revision)
        alembic.command.current(db.alembic_config(url))


@migrate.command()
@click.argument("name")
def create(name: str) -> None:
    """Write a migration called NAME from the difference between the models and the database."""
    with _database() as url:
        db.upgrade(url)
        alembic.command.revision(db.alembic_config(url), message=name, autogenerate=True)


@migrate.command()
def check() -> None:
    """Fail if the models and the migrated database differ."""
    with _database() as url:
        db.upgrade(url)
        alembic.command.check(db.alembic_config(url))


def _is_later(url: str) -> bool:
    engine = db.engine_for(url, db.OPERATOR)
    with Session(engine) as session:
        return db.is_migrated(session)


@contextmanager
def _database() -> Iterator[str]:
    """Give the URL of a running database; what Alembic complains about becomes StackError."""
    home = Home.from_environment()
    chosen = chosen_by_user(os.environ, own=home.recall("addresses") or {})
    try:
        with ExitStack() as undo, outages_explained():
            yield chosen.get("DATABASE_URL") or _local_database(home, undo)
    except CommandError as error:
        raise StackError(str(error)) from error


def _local_database(home: Home, undo: ExitStack) -> str:
    """Return the URL of the running stack's database, or start it for the duration."""
    if home.is_in_use():
        return home.read_env()["DATABASE_URL"]
    # Production has a DATABASE_URL, and neither these nor what they import.
    from okuru.stack.child import end_leftovers
    from okuru.stack.postgres import Postgres

    interruption = undo.enter_context(Interruption())
    undo.enter_context(home.locked())
    end_leftovers(home)
    postgres = Postgres(home)
    undo.callback(postgres.stop)
    postgres.start()
    postgres.wait_until_ready(interruption.check)
    undo.enter_context(interruption.released())
    return postgres.url
