"""`okuru datadog` as the tests run it: here or as a process of its own, with keys of a stub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from okuru.cli import main
from okuru.datadog.files import FOLDER
from tests.infra.datadog_stub import API_KEY, APP_KEY, Account, serving

ROOT = Path(__file__).parents[2]


@pytest.fixture
def account() -> Iterator[Account]:
    with serving() as account:
        yield account


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the files, to be changed, with less of the dashboard."""
    folder = Path(shutil.copytree(FOLDER, tmp_path / "datadog"))
    dashboard = json.loads((folder / "dashboard.json").read_text())
    dashboard["widgets"] = dashboard["widgets"][:2]
    (folder / "dashboard.json").write_text(json.dumps(dashboard))
    return folder


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(changes: dict[str, str | None]) -> dict[str, str | None]:
    """Both keys, and nothing else that Datadog's client would read."""
    inherited: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith(("DD_", "OKURU_DOCS"))
    }
    return {**inherited, "DD_API_KEY": API_KEY, "DD_APP_KEY": APP_KEY, **changes}


def keyless(ended: Ended) -> Ended:
    """Whatever happens, no part of a key is ever told."""
    for key in (API_KEY, APP_KEY):
        for part in (key[first : first + 8] for first in range(len(key) - 7)):
            assert part.lower() not in (ended.out + ended.err).lower()
    assert "Traceback" not in ended.err
    return ended


def okuru(*arguments: str, **changes: str | None) -> Ended:
    """The command in this process."""
    done = CliRunner().invoke(main, ["datadog", *arguments], env=environment(changes))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return keyless(Ended(done.exit_code, done.stdout, done.stderr))


def okuru_process(*arguments: str, **changes: str | None) -> Ended:
    """The command as a process of its own, outside the checkout."""
    wanted = {**os.environ, **environment({"PYTHONPATH": str(ROOT), **changes})}
    done = subprocess.run(
        [sys.executable, "-c", "from okuru.cli import main; main()", "datadog", *arguments],
        env={name: value for name, value in wanted.items() if value is not None},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return keyless(Ended(done.returncode, done.stdout, done.stderr))


Sync = Callable[..., Ended]


@pytest.fixture
def sync(account: Account, folder: Path) -> Sync:
    """`okuru datadog sync` to the account, from the folder."""

    def run(*arguments: str, **changes: str | None) -> Ended:
        given = ("--api-url", account.url, "--notify", "@slack-okuru", "--folder", str(folder))
        return okuru("sync", *given, *arguments, **changes)

    return run
