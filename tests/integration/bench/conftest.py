"""For all tests of scenarios against a relay."""

import pytest

ALL_REMARKS = {"generator busy", "generator late", "noise"}


@pytest.fixture(autouse=True)
def _one_joins_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a relay's sockets stand in the order of the clients, and a test knows whom it cheats."""
    monkeypatch.setattr("bench.measuring.JOINS_AT_ONCE", 1)


@pytest.fixture
def soon_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A room is taken for evicted after as long as `Durable` needs for it."""
    monkeypatch.setattr("bench.servers.base.EVICTED_AFTER_S", 0.2)


@pytest.fixture
def all_remarks(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """All remarks on conditions, which every run has to have now, whatever its conditions are."""
    for limit in ("BUSY_LIMIT", "SLIP_LIMIT_MS", "NOISE_LIMIT"):
        monkeypatch.setattr(f"bench.measuring.{limit}", -1.0)
    return ALL_REMARKS
