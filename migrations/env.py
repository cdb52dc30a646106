"""Alembic's environment: one migration at a time, and none that waits long for a table's lock."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from alembic import context
from sqlalchemy import text

import app
from app import db

# Each fills Base.metadata.
for _file in sorted(Path(app.__path__[0]).glob("*/models.py")):
    import_module(f"app.{_file.parent.name}.models")

#: Any number, the same for every migrator: two deploys at once take turns.
MIGRATION_LOCK = 0x6F6B757275  # "okuru"

#: Those of `db.MIGRATOR`, where somebody else runs the SQL.
SETTINGS = (
    f"SET lock_timeout = '{db.MIGRATOR.lock}s'",
    f"SET statement_timeout = '{db.MIGRATOR.statement}s'",
    "SET search_path = public",
)


#: What is the same for a database and for a file of SQL.
OPTIONS = {
    "target_metadata": db.Base.metadata,
    "compare_server_default": True,
    "transaction_per_migration": True,
}


def migrate() -> None:
    """Change the database, taking turns with other migrators."""
    url = context.config.attributes.get("database_url") or os.environ["DATABASE_URL"]
    engine = db.engine_for(url, db.MIGRATOR)
    with db.answering_within(db.MIGRATOR.statement + 2), engine.connect() as connection:
        connection.execute(text("SET lock_timeout = 0"))  # of a turn: nobody waits behind it
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
        for setting in SETTINGS:
            connection.execute(text(setting))
        connection.commit()  # the lock is the session's and stays
        context.configure(connection=connection, **OPTIONS)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


def write() -> None:
    """Write the SQL instead (`alembic upgrade --sql`): to be read, and checked by squawk."""
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    for setting in SETTINGS:
        context.execute(setting)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    write()
else:
    migrate()
