"""The HTML report: it parses, holds everything, fetches nothing and escapes what runs say."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from bench.charts import Chart, Line, Point, Scale, charts
from bench.document import Document, ServerInfo
from bench.drawing import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, axis, draw, values
from bench.model import Curve
from bench.page import page
from bench.statistics import Spread
from tests.unit.bench.made_up import SERVERS, document, load, run

VOID = {"meta", "link", "img", "br", "hr", "input"}
FETCHING = {"src", "srcset", "data", "poster", "action", "xlink:href", "background", "manifest"}
SCALES: tuple[Scale, ...] = ("linear", "logarithmic")
HOSTILE = '</dd><script>alert("1")</script><img src=x onerror=alert(2)>'


class Parsed(HTMLParser):
    """Elements with their attributes, and all text. Fails on an end tag that closes nothing."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(" ".join(data.split()))

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


def _two_rates() -> Document:
    loads = [load(10), load(40)]
    runs = [
        run(server, cpu_us / of.rate * factor, of=of)
        for of in loads
        for server, cpu_us in (("tmi", 100.0), ("hocuspocus", 200.0), ("y-websocket", 300.0))
        for factor in (1, 1.2)
    ]
    return document(runs, loads)


def test_the_page_is_well_formed_and_its_references_lead_somewhere() -> None:
    parsed = Parsed(page(_two_rates()))
    assert [] == parsed.open
    ids = parsed.ids()
    assert len(ids) == len(set(ids))
    references = {
        reference.removeprefix("#")
        for _, attributes in parsed.elements
        for name in ("href", "aria-labelledby", "aria-describedby")
        if (reference := attributes.get(name))
    }
    assert references
    assert references <= set(ids)


def test_the_page_holds_the_figures_of_every_server_with_their_spread() -> None:
    text = Parsed(page(_two_rates())).text
    for median, low, high in ((11, 10, 12), (22, 20, 24), (33, 30, 36)):
        assert f"{median}.00" in text
        assert f"({low}.00 to {high}.00)" in text
    assert {"tmi", "hocuspocus", "y-websocket"} <= set(text)


def test_nothing_is_fetched_and_no_script_runs() -> None:
    source = page(_two_rates())
    for tag, attributes in Parsed(source).elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "img"}
        assert not FETCHING & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    for remote in ("http:", "https:", "//", "@import", "url("):
        assert remote not in source


def test_what_runs_say_is_text_and_not_markup() -> None:
    runs = [run("tmi", 5, faults=[HOSTILE], remarks=[HOSTILE]), run("y-websocket", 10)]
    whole = document(runs)
    curve = Curve(HOSTILE, HOSTILE, HOSTILE, [(0, 1), (1, 2)])
    info = replace(whole.scenarios["fanout"], title=HOSTILE)
    hostile = replace(
        whole,
        about=replace(whole.about, revision=HOSTILE, command=[HOSTILE]),
        scenarios={"fanout": info},
        servers=SERVERS | {"tmi": ServerInfo(HOSTILE, [HOSTILE], HOSTILE)},
        runs=[replace(one, load=HOSTILE, curves={HOSTILE: curve}) for one in whole.runs],
        summaries=[replace(one, load=HOSTILE) for one in whole.summaries],
    )
    parsed = Parsed(page(hostile))
    assert [] == parsed.open
    assert not [tag for tag, _ in parsed.elements if tag in {"script", "img"}]
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert 5 < sum(HOSTILE in text for text in parsed.text)


def test_verdicts_stand_in_words() -> None:
    loads = [load(10), load(40)]
    runs = [
        run("tmi", 8, {"p50_ms": 2}, loads[0]), run("y-websocket", 10, of=loads[0]),
        run("tmi", 1, of=loads[1], faults=["lost"]), run("y-websocket", 10, of=loads[1]),
    ]  # fmt: skip
    parsed = Parsed(page(document(runs, loads)))
    verdicts = [
        attributes["class"] for tag, attributes in parsed.elements if tag == "td" and "class" in attributes
    ]
    assert ["met", "short", "unsound", "unsound"] == verdicts[:4]
    assert "Targets: 1 met, 1 short, 2 unsound, 0 not compared." in " ".join(parsed.text)
    assert "lost" in parsed.text


def test_costs_are_drawn_against_what_loads_differ_in_and_latencies_for_each_load() -> None:
    drawn = charts(_two_rates(), "fanout")
    assert [
        "CPU against edits a second",
        "Latency from send to seen: 50 clients, 10 writers x 10/s",
        "Latency from send to seen: 50 clients, 10 writers x 40/s",
    ] == [chart.title for chart in drawn]
    cost = drawn[0].lines[0]
    assert ("tmi", [100, 400]) == (cost.label, [point.x for point in cost.points])
    assert Spread(11, 10, 12) == cost.points[0].y


def test_a_grid_of_loads_has_a_line_for_each_choice_of_the_rest() -> None:
    loads = [load(rate, clients) for rate in (10, 40) for clients in (20, 50)]
    drawn = charts(document([run("tmi", 5, of=of) for of in loads], loads), "fanout")
    labels = {chart.title: [line.label for line in chart.lines] for chart in drawn[:2]}
    assert {
        "CPU against clients": ["tmi, 100 edits a second", "tmi, 400 edits a second"],
        "CPU against edits a second": ["tmi, 20 clients", "tmi, 50 clients"],
    } == labels


def test_a_cost_with_faults_is_not_drawn() -> None:
    loads = [load(10), load(40), load(100)]
    runs = [run("tmi", 5, of=of, faults=["lost"] if of.rate == 40 else []) for of in loads]
    points = charts(document(runs, loads), "fanout")[0].lines[0].points
    assert [100, 1000] == [point.x for point in points]


def test_one_load_without_curves_has_no_chart() -> None:
    bare = replace(run("tmi", 5), curves={})
    assert [] == charts(document([bare]), "fanout")


def test_runs_that_lie_over_each_other_are_one_line_and_others_one_each() -> None:
    points: list[list[tuple[float, float]]] = [[(0, 1), (9, 3)], [(0, 2), (9, 5)], [(0, 7)]]
    curves = [Curve("Memory", "edits", "MiB", of_run) for of_run in points]
    runs = [replace(run("tmi", 5), curves={"memory": curve}) for curve in curves]
    together = charts(document(runs[:2]), "fanout")[0].lines
    assert [Line("tmi", "tmi", [Point(0, Spread(1.5, 1, 2)), Point(9, Spread(4, 3, 5))])] == together
    apart = charts(document(runs), "fanout")[0].lines
    assert ["tmi, run 1", "tmi, run 2", "tmi, run 3"] == [line.label for line in apart]


def test_a_page_without_any_run_says_so() -> None:
    assert "None of the servers offers what this needs." in Parsed(page(document([]))).text


def test_lines_stay_inside_the_plot_and_higher_is_further_up() -> None:
    line = Line("tmi", "tmi", [Point(x, Spread(x + 2, x + 1, x + 3)) for x in range(5)])
    for scale in SCALES:
        (drawn,) = draw(Chart("title", "x", "y", [line], y_scale=scale)).lines
        points = [(mark.x, mark.y) for mark in drawn.marks]
        assert sorted(points, key=lambda place: -place[1]) == points
        assert all(LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM for x, y in points)


def test_ticks_are_round_and_hold_all_values() -> None:
    assert (0, 0.5, 1.0, 1.5, 2.0) == tuple(axis("linear", [0.3, 1.9]).ticks)
    assert (0.1, 1, 10, 100) == tuple(axis("logarithmic", [0.3, 70]).ticks)
    assert (0, 0.2) == tuple(axis("linear", [0.0]).ticks)
    assert "1,000,000" == axis("linear", [5e6]).name(1e6)
    tail = axis("tail", [0, 100])
    assert 0 == tail.share(0) < tail.share(90) < tail.share(99) < tail.share(99.9) < tail.share(100) == 1
    assert pytest.approx(tail.share(99) - tail.share(90)) == tail.share(99.9) - tail.share(99)


def test_a_chart_is_told_as_a_table_too() -> None:
    latency = charts(_two_rates(), "fanout")[1]
    told = values(latency)
    assert ["min", "p50", "p90", "p99", "p99.9", "max"] == [name for name, _ in told]
    assert ["55 (50 to 60)", "110 (100 to 120)", "165 (150 to 180)"] == told[1][1]
