"""Where the commands' tables go."""

from __future__ import annotations

import os
import sys

from rich.console import Console

#: Columns where nobody says how many there are.
WIDE = 240


def console() -> Console:
    """On stdout, as wide as its terminal or `COLUMNS`. In a pipe nothing is cut off."""
    knows_its_width = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if knows_its_width else WIDE)
