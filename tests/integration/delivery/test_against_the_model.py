"""The real SQL, through the interleavings of the model: the same decision at every step."""

from __future__ import annotations

from random import Random

import pytest
from sqlalchemy import Engine

from tests.integration.delivery.database import Both, Disagreement
from tests.unit.delivery.world import World

SEEDS = 96
BLOCKS = 6


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("block", range(BLOCKS))
def test_the_database_decides_as_the_model_does(block: int, engine: Engine) -> None:
    for seed in range(block, SEEDS, BLOCKS):
        world = World(Both(), Random(seed))
        try:
            world.run(120)
        except AssertionError as error:
            raise Disagreement(f"seed {seed}: {error}\n" + "\n".join(world.history)) from error
        with engine.begin() as connection:
            connection.exec_driver_sql("TRUNCATE outbox, dead_letters, attempts")
