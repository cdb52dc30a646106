"""All faults of `make chaos`, a few of each: they strike one after the other, then all is judged.

What they leave behind overlaps: a killed worker's messages are hidden for 30 s, and what a killed
SQS has lost is found after 63 s. One wait at the end is enough for all of them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest

from okuru.stack.home import Home
from tests.acceptance.chaos.scenarios import SCENARIOS
from tests.acceptance.chaos.world import Run, settle, world

#: Sends of the largest scenarios.
SENDS = 60


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("CHAOS_SEED") or secrets.randbelow(2**32))


@pytest.fixture(scope="module")
def runs(seed: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    home = Home(tmp_path_factory.mktemp("chaos"))
    try:
        with world(home) as made:
            struck = {
                name: scenario.run(made, seed=seed, sends=SENDS, short=True)
                for name, scenario in SCENARIOS.items()
            }
            settle(made, list(struck.values()))
            yield struck
    finally:
        home.forget_data()  # as root it lies elsewhere


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_promise_is_kept(name: str, runs: dict[str, Run], seed: int) -> None:
    run = runs[name]
    print(f"seed {seed} (CHAOS_SEED), faults of {name}: {dict(run.counts)}")  # noqa: T201
    assert SCENARIOS[name].broken(run) == [], f"seed {seed}"
