"""A diagram for programs that analyse it: what is connected to what, without how it is drawn.

Nodes and edges with labels, metadata and assets, in the threat model that they belong to, as JSON, YAML or
GraphML 1.0. Cells of no shape that the contract knows are left out; so are, in GraphML, edges of which an end
is gone, since a graph has no such thing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import orjson
import yaml

Json = Any
Cell = Mapping[str, Json]

JSON, YAML, GRAPHML = "application/json", "application/yaml", "application/graphml+xml"
FORMATS = {"json": JSON, "yaml": YAML, "graphml": GRAPHML}
"""Media types by what a query may call them."""

NODES = frozenset(("actor", "process", "store", "security-boundary", "text-box"))
EDGES = frozenset(("flow",))

_LABELS_MAX = 100
_LABEL_MAX = 1000
_CHILDREN_MAX = 1000
_ASSETS_MAX = 100
_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_SCHEMA = f"{_NAMESPACE} {_NAMESPACE}/1.0/graphml.xsd"
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def cells_of(cells: Sequence[Cell]) -> list[dict[str, Json]]:
    """The contract's MinimalCell of each node and edge."""
    children = _children(cells)
    boxes = {cell["id"]: cell for cell in cells if cell.get("shape") == "text-box"}
    shown = []
    for cell in cells:
        if cell["shape"] in NODES:
            shown.append(_node(cell, children.get(cell["id"], []), boxes))
        elif cell["shape"] in EDGES and _end(cell, "source") and _end(cell, "target"):
            shown.append(_edge(cell))
    return shown


def assets_of(cells: Iterable[Cell]) -> list[str]:
    """The ids of the assets that minimal cells refer to, each once."""
    return list(dict.fromkeys(asset for cell in cells for asset in cell.get("data_asset_ids", ())))


def _node(cell: Cell, children: Sequence[str], boxes: Mapping[str, Cell]) -> dict[str, Json]:
    labels = [_text_of(cell), *(_text_of(boxes[child]) for child in children if child in boxes)]
    data = _data(cell)
    is_boundary = cell["shape"] == "security-boundary" or data.get("security_boundary") is True
    parent = cell.get("parent")
    return {
        "id": cell["id"],
        "shape": cell["shape"],
        "parent": parent if isinstance(parent, str) and parent else None,
        "children": list(children)[:_CHILDREN_MAX],
        "labels": _labels(labels),
        "metadata": _metadata(data),
        "security_boundary": is_boundary,
        "data_asset_ids": _assets(data),
    }


def _edge(cell: Cell) -> dict[str, Json]:
    labels = cell.get("labels")
    shown = [_text_of(label) for label in labels] if isinstance(labels, list) else []
    data = _data(cell)
    return {
        "id": cell["id"],
        "shape": cell["shape"],
        "source": _end(cell, "source"),
        "target": _end(cell, "target"),
        "labels": _labels(shown),
        "metadata": _metadata(data),
        "data_asset_ids": _assets(data),
    }


def _children(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """By node: those that it names and those that name it as their parent."""
    found: dict[str, dict[str, None]] = {}
    for cell in cells:
        named = cell.get("children")
        for child in named if isinstance(named, list) else ():
            if isinstance(child, str):
                found.setdefault(cell["id"], {})[child] = None
        parent = cell.get("parent")
        if isinstance(parent, str) and parent:
            found.setdefault(parent, {})[cell["id"]] = None
    return {cell_id: list(children) for cell_id, children in found.items()}


def _text_of(cell: Json) -> str | None:
    """The text in a cell's or a label's attributes."""
    for key in ("attrs", "text", "text"):
        cell = cell.get(key) if isinstance(cell, dict) else None
    return cell if isinstance(cell, str) else None


def _labels(texts: Iterable[str | None]) -> list[str]:
    return [text[:_LABEL_MAX] for text in texts if text][:_LABELS_MAX]


def _data(cell: Cell) -> Mapping[str, Json]:
    data = cell.get("data")
    return data if isinstance(data, dict) else {}


def _metadata(data: Mapping[str, Json]) -> dict[str, str]:
    entries = data.get("_metadata")
    return {
        entry["key"]: entry["value"]
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, dict)
        and isinstance(entry.get("key"), str)
        and isinstance(entry.get("value"), str)
    }


def _assets(data: Mapping[str, Json]) -> list[str]:
    assets = data.get("data_assets")
    return [a for a in assets if isinstance(a, str)][:_ASSETS_MAX] if isinstance(assets, list) else []


def _end(cell: Cell, name: str) -> dict[str, str] | None:
    end = cell.get(name)
    if not isinstance(end, dict) or not isinstance(end.get("cell"), str):
        return None
    port = end.get("port")
    return {"cell": end["cell"], **({"port": port} if isinstance(port, str) else {})}


# --- formats --------------------------------------------------------------------------------------


def plain(value: Json) -> Json:
    """Times and ids as text."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def as_yaml(model: Mapping[str, Json]) -> bytes:
    """The model in YAML 1.1's safe part."""
    return yaml.dump(
        plain(model), Dumper=_Dumper, encoding="utf-8", allow_unicode=True, sort_keys=False, width=1000
    )


class _Dumper(yaml.SafeDumper):
    """Without anchors, which few readers of small files expect."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write everything out."""
        return True


def as_graphml(model: Mapping[str, Json]) -> bytes:
    """The model as a directed graph; what is no text or flag is JSON, metadata an attribute for each key."""
    graph = _Graph()
    for name in ("id", "name", "description"):
        graph.tell(graph.element, "graph", name, model[name])
    _tell_metadata(graph, graph.element, "graph", model["metadata"])
    graph.tell(graph.element, "graph", "assets", plain(model["assets"]))
    nodes = {cell["id"] for cell in model["cells"] if cell["shape"] in NODES}
    for cell in model["cells"]:
        if cell["shape"] in NODES:
            element = graph.add("node", {"id": _xml(cell["id"])})
            names = ("shape", "parent", "children", "security_boundary", "data_asset_ids")
            _tell(graph, element, "node", cell, names)
        elif cell["source"]["cell"] in nodes and cell["target"]["cell"] in nodes:
            ends = {end: _xml(cell[end]["cell"]) for end in ("source", "target")}
            element = graph.add("edge", {"id": _xml(cell["id"]), **ends})
            ports = {f"{end}_port": cell[end].get("port") for end in ("source", "target")}
            _tell(graph, element, "edge", {**cell, **ports}, ("shape", *ports, "data_asset_ids"))
    return graph.written()


def _tell(graph: "_Graph", element: ET.Element, of: str, cell: Cell, names: Iterable[str]) -> None:
    graph.tell(element, of, "label", "\n".join(cell["labels"]))
    for name in names:
        if cell[name] not in (None, []):
            graph.tell(element, of, name, cell[name])
    _tell_metadata(graph, element, of, cell["metadata"])


def _tell_metadata(graph: "_Graph", element: ET.Element, of: str, metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        graph.tell(element, of, f"metadata.{key}", value)


class _Graph:
    """A GraphML document that grows; attributes are declared as they come up."""

    def __init__(self) -> None:
        self._root = ET.Element(
            "graphml", {"xmlns": _NAMESPACE, "xmlns:xsi": _XSI, "xsi:schemaLocation": _SCHEMA}
        )
        self.element = ET.Element("graph", {"id": "G", "edgedefault": "directed"})
        self._keys: dict[tuple[str, str], str] = {}

    def add(self, tag: str, attributes: dict[str, str]) -> ET.Element:
        """A node or an edge."""
        return ET.SubElement(self.element, tag, attributes)

    def tell(self, element: ET.Element, of: str, name: str, value: Json) -> None:
        """An attribute of an element of a kind."""
        key = self._keys.get((of, name))
        if key is None:
            key = self._keys[of, name] = f"d{len(self._keys)}"
            type_ = "boolean" if isinstance(value, bool) else "string"
            declared = {"id": key, "for": of, "attr.name": _xml(name), "attr.type": type_}
            ET.SubElement(self._root, "key", declared)
        if isinstance(value, bool):
            text = "true" if value else "false"
        else:
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
        ET.SubElement(element, "data", {"key": key}).text = _xml(text)

    def written(self) -> bytes:
        """The document; keys come before the graph."""
        self._root.append(self.element)
        written: bytes = ET.tostring(self._root, encoding="utf-8", xml_declaration=True)
        return written


_XSI = "http://www.w3.org/2001/XMLSchema-instance"


def _xml(text: str) -> str:
    """Without what XML 1.0 cannot hold, written however."""
    return _NO_XML.sub("\ufffd", text)
