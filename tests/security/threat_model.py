"""`docs/security.json`, the threat model of TMI itself, and the page that is made of it.

`python -m tests.security.threat_model` writes `docs/security.md`. The JSON is what the API takes: a threat
model, its diagram with cells, and threats that name their cell, their mitigation and, as metadata `test.N`,
the tests that show it.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "docs" / "security.json"
PAGE = ROOT / "docs" / "security.md"

CATEGORIES = {
    "Spoofing": "spoofing",
    "Tampering": "tampering",
    "Repudiation": "repudiation",
    "Information Disclosure": "information-disclosure",
    "Denial of Service": "denial-of-service",
    "Elevation of Privilege": "elevation-of-privilege",
}
STRIDE = {
    "actor": ("Spoofing", "Repudiation"),
    "process": tuple(CATEGORIES),
    "store": ("Tampering", "Repudiation", "Information Disclosure", "Denial of Service"),
    "flow": ("Tampering", "Information Disclosure", "Denial of Service"),
}
"""What is asked of each kind of element."""

Json = Any

_HEAD = """# What could go wrong, and what is done about it

The threat model of TMI itself, by STRIDE and per element of its data flows. It is kept in the API's own JSON,
in [security.json](security.json), and this page is made of it (`python -m tests.security.threat_model`).
Tests hold both to each other and to the code: every element has every category that its kind asks for, or a
reason why not, and every test that is named exists. `tmi import docs/security.json --owner YOUR-EMAIL` brings
it into a running service.
"""


def load() -> Json:
    """The document."""
    return json.loads(SOURCE.read_text(encoding="utf-8"))


def cells(document: Json) -> list[Json]:
    """The elements of the diagram of which something is asked; boundaries are drawn and not asked."""
    return [cell for cell in document["diagrams"][0]["cells"] if cell["shape"] in STRIDE]


def label(cell: Json) -> str:
    """What an element is called."""
    holder = cell["labels"][0] if cell["shape"] == "flow" else cell
    return str(holder["attrs"]["text"]["text"])


def reasons(cell: Json) -> dict[str, str]:
    """Why a category does not apply to an element."""
    told = {item["key"]: item["value"] for item in cell["data"]["_metadata"]}
    return {
        category: told[f"not-applicable.{key}"]
        for category, key in CATEGORIES.items()
        if f"not-applicable.{key}" in told
    }


def shown_by(threat: Json) -> list[str]:
    """The tests that show a threat's mitigation, as `path::name`."""
    return [item["value"] for item in threat["metadata"] if item["key"].startswith("test.")]


def page(document: Json) -> str:
    """The page in Markdown."""
    names = {cell["id"]: label(cell) for cell in cells(document)}
    lines = [_HEAD]
    for cell in cells(document):
        kind = cell["shape"]
        ends = ""
        if kind == "flow":
            ends = f", {names[cell['source']['cell']]} to {names[cell['target']['cell']]}"
        lines.append(f"## {label(cell)} ({kind}{ends})\n")
        for threat in document["threats"]:
            if threat["cell_id"] == cell["id"]:
                lines += _described(threat)
        lines += [f"*{category}*: does not apply. {why}\n" for category, why in reasons(cell).items()]
    return "\n".join(lines)


def _described(threat: Json) -> list[str]:
    tests = [f"  - `{test}`" for test in shown_by(threat)]
    return [
        f"**{threat['name']}** ({', '.join(threat['threat_type'])}, {threat['severity'].lower()})\n",
        f"{threat['description']}\n",
        f"- Mitigation: {threat['mitigation']}",
        "- Shown by:",
        *tests,
        "",
    ]


if __name__ == "__main__":
    PAGE.write_text(page(load()), encoding="utf-8")
