"""Medians, spreads and percentiles."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median


@dataclass(frozen=True)
class Spread:
    """A figure of several runs: the middle one and the outer ones."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


def percentile(ascending: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of sorted values; not-a-number of none. `share` is between 0 and 1."""
    if not ascending:
        return float("nan")
    rank = ceil(share * len(ascending) - 1e-9)
    return ascending[max(0, rank - 1)]


def distribution(ascending: Sequence[float]) -> list[tuple[float, float]]:
    """Percentiles to draw, as (share, value); the tail more finely than the middle."""
    if not ascending:
        return []
    return [(share, percentile(ascending, share)) for share in _SHARES]


_SHARES = (
    *(n / 100 for n in range(0, 90, 2)),
    *(n / 1000 for n in range(900, 990, 5)),
    *(n / 1000 for n in range(990, 1001)),
)
