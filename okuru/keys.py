"""`okuru keys`: who may use the API."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import click
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from app import db
from app.accounts import service
from app.accounts.service import Role
from app.errors import OkuruError
from okuru.tables import console


@click.group()
def keys() -> None:
    """Create, list and revoke API keys (DATABASE_URL says where)."""


@keys.command()
@click.argument("email")
@click.option("--role", type=click.Choice(["user", "operator"]), default="user", show_default=True)
@click.option("--name", default="", help="What the key is for.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def create(email: str, role: Role, name: str, as_json: bool) -> None:
    """Make a key for the account of EMAIL, and the account if there is none.

    The key is shown this once: only its hash is stored.
    """
    with _transaction() as session:
        key_id, key = service.create_key(session, email=email, role=role, name=name)
    if as_json:
        click.echo(json.dumps({"key_id": str(key_id), "key": key, "email": email, "role": role}))
    else:
        click.echo(f"{key}\n", nl=False)
        click.echo(f"key {key_id} of {email} ({role}): it is not shown again", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def list_keys(as_json: bool) -> None:
    """Show all keys, never the secrets."""
    with _transaction() as session:
        rows = [
            {
                "key_id": str(key.id),
                "email": email,
                "role": key.role,
                "name": key.name,
                "created_at": key.created_at.isoformat(),
                "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
            }
            for key, email in service.list_keys(session)
        ]
    if as_json:
        click.echo(json.dumps({"items": rows}))
        return
    table = Table("email", "role", "name", "created", "revoked")
    table.columns.insert(0, Column("key", no_wrap=True, min_width=36))  # to be copied whole
    for row in rows:
        table.add_row(*(Text(row[column] or "") for column in row))
    console().print(table)


@keys.command()
@click.argument("key_id", type=click.UUID)
def revoke(key_id: UUID) -> None:
    """Make a key open nothing from now on."""
    with _transaction() as session:
        service.revoke_key(session, key_id)
    click.echo(f"key {key_id} is revoked")


@contextmanager
def _transaction() -> Iterator[Session]:
    url = os.environ.get("DATABASE_URL")
    if not url:
        raise click.ClickException(
            "DATABASE_URL is not set; for the local stack: . .local/env, then again"
        )
    try:
        engine = db.engine_for(url, db.OPERATOR)
    except (ArgumentError, ValueError):
        raise click.ClickException("DATABASE_URL is not a database URL") from None
    try:
        with Session(engine) as session, session.begin():
            yield session
    except db.OUTAGE_ERRORS as error:
        raise click.ClickException("the database does not answer") from error
    except OkuruError as error:
        raise click.ClickException(error.message) from error
    finally:
        engine.dispose()
