"""Migrations, as the SQL that a database gets: squawk says what would stop the code that runs."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from app import db

ROOT = Path(__file__).parents[2]
VERSIONS = db.MIGRATIONS / "versions"

#: What is found and may stay, by migration. A new migration has no line here, or one with its
#: reason. The first three are older than any environment: they have only met empty tables.
EXCUSED = {
    "0002": {
        "ban-drop-not-null",
        "constraint-missing-not-valid",
        "require-concurrent-index-creation",
    },
    "0003": {"constraint-missing-not-valid", "ban-drop-constraint"},
}

BAD = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    {statement}
"""


def configuration(versions: Path) -> Config:
    config = db.alembic_config("postgresql://")
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", str(versions))
    return config


def steps() -> list[tuple[str, str]]:
    """Each migration, and what alembic calls the way to it."""
    script = ScriptDirectory.from_config(configuration(VERSIONS))
    found = reversed(list(script.walk_revisions()))
    return [(each.revision, f"{each.down_revision or 'base'}:{each.revision}") for each in found]


def sql(way: str, versions: Path = VERSIONS) -> str:
    config = configuration(versions)
    config.output_buffer = written = io.StringIO()
    command.upgrade(config, way, sql=True)
    return written.getvalue()


@pytest.fixture
def found(tool: Callable[[str], str], tmp_path: Path) -> Callable[[str], set[str]]:
    """The rules of squawk that SQL breaks."""

    def ask(text: str) -> set[str]:
        file = tmp_path / "migration.sql"
        file.write_text(text)
        done = subprocess.run(
            [tool("squawk"), "--config", ROOT / ".squawk.toml", "--reporter", "json", file],
            capture_output=True,
            text=True,
        )
        return {each["rule_name"] for each in json.loads(done.stdout)}

    return ask


@pytest.mark.parametrize(("revision", "way"), steps(), ids=[revision for revision, _ in steps()])
def test_a_migration_does_not_stop_the_code_that_runs(
    revision: str, way: str, found: Callable[[str], set[str]]
) -> None:
    assert found(sql(way)) == EXCUSED.get(revision, set())


@pytest.mark.parametrize(("revision", "way"), steps(), ids=[revision for revision, _ in steps()])
def test_a_migration_waits_for_no_lock(revision: str, way: str) -> None:
    text = sql(way)
    assert text.index("SET lock_timeout = '4s'") < text.index("BEGIN")
    assert text.count("BEGIN;") == text.count("COMMIT;") == 1


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        (
            'op.add_column("gifts", sa.Column("colour", sa.Text(), nullable=False))',
            "adding-required-field",
        ),
        ('op.drop_column("gifts", "message")', "ban-drop-column"),
        ('op.alter_column("gifts", "message", new_column_name="note")', "renaming-column"),
        (
            'op.create_index("ix_gifts_message", "gifts", ["message"])',
            "require-concurrent-index-creation",
        ),
        (
            'op.create_check_constraint("ck_gifts_rich", "gifts", "amount > 1")',
            "constraint-missing-not-valid",
        ),
    ],
)
def test_a_migration_that_would_is_refused(
    statement: str, rule: str, found: Callable[[str], set[str]], tmp_path: Path
) -> None:
    versions = tmp_path / "versions"
    shutil.copytree(VERSIONS, versions, ignore=shutil.ignore_patterns("__pycache__"))
    head = steps()[-1][0]
    (versions / "9999_bad.py").write_text(BAD.format(head=head, statement=statement))
    assert rule in found(sql(f"{head}:9999", versions))


def test_what_is_excused_exists() -> None:
    assert set(EXCUSED) <= {revision for revision, _ in steps()}
