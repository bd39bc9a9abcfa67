"""For all tests of scenarios against a relay."""

import pytest

ALL_REMARKS = {"generator busy", "generator late", "noise"}


@pytest.fixture(autouse=True)
def _one_joins_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a relay's sockets stand in the order of the clients, and a test knows whom it cheats."""
    monkeypatch.setattr("bench.measuring.JOINS_AT_ONCE", 1)


@pytest.fixture
def all_remarks(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Whatever the conditions of a run are, they are remarked on: these are the remarks that it has to have."""
    for limit in ("BUSY_LIMIT", "SLIP_LIMIT_MS", "NOISE_LIMIT"):
        monkeypatch.setattr(f"bench.measuring.{limit}", -1.0)
    return ALL_REMARKS
