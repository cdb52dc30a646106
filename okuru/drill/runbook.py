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

#: One command and no second one: nothing of a shell that could begin another.
_LOCAL = re.compile(
    r"(okuru (queues|dlq|jobs|keys|health) |celery -A tasks (inspect|control) |curl -sSf? )"
    r"[^;|&()`<>]*"
)
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
        """Whether it is for the local stack, too. What is not known to be is for production."""
        return bool(_LOCAL.fullmatch(self.line))


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
