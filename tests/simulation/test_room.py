"""The room core in simulation: seeded schedules of edits, mishaps and repairs (`TMI_SIMULATION_SEEDS`)."""

import os

from tests.simulation.world import World

SEEDS = int(os.environ.get("TMI_SIMULATION_SEEDS", "1000"))


def test_rooms_converge_and_lose_nothing_acknowledged_in_every_schedule() -> None:
    mishaps = 0
    for seed in range(SEEDS):
        world = World(seed)
        try:
            world.run()
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        mishaps += world.mishaps
    assert mishaps > SEEDS, "the schedules are too calm to prove anything"
