"""Diagrams for analysis, in three formats."""

import io
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import networkx as nx  # type: ignore[import-untyped]
import pytest
import yaml
from pycrdt import Map

from crdt.messages import Update
from persistence.memory.store import MemoryStore
from tests.rest import over_memory
from tests.unit.api.test_diagram_edits import Diagram, node

Json = Any


@pytest.fixture
async def diagram() -> AsyncIterator[Diagram]:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        yield await Diagram(rest, store).prepare()


async def get(diagram: Diagram, query: str = "", accept: str = "") -> tuple[int, str, bytes]:
    headers = {"Accept": accept} if accept else {}
    answer = await diagram.rest.call("GET", f"{diagram.path}/model{query}", diagram.token, headers=headers)
    return answer.status, answer.headers["Content-Type"].partition(";")[0], answer.data


async def drawn(diagram: Diagram) -> tuple[Json, Json, Json, Json, str]:
    """A boundary with a process and its text, a store, a flow; the process refers to an asset."""
    models = diagram.path.split("/diagrams")[0]
    asset = {"name": "Cards", "type": "data"}
    made = (await diagram.rest.call("POST", f"{models}/assets", diagram.token, json_body=asset)).json
    boundary = node(shape="security-boundary", attrs={"text": {"text": 'DMZ <1> & "2"'}})
    data = {"_metadata": [{"key": "team", "value": "ü"}], "data_assets": [made["id"]]}
    process = node(parent=boundary["id"], attrs={"text": {"text": "Web"}}, data=data)
    text = node(shape="text-box", parent=process["id"], attrs={"text": {"text": "on port 443"}})
    store = node(shape="store", data={"security_boundary": True})
    flow = {
        "id": str(uuid4()),
        "shape": "flow",
        "source": {"cell": process["id"], "port": "right"},
        "target": {"cell": store["id"]},
        "labels": [{"attrs": {"text": {"text": "SQL"}}}],
        "vertices": [{"x": 1, "y": 2}],
    }
    answer = await diagram.put(boundary, process, text, store, flow)
    assert 200 == answer.status, answer.data
    return boundary, process, store, flow, made["id"]


async def test_json_has_what_is_connected_and_nothing_of_its_looks(diagram: Diagram) -> None:
    boundary, process, store, flow, asset = await drawn(diagram)
    status, media_type, body = await get(diagram)
    assert (200, "application/json") == (status, media_type)
    model = json.loads(body)
    assert ("Shop", "") == (model["name"], model["description"])
    cells = {cell["id"]: cell for cell in model["cells"]}
    assert [process["id"]] == cells[boundary["id"]]["children"]
    assert {
        "id": process["id"],
        "shape": "process",
        "parent": boundary["id"],
        "children": cells[process["id"]]["children"],
        "labels": ["Web", "on port 443"],
        "metadata": {"team": "ü"},
        "security_boundary": False,
        "data_asset_ids": [asset],
    } == cells[process["id"]]
    assert (True, True) == (
        cells[boundary["id"]]["security_boundary"],
        cells[store["id"]]["security_boundary"],
    )
    assert {
        "id": flow["id"],
        "shape": "flow",
        "source": {"cell": process["id"], "port": "right"},
        "target": {"cell": store["id"]},
        "labels": ["SQL"],
        "metadata": {},
        "data_asset_ids": [],
    } == cells[flow["id"]]
    assert [(asset, "Cards")] == [(shown["id"], shown["name"]) for shown in model["assets"]]


async def test_yaml_says_the_same_as_json(diagram: Diagram) -> None:
    await drawn(diagram)
    _, _, in_json = await get(diagram)
    for query, accept in (("?format=yaml", ""), ("", "application/yaml")):
        status, media_type, body = await get(diagram, query, accept)
        assert (200, "application/yaml") == (status, media_type)
        assert json.loads(in_json) == yaml.safe_load(body)


async def test_graphml_is_read_by_networkx(diagram: Diagram) -> None:
    boundary, process, store, flow, _ = await drawn(diagram)
    status, media_type, body = await get(diagram, accept="application/graphml+xml, application/json;q=0.5")
    assert (200, "application/graphml+xml") == (status, media_type)
    graph = nx.read_graphml(io.BytesIO(body))
    assert graph.is_directed()
    assert 4 == len(graph)
    assert 'DMZ <1> & "2"' == graph.nodes[boundary["id"]]["label"]
    assert ("ü", boundary["id"], False) == (
        graph.nodes[process["id"]]["metadata.team"],
        graph.nodes[process["id"]]["parent"],
        graph.nodes[process["id"]]["security_boundary"],
    )
    edge = graph.edges[process["id"], store["id"]]
    assert (flow["id"], "SQL", "right") == (edge["id"], edge["label"], edge["source_port"])
    assert "Shop" == graph.graph["name"]


async def test_what_editors_wrote_oddly_makes_no_bad_document(diagram: Diagram) -> None:
    editor = await diagram.open()
    before = editor.doc.get_state()
    odd: dict[str, Json] = {
        "a\x0bb": {"shape": "actor", "attrs": {"text": {"text": "x\x00\ud7ff\ufffe]]>"}}},
        "star": {"shape": "star"},
        "loose": {"shape": "flow", "source": {"x": 1}, "target": {"cell": "a"}},
        "gone": {"shape": "flow", "source": {"cell": "a\x0bb"}, "target": {"cell": "nowhere"}},
        "list": {"shape": "store", "attrs": [1], "data": 7, "children": 3, "labels": "x", "parent": 9},
    }
    for key, cell in odd.items():
        editor.cells[key] = Map(cell)
    assert editor.session is not None
    editor.session.receive(Update(editor.doc.get_update(before)))
    for format_ in ("json", "yaml", "graphml"):
        status, _, body = await get(diagram, f"?format={format_}")
        assert 200 == status
        if format_ == "graphml":
            graph = nx.read_graphml(io.BytesIO(body))
            assert {"a\ufffdb", "list"} == set(graph)
        else:
            model = json.loads(body) if format_ == "json" else yaml.safe_load(body)
            shown = {cell["id"] for cell in model["cells"]}
            assert {"a\x0bb", "gone", "list"} == shown


async def test_formats_that_there_are_not(diagram: Diagram) -> None:
    assert 400 == (await get(diagram, "?format=xml"))[0]
    assert 406 == (await get(diagram, accept="text/html"))[0]
