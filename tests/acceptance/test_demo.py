"""`make demo` as a newcomer sees it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from okuru.stack.home import Home


@pytest.mark.parametrize(
    ("gifts", "failure_rate", "expected"),
    [
        (6, 0, {"sent": 6, "failed": 0, "attempts": 6, "retries": 0, "dead letters": 0}),
        (3, 1, {"sent": 0, "failed": 3, "attempts": 15, "retries": 12, "dead letters": 3}),
    ],
)
def test_the_demo_ends_with_every_gift_in_a_final_state(
    tmp_path: Path, gifts: int, failure_rate: float, expected: dict[str, int]
) -> None:
    home = Home(tmp_path / "home")
    options = ["--gifts", str(gifts), "--failure-rate", str(failure_rate)]
    said = subprocess.run(
        [sys.executable, "-c", "from okuru.cli import main; main()", "demo", *options],
        env={"PATH": os.environ["PATH"], "OKURU_HOME": str(home.path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    home.forget_data()  # as root it lies elsewhere
    assert said.returncode == 0, said.stderr
    figures = dict(re.findall(r"│ (.+?) +│ (\S+)", said.stdout))
    assert {name: int(figures[name]) for name in expected} == expected
    assert ("-" in figures["accepted to SENT, p50"]) == (expected["sent"] == 0)
