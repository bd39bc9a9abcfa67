"""Several nodes in simulation: seeded schedules of edits, mishaps and repairs (`TMI_SIMULATION_SEEDS`)."""

import os

import pytest

from tests.simulation.cluster import Cluster

SEEDS = int(os.environ.get("TMI_SIMULATION_SEEDS", "1000"))


def test_nodes_converge_and_lose_nothing_acknowledged_in_every_schedule() -> None:
    mishaps = stale = heard = takeovers = entrusted = 0
    for seed in range(SEEDS):
        cluster = Cluster(seed, guests=1)
        try:
            cluster.run()
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        mishaps += cluster.mishaps
        stale += cluster.stale_refused
        heard += cluster.replicas_heard
        takeovers += cluster.takeovers
        entrusted += len(cluster.entrusted)
    assert mishaps > 3 * SEEDS, "the schedules are too calm to prove anything"
    assert stale > SEEDS // 10, "hardly any stale write was tried"
    assert heard > 10 * SEEDS, "hardly anything went over links"
    assert takeovers > SEEDS // 10, "hardly any owner died"
    assert entrusted > SEEDS // 2, "hardly any guest left an edit"


@pytest.mark.parametrize(
    ("seed", "guests"),
    [
        # A replica told a new owner of a client's sync before it offered the document that the client had
        # synced with: an edit was acknowledged that only the replica held.
        (215, 0),
        # What a client had sent that nobody can decode was adopted when it left, and ended the whole replica.
        (218, 0),
        (288, 0),
        # A room without anybody closed before its last edit was committed, and lost its fence: there was
        # nobody left to bring that edit to the next owner.
        (323, 1),
    ],
)
def test_a_schedule_that_once_failed_holds(seed: int, guests: int) -> None:
    Cluster(seed, guests=guests).run()
