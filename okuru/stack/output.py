"""What the processes of a stack say: to a file each, and to the terminal if there is one."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

_COLOURS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan")
_SEVERITIES = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red"}
# Said by the prefix, or only of interest in the file.
_LEFT_OUT = {"timestamp", "level", "service", "message", "stack", "logger", "http_request_id"}


class Terminal:
    """Shows lines with the name of the process that said them; without a console, shows nothing."""

    def __init__(self, console: Console | None, names: Sequence[str]) -> None:
        self._console = console
        self._width = max(map(len, names), default=0)
        self._colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}

    def show(self, name: str, line: str) -> None:
        """Show a line of a process; a JSON log line in a form for human eyes."""
        self._print(name, self._colours.get(name, "white"), _readable(line))

    def say(self, sentence: str) -> None:
        """Show a line of the stack itself."""
        self._print("okuru", "bold", Text(sentence))

    def _print(self, name: str, colour: str, text: Text) -> None:
        if self._console is None:
            return
        prefix = Text(f"{name:<{self._width}} | ", style=colour)
        text.plain = _printable(text.plain)
        try:
            for line in text.split("\n"):
                self._console.print(prefix + line, soft_wrap=True)
        except (OSError, SystemExit):
            # Whoever read our output has gone (rich wants to exit then), but the processes are
            # still to be looked after, and the files have every line.
            self._console = None


def _printable(said: str) -> str:
    """Without what steers a terminal, and without half surrogate pairs, which it cannot show."""
    return "".join(
        char if char in "\n\t" or (char >= " " and char != "\x7f") else "�"
        for char in said.encode(errors="replace").decode()
    )


def _readable(line: str) -> Text:
    try:
        event = json.loads(line)
    except ValueError:
        return Text.from_ansi(line)
    if not isinstance(event, dict) or "message" not in event:
        return Text(line)
    return _sentence(event)


def _sentence(event: Mapping[str, Any]) -> Text:
    level = str(event.get("level", "INFO")).upper()
    moment = str(event.get("timestamp", ""))[11:19]
    details = [
        f"{name}={value}"
        for name, value in event.items()
        if name not in _LEFT_OUT and value not in (None, "-")
    ]
    text = Text(f"{moment} ")
    text.append(f"{level:<7} ", style=_SEVERITIES.get(level, "dim"))
    text.append(str(event["message"]))
    text.append("".join(f"  {detail}" for detail in details), style="dim")
    if event.get("stack"):
        text.append(f"\n{event['stack']}")
    return text
