"""One file of JSON lines that all processes of a test write to: what ran, what failed, when."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any


class Ledger:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: list[dict[str, Any]] = []
        self._read_to = 0

    def write(self, event: str, **fields: Any) -> None:
        """Append a line. Times are of the monotonic clock, which the machine's processes share."""
        line = json.dumps({"event": event, "at": time.monotonic(), "pid": os.getpid(), **fields})
        # One write that appends is whole. A lock would be inherited by a process that is forked
        # meanwhile, and never be given back.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)

    def read(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """The entries so far that have these fields, oldest first."""
        if self.path.exists():
            with self.path.open() as file:
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith("\n"):
                        break
                    self._entries.append(json.loads(line))
                    self._read_to += len(line.encode())
        wanted = fields if event is None else {"event": event, **fields}
        return [
            entry
            for entry in self._entries
            if all(entry.get(name) == value for name, value in wanted.items())
        ]

    def counts(self, event: str, by: str = "n", **fields: Any) -> Counter[Any]:
        """How many such entries there are for each value of a field."""
        return Counter(entry[by] for entry in self.read(event, **fields))
