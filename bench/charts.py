"""Which charts a document has in it: its runs' curves, and costs against whatever its loads differ in.

Nothing here knows a scenario: a curve is drawn because runs hold one, and a cost is drawn against a
parameter as soon as two loads differ in it alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.document import Document
from bench.model import Curve, Run
from bench.report import Summary
from bench.statistics import Spread

Scale = Literal["linear", "logarithmic", "tail"]
"""`tail` is for percentiles: 90, 99 and 99.9 stand at even distances."""

PERCENTILE = "percentile"
"""The x title of distributions."""

LOGARITHMIC_FROM = 50.0
"""Heights of which the largest is so many times the smallest are drawn on a logarithmic scale."""

NO_LOAD = frozenset({"seconds"})
"""Parameters that say how long was measured."""

MADE_OF = {"edits_per_s": frozenset({"writers", "rate"})}
"""Parameters that stand for others, which are then left out."""

TITLES = {"edits_per_s": "edits a second", "rate": "edits or moves a second of each", "kib": "KiB"}


@dataclass(frozen=True)
class Point:
    x: float
    y: Spread


@dataclass(frozen=True)
class Line:
    """What one server did, ordered by x; all its runs, unless they cannot be laid over each other."""

    server: str
    label: str
    points: list[Point]


@dataclass(frozen=True)
class Chart:
    title: str
    x: str
    y: str
    lines: list[Line]
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"


def charts(document: Document, scenario: str) -> list[Chart]:
    """Costs first, then the curves of each load. Empty where there is nothing to draw."""
    return [*_costs(document, scenario), *_curves(document, scenario)]


def _curves(document: Document, scenario: str) -> list[Chart]:
    """One chart for each load and kind of curve, one line for each server."""
    groups: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in document.runs_of(scenario):
        for key, curve in run.curves.items():
            if curve.points:
                groups.setdefault((run.load, key), {}).setdefault(run.server, []).append(run)
    return [_curve_chart(load, key, servers) for (load, key), servers in groups.items()]


def _curve_chart(load: str, key: str, servers: dict[str, list[Run]]) -> Chart:
    lines = [line for server, runs in servers.items() for line in _curve_lines(server, key, runs)]
    curve = next(iter(servers.values()))[0].curves[key]
    return Chart(
        title=f"{curve.title}: {load}",
        x=curve.x,
        y=curve.y,
        lines=lines,
        x_scale=_x_scale(curve, lines),
        y_scale=_y_scale(lines),
    )


def _curve_lines(server: str, key: str, runs: Sequence[Run]) -> list[Line]:
    """Runs with the same x make one line with a spread; others each make their own."""
    label = f"{server} (unsound)" if any(run.faults for run in runs) else server
    curves = [sorted(run.curves[key].points) for run in runs]
    together = list(zip(*curves, strict=False))
    if len({tuple(x for x, _ in points) for points in curves}) == 1:
        points = [Point(of_runs[0][0], Spread.of([y for _, y in of_runs])) for of_runs in together]
        return [Line(server, label, points)]
    return [
        Line(server, f"{label}, run {number}", [Point(x, Spread(y, y, y)) for x, y in points])
        for number, points in enumerate(curves, start=1)
    ]


def _x_scale(curve: Curve, lines: Iterable[Line]) -> Scale:
    if curve.x == PERCENTILE:
        return "tail"
    all_positive = all(point.x > 0 for line in lines for point in line.points)
    return "logarithmic" if curve.logarithmic_x and all_positive else "linear"


def _y_scale(lines: Iterable[Line]) -> Scale:
    heights = [height for line in lines for point in line.points for height in (point.y.low, point.y.high)]
    return "logarithmic" if 0 < min(heights) * LOGARITHMIC_FROM < max(heights) else "linear"


def _costs(document: Document, scenario: str) -> list[Chart]:
    """The figure that chooses the best peer, against each parameter in which loads differ."""
    info = document.scenarios[scenario]
    cost = document.figure(scenario, info.cost)
    loads = {run.load: run.parameters for run in document.runs_of(scenario) if run.parameters}
    found = []
    for axis in _axes(loads.values()):
        lines = _cost_lines(document.summaries_of(scenario), loads, axis, cost.key)
        if lines:
            title = _title(axis)
            found.append(
                Chart(f"{cost.title} against {title}", title, cost.unit, lines, y_scale=_y_scale(lines))
            )
    return found


def _axes(loads: Iterable[dict[str, float]]) -> list[str]:
    """What tells loads apart, in the order in which loads name it."""
    names = list(dict.fromkeys(name for parameters in loads for name in parameters))
    hidden = NO_LOAD.union(*(parts for name, parts in MADE_OF.items() if name in names))
    return [name for name in names if name not in hidden]


def _cost_lines(
    summaries: Iterable[Summary], loads: dict[str, dict[str, float]], axis: str, cost: str
) -> list[Line]:
    """A line for each server and each choice of the other parameters, where it has two points or more."""
    axes = _axes(loads.values())
    groups: dict[tuple[str, tuple[tuple[str, float | None], ...]], list[Point]] = {}
    for summary in summaries:
        parameters = loads.get(summary.load, {})
        if axis in parameters and cost in summary.figures and not summary.faults:
            others = tuple((name, parameters.get(name)) for name in axes if name != axis)
            point = Point(parameters[axis], summary.figures[cost])
            groups.setdefault((summary.server, others), []).append(point)
    drawn = {group: points for group, points in groups.items() if len({point.x for point in points}) > 1}
    settings = {others for _, others in drawn}
    telling = [name for name in axes if name != axis and len({dict(others)[name] for others in settings}) > 1]
    return [
        Line(server, _label(server, dict(others), telling), sorted(points, key=lambda point: point.x))
        for (server, others), points in drawn.items()
    ]


def _label(server: str, others: dict[str, float | None], telling: Sequence[str]) -> str:
    told = [f"{others[name]:,g} {_title(name)}" for name in telling if others[name] is not None]
    return ", ".join([server, *told])


def _title(parameter: str) -> str:
    return TITLES.get(parameter, parameter.replace("_", " "))
