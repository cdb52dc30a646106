"""The database of the tests, out of reach and back again, while its server serves the others."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import make_url

from app import db


class Outage:
    def __init__(self, database_url: str) -> None:
        url = make_url(database_url)
        self._name = url.database
        # Seen from the database beside it.
        beside = url.set(database="postgres").render_as_string(hide_password=False)
        self._beside = db.engine_for(beside, db.OPERATOR)

    def end_sessions(self) -> None:
        """What a failover does to a worker's connections."""
        self._execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'"
        )

    def begin(self) -> None:
        self._execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
        self.end_sessions()

    def end(self) -> None:
        self._execute(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def _execute(self, statement: str) -> None:
        with self._beside.begin() as connection:
            connection.execute(text(statement))
