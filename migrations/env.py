"""Alembic's environment: one migration at a time, and none that waits long for a lock."""

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

#: A migration that waits for a lock makes everyone behind it wait: it gives up and is run again.
SETTINGS = (
    "SET lock_timeout = '4s'",
    "SET statement_timeout = '15min'",
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
    engine = db.engine_for(url, db.OPERATOR)
    with engine.connect() as connection:
        for setting in SETTINGS:
            connection.execute(text(setting))
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
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
