"""Text that others wrote (Datadog's API, a proxy before it, a file), to be said on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Characters of foreign text that are shown.
MOST = 300
#: As many characters of a key in a row, and it is a part of that key.
TELLING = 8

#: GitHub's runner reads `##[command]` as a command, wherever in a line it stands. `::command::` it
#: reads at the beginning only, where foreign text never is.
_COMMAND = "##["


def one_line(text: str, *, keys: Iterable[str] = (), most: int = MOST) -> str:
    """The text in one printable line of bounded length.

    Args:
        keys: a word that holds a part of one of these is not shown.
        most: characters of the line.
    """
    line = " ".join(text.split())
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
    parts = {part for key in keys for part in _parts(key.lower())}
    # What was cut goes last: half a key is still to be known as one.
    line = re.sub(r"\S+", lambda word: "***" if _holds(word[0].lower(), parts) else word[0], line)
    line = line.replace(_COMMAND, "## [")
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _parts(key: str) -> set[str]:
    return {key[first : first + TELLING] for first in range(max(1, len(key) - TELLING + 1))}


def _holds(word: str, parts: set[str]) -> bool:
    return any(part in word for part in parts)
