"""The provider, as whoever started it sees it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from tests.acceptance.chaos.stub import SECRET, Rules

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Call:
    """A line of the ledger."""

    key: str
    fate: str
    effect: bool
    digest: str
    overlap: bool


class Provider:
    """A process that is there for the length of a `with` block."""

    def __init__(self, ledger: Path) -> None:
        self.secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        self._ledger = ledger
        self._http = requests.Session()
        self._http.trust_env = False

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.chaos.stub", str(self._ledger)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], SECRET: self.secret},
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is ours: the stack still needs it
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().decode().strip()
        assert port, "the provider did not start"
        self._root = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()  # closes its input

    @property
    def url(self) -> str:
        return f"{self._root}/gifts"

    def obey(self, rules: Rules) -> None:
        self._http.post(f"{self._root}/rules", json=asdict(rules), timeout=5).raise_for_status()

    def entries(self) -> list[dict[str, Any]]:
        """The ledger as it stands; a reader may see half of the line that is being written."""
        if not self._ledger.exists():
            return []
        whole, _, _half = self._ledger.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def calls(self) -> list[Call]:
        return [
            Call(
                key=entry["key"],
                fate=entry["fate"],
                effect=entry["effect"],
                digest=entry.get("digest", ""),
                overlap=entry.get("overlap", False),
            )
            for entry in self.entries()
            if entry["fate"] != "kill"
        ]
