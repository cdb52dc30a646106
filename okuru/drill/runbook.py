"""docs/runbook.md, as a drill reads it: one section a monitor, in steps, with their commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from okuru.stack.home import PROJECT

PATH = PROJECT / "docs" / "runbook.md"

FIRST_LOOK, STOP_THE_BLEEDING, CURE, OVER = (
    "First look",
    "Stop the bleeding",
    "Cure",
    "It is over when",
)
STEPS = (FIRST_LOOK, STOP_THE_BLEEDING, CURE, OVER)

_LEAD_IN = re.compile(r"^\*\*(What it means|First look|Stop the bleeding|Cure|It is over when)\b")


@dataclass(frozen=True)
class Command:
    """A line of a `sh` block.

    Attributes:
        step: the lead-in that it stands under; empty where there is none.
    """

    section: str
    step: str
    line: str

    @property
    def is_local(self) -> bool:
        """Whether it works on the local stack as well: no part of it asks AWS or GitHub."""
        words = re.split(r"[\s;|&()\"]+", self.line)
        changes_production = "rollback" in words or "deploy" in words
        return "aws" not in words and not changes_production and not self.line.startswith("export")


@cache
def commands() -> tuple[Command, ...]:
    """All commands of the page, in its order."""
    found = []
    section, step, in_block = "", "", False
    for line in PATH.read_text().splitlines():
        if line.startswith("```"):
            in_block = not in_block and line == "```sh"
        elif in_block:
            if line.strip() and not line.startswith("#"):
                found.append(Command(section, step, line))
        elif line.startswith("#"):
            section, step = line.lstrip("# ").lower().replace(" ", "-"), ""
        elif lead_in := _LEAD_IN.match(line):
            step = lead_in[1]
    return tuple(found)


def commands_of(section: str, step: str) -> list[Command]:
    return [each for each in commands() if (each.section, each.step) == (section, step)]
