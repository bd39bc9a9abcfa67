"""Charts in the coordinates of an SVG: axes with round ticks, paths, and marks that say their values."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from bench.charts import Chart, Line, Point, Scale
from bench.statistics import Spread

WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 30, 24, 46
"""The margins around the plot; the y title stands above it."""

TICKS = 5
MARKS_MAX = 24
"""A line of more points is drawn without a mark on each."""

TAIL = (0.0, 50.0, 90.0, 99.0, 99.9, 100.0)
"""Percentiles that have a tick and, on each line, a mark."""
_TAIL_END = 3.5
"""Where the highest value stands, in tens: 99.9 stands at 3."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Drawn:
    """One line: `path` through the medians, `band` around all runs (empty where they do not differ)."""

    server: str
    label: str
    path: str
    band: str
    marks: list[Mark]


@dataclass(frozen=True)
class Drawing:
    chart: Chart
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Drawn]


@dataclass(frozen=True)
class Axis:
    """Values to shares of its length, and the values that have a tick."""

    share: Callable[[float], float]
    ticks: Sequence[float]
    name: Callable[[float], str]


def draw(chart: Chart) -> Drawing:
    points = [point for line in chart.lines for point in line.points]
    x_axis = axis(chart.x_scale, [point.x for point in points])
    y_axis = axis(chart.y_scale, [height for point in points for height in (point.y.low, point.y.high)])

    def x(number: float) -> float:
        return round(LEFT + x_axis.share(number) * (WIDTH - LEFT - RIGHT), 1)

    def y(number: float) -> float:
        return round(HEIGHT - BOTTOM - y_axis.share(number) * (HEIGHT - TOP - BOTTOM), 1)

    return Drawing(
        chart,
        [Tick(x(tick), x_axis.name(tick)) for tick in x_axis.ticks],
        [Tick(y(tick), y_axis.name(tick)) for tick in y_axis.ticks],
        [_drawn(chart, line, x, y) for line in chart.lines],
    )


def _drawn(chart: Chart, line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> Drawn:
    lows = [(x(point.x), y(point.y.low)) for point in line.points]
    highs = [(x(point.x), y(point.y.high)) for point in line.points]
    return Drawn(
        server=line.server,
        label=line.label,
        path=_path((x(point.x), y(point.y.median)) for point in line.points),
        band=f"{_path([*lows, *reversed(highs)])} Z" if lows != highs else "",
        marks=[
            Mark(
                x(point.x), y(point.y.median),
                f"{line.label}: {name_x(chart, point.x)}, {value(point.y)} {chart.y}",
            )
            for point in told(chart, line)
        ],
    )  # fmt: skip


def _path(places: Iterable[tuple[float, float]]) -> str:
    return "M " + " L ".join(f"{x:g} {y:g}" for x, y in places)


def told(chart: Chart, line: Line) -> list[Point]:
    """The points whose values are said in words: percentiles that have a tick, or some of all points."""
    if chart.x_scale == "tail":
        return [point for point in line.points if round(point.x, 6) in TAIL]
    step = ceil(len(line.points) / MARKS_MAX)
    last = [] if (len(line.points) - 1) % step == 0 else [line.points[-1]]
    return [*line.points[::step], *last]


def name_x(chart: Chart, x: float) -> str:
    return _name_tail(x) if chart.x_scale == "tail" else f"{_name(x)} {chart.x}"


def value(spread: Spread) -> str:
    """Four digits, and the outer runs where they differ."""
    median, low, high = map(_digits, (spread.median, spread.low, spread.high))
    return median if low == high else f"{median} ({low} to {high})"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def axis(scale: Scale, values: Sequence[float]) -> Axis:
    """An axis on which all of these values lie."""
    if scale == "tail":
        return Axis(lambda percentile: _tens(percentile) / _TAIL_END, TAIL, _name_tail)
    if scale == "logarithmic":
        return _logarithmic(min(values), max(values))
    return _linear(min(0.0, *values), max(0.0, *values))


def _tens(percentile: float) -> float:
    return min(_TAIL_END, -log10(1 - percentile / 100)) if percentile < 100 else _TAIL_END


def _name_tail(percentile: float) -> str:
    return {0.0: "min", 100.0: "max"}.get(round(percentile, 6), f"p{percentile:g}")


def _linear(low: float, high: float) -> Axis:
    """With zero on it, so that lengths can be compared."""
    step = _round_step((high - low or 1.0) / TICKS)
    first, last = floor(low / step), max(ceil(high / step), 1)
    bottom, length = first * step, (last - first) * step
    ticks = [number * step for number in range(first, last + 1)]
    return Axis(lambda number: (number - bottom) / length, ticks, _name)


def _round_step(least: float) -> float:
    """The next of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(least))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= least * (1 - 1e-9))


def _logarithmic(low: float, high: float) -> Axis:
    bottom, top = floor(log10(low)), ceil(log10(high))
    length = max(1, top - bottom)
    ticks = [10.0**power for power in range(bottom, bottom + length + 1)]
    return Axis(lambda number: (log10(number) - bottom) / length, ticks, _name)


def _name(number: float) -> str:
    return f"{number:,.10g}"


def values(chart: Chart) -> list[tuple[str, list[str]]]:
    """The chart as a table: for each x what each line has there, empty where it has no point."""
    columns = [{point.x: value(point.y) for point in told(chart, line)} for line in chart.lines]
    places = sorted({x for column in columns for x in column})
    return [(name_x(chart, x), [column.get(x, "") for column in columns]) for x in places]
