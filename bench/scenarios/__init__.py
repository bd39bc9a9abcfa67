"""What can be measured, one module a scenario, and the sets that `make bench` and RESULTS.md are made of."""

from bench.model import Load
from bench.scenarios.cursors import CursorsLoad
from bench.scenarios.fanout import FanoutLoad
from bench.scenarios.join import ColdJoinLoad, JoinLoad
from bench.scenarios.rooms import RoomsLoad

SCENARIOS: tuple[type[Load], ...] = (
    FanoutLoad,
    CursorsLoad,
    RoomsLoad,
    JoinLoad,
    ColdJoinLoad,
)
"""Each becomes a command of the command line, with an option for every field."""


def short_set(seconds: float) -> list[Load]:
    """Sound, and done in less than five minutes with four servers. `seconds` is the length of one window."""
    return [FanoutLoad(50, 10, rate, seconds) for rate in (10, 40, 100, 200)]


def full_set(seconds: float) -> list[Load]:
    """Every row of the targets, and every scenario."""
    return [FanoutLoad(50, 10, rate, seconds) for rate in (10, 40, 100, 200)]
