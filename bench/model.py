"""What every scenario gives and every report takes: figures, curves, faults and remarks of one run.

A load is a frozen dataclass that knows how to put itself on a server; a run is what came of it. The runner
and the reports know nothing else of a scenario, so a new one needs no change in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from bench.servers import Server


@dataclass(frozen=True)
class Figure:
    """One number that a scenario measures. `better` is None for what only describes the run."""

    key: str
    title: str
    unit: str
    better: Literal["lower", "higher"] | None = None
    form: str = ",.1f"
    """How the table prints it (a format specification)."""
    in_table: bool = True
    """Whether the terminal has room for it; JSON and HTML hold all."""


@dataclass(frozen=True)
class Goal:
    """What TMI has to reach under one load: a bound of its own, or a multiple of the best peer's figure.

    Where the figure is better higher, both are lower bounds; otherwise upper ones.
    """

    figure: str
    ratio: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Curve:
    """Points to draw: a distribution of latencies, or memory against edits. Units stand in the titles."""

    title: str
    x: str
    y: str
    points: Sequence[tuple[float, float]]
    logarithmic_x: bool = False


@dataclass(frozen=True)
class Place:
    """Where a measurement runs: the generator's core and the server's."""

    generator_core: int
    server_core: int


FELL_BEHIND = "fell behind"
"""The remark on a run whose server did not keep up with the load."""


@dataclass(frozen=True)
class Run:
    """What one server did under one load, once. A figure that could not be read is left out."""

    scenario: str
    load: str
    """The load's label."""
    server: str
    parameters: dict[str, float]
    """The load in numbers (clients, writers, rate, ...): what charts have on their x axis."""
    figures: dict[str, float]
    curves: dict[str, Curve] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    """Why this run's figures may not be used."""
    remarks: list[str] = field(default_factory=list)
    """What to bear in mind when reading them."""
    broke_off: str | None = None
    """The traceback of what broke this run off; what it means in plain words is among the faults."""


def option(default: float, help_text: str) -> Any:
    """A field of a load that the command line offers: `--warm-up-s` for `warm_up_s`."""
    return field(default=default, metadata={"help": help_text})


class Load(Protocol):
    """One load of one scenario: a frozen dataclass, bounded when it is made (ValueError)."""

    scenario: ClassVar[str]
    title: ClassVar[str]
    figures: ClassVar[tuple[Figure, ...]]
    cost: ClassVar[str]
    """The figure by which the best peer is chosen."""
    needs: ClassVar[frozenset[str]]
    """What a server must offer (`rest`, `acknowledgements`, ...); others are left out."""

    @property
    def label(self) -> str:
        """In a few words; the same for equal loads, since runs are grouped and compared by it."""

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What TMI has to reach here; empty for a load that no target speaks of."""

    @property
    def clients_at_once(self) -> int:
        """How many connections are open at the same time, at most, give or take a newcomer."""

    async def measure(self, server: Server, place: Place) -> Run:
        """One run. Raises `ServerError`, `OSError`, `TimeoutError` or `WSError`."""
