"""What can be measured, one module a scenario, and the sets that `make bench` and RESULTS.md are made of."""

from dataclasses import replace

from bench.model import Load
from bench.scenarios.ack import AckLoad
from bench.scenarios.cold_open import ColdOpenLoad
from bench.scenarios.connect import ConnectLoad, IdleLoad
from bench.scenarios.cursors import CursorsLoad
from bench.scenarios.fanout import FanoutLoad
from bench.scenarios.growth import GrowthLoad, OwnGrowthLoad
from bench.scenarios.join import ColdJoinLoad, JoinLoad
from bench.scenarios.large_edit import EditStallLoad
from bench.scenarios.mixed import MixedLoad
from bench.scenarios.neighbours import ColdStallLoad, NeighboursLoad, StallLoad
from bench.scenarios.reconnect import ReconnectLoad
from bench.scenarios.rest import RestLoad
from bench.scenarios.rooms import RoomsLoad
from bench.scenarios.slow_reader import SlowReaderLoad

SCENARIOS: tuple[type[Load], ...] = (
    FanoutLoad,
    CursorsLoad,
    RoomsLoad,
    JoinLoad,
    ColdJoinLoad,
    ColdOpenLoad,
    ConnectLoad,
    IdleLoad,
    AckLoad,
    RestLoad,
    GrowthLoad,
    MixedLoad,
    SlowReaderLoad,
    ReconnectLoad,
    NeighboursLoad,
    StallLoad,
    ColdStallLoad,
    EditStallLoad,
)
"""Each becomes a command of the command line, with an option for every field."""


RATES = (10, 40, 100, 200)
LONGEST_CONNECTING_S = 50.0
LONGEST_GROWING_S = 2.0
LONGEST_CURSORS_S = 5.0
"""With 300 clients the generator keeps nearly 200 MB of frames a second."""


SHORTEST_CURSORS_S = 2.0
"""TMI tells cursors every 40 ms: in a window of less than 50 times that, what is under way at its end may be
taken for having fallen behind.
"""

UNHURRIED_S = 3.0
"""With windows as long as that, or longer, nothing of the short set is saved."""


def short_set(seconds: float) -> list[Load]:
    """Sound, and with windows of a second done twice in less than five minutes with three peers. `seconds` is
    the length of a window.
    """
    curve = [FanoutLoad(25, 10, 10, seconds)] if seconds >= UNHURRIED_S else []
    return [
        *curve,
        *(FanoutLoad(50, 10, rate, seconds) for rate in RATES),
        CursorsLoad(50, 10, max(seconds, SHORTEST_CURSORS_S)),
        RoomsLoad(200, 2, 5, seconds),
        JoinLoad(),
        ConnectLoad(seconds=min(seconds, LONGEST_CONNECTING_S)),
        AckLoad(seconds=seconds),
        RestLoad(rate=100, models=100, threats=0, seconds=seconds),
        OwnGrowthLoad(edits=10_000, seconds=min(seconds, LONGEST_GROWING_S), finely=True),
    ]


def warmed(load: Load, seconds: float) -> Load:
    """One of the short set, for servers that had such a load just before: what was compiled is compiled."""
    if seconds >= UNHURRIED_S:
        return load
    if isinstance(load, JoinLoad | ConnectLoad):
        return replace(load, warm_up_s=0.0)
    if isinstance(load, FanoutLoad | CursorsLoad | RoomsLoad | AckLoad | RestLoad):
        return replace(load, warm_up_s=load.warm_up_s * seconds / UNHURRIED_S)
    return load


def full_set(seconds: float) -> list[Load]:
    """Every scenario, and with them every row of the targets."""
    return [
        *(FanoutLoad(50, 10, rate, seconds) for rate in RATES),
        CursorsLoad(50, 10, seconds),
        CursorsLoad(300, 10, min(seconds, LONGEST_CURSORS_S)),
        RoomsLoad(200, 2, 5, seconds),
        JoinLoad(),
        ColdJoinLoad(),
        ColdOpenLoad(opens=40),
        ConnectLoad(seconds=min(seconds, LONGEST_CONNECTING_S)),
        IdleLoad(),
        AckLoad(seconds=seconds),
        RestLoad(seconds=seconds),
        RestLoad(parts=0.7, seconds=seconds),
        RestLoad(writes=0.1, seconds=seconds),
        GrowthLoad(),
        MixedLoad(),
        SlowReaderLoad(seconds=seconds),
        SlowReaderLoad(slow=20, seconds=seconds),
        ReconnectLoad(),
        NeighboursLoad(seconds=seconds),
        StallLoad(),
        ColdStallLoad(),
        EditStallLoad(),
    ]
