"""The Procfile: the processes that Okuru consists of, each with its command line."""

from __future__ import annotations

import re
from pathlib import Path

import click

PROCFILE = Path(__file__).parent.parent / "Procfile"
#: As foreman and honcho read a line; terraform/main.tf has the same rule.
_LINE = re.compile(r"([A-Za-z0-9_-]+):(.+)")


class ProcfileError(click.ClickException):
    """A line of it is none."""


def read(path: Path = PROCFILE) -> dict[str, str]:
    """{process: command line}, in the file's order. Raises ProcfileError, which names the line."""
    commands: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None or not found[2].strip():
            raise ProcfileError(f"{path}: this line is no `process: command line`: {line}")
        commands[found[1]] = found[2].strip()
    return commands
