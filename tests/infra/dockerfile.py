"""What the Dockerfile and .dockerignore say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from okuru import procfile

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
LINES = procfile.read()


@dataclass(frozen=True)
class Stage:
    name: str
    instructions: list[tuple[str, str]]

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == keyword]


def stages() -> list[Stage]:
    """The Dockerfile, without its comments and with its lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    found: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        keyword, _, rest = line.partition(" ")
        if keyword == "FROM":
            found.append(Stage(rest.partition(" AS ")[2] or "image", []))
        found[-1].instructions.append((keyword, " ".join(rest.split())))
    return found


BASE, BUILD, SQS, IMAGE = stages()

RULES = [
    line
    for line in (ROOT / ".dockerignore").read_text().splitlines()
    if line and not line.startswith("#")
]
COPIED = {line.split()[0].rstrip("/") for stage in (BUILD, SQS) for line in stage.all("COPY")}


def _pattern(rule: str) -> re.Pattern[str]:
    """As BuildKit reads it: `**/` is any number of folders, `*` and `?` know no slash."""
    translated = {"**/": "(.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", rule.removeprefix("!").strip("/"))
    return re.compile("".join(translated.get(part, re.escape(part)) for part in parts))


def in_context(path: str) -> bool:
    """Whether BuildKit would send the file: the last rule that matches it, or a folder above."""
    ways = [path, *(str(parent) for parent in Path(path).parents)]
    said = [rule for rule in RULES if any(_pattern(rule).fullmatch(way) for way in ways)]
    return not said or said[-1].startswith("!")
