"""For all tests of scenarios against a relay."""

import pytest


@pytest.fixture(autouse=True)
def _one_joins_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a relay's sockets stand in the order of the clients, and a test knows whom it cheats."""
    monkeypatch.setattr("bench.measuring.JOINS_AT_ONCE", 1)
