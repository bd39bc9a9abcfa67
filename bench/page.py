"""The HTML report: one file without scripts, which opens offline and holds every figure of a document.

Charts are inline SVG. A charting library that is inlined weighs some megabytes in every report; the charts
here are lines and bands, and weigh a few kilobytes each.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench import drawing, wording
from bench.charts import charts
from bench.document import Document
from bench.report import median_and_outer
from bench.servers import OURS

COLOURS = 6
"""Of lines; a seventh server has the first one's again."""


def page(document: Document) -> str:
    """The whole file as text. Everything that a document says is escaped."""
    return _TEMPLATE.render(
        document=document,
        drawings={
            name: [drawing.draw(chart) for chart in charts(document, name)] for name in document.scenarios
        },
        colours={name: number % COLOURS for number, name in enumerate(document.servers)},
    )


def write_html(path: Path, document: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(document), encoding="utf-8")


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "drawing": drawing, "wording": wording, "median_and_outer": median_and_outer, "ours": OURS,
    }  # fmt: skip
    return environment


_TEMPLATE = _environment().get_template("page.html")
