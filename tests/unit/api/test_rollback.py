"""Rollback of threat models, diagrams and children to an entry of the trail."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from crdt.messages import Update
from persistence.memory.store import MemoryStore
from tests.rest import Json, RestClient, over_memory, user_grant
from tests.unit.api.test_diagram_edits import Diagram
from tests.unit.rooms.conftest import until
from tmi.domain.events import IMAGE_MAX_BYTES


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
async def rest(store: MemoryStore) -> AsyncIterator[RestClient]:
    async with over_memory(store=store) as client:
        yield client


def node(n: int, label: str) -> dict[str, Json]:
    return {
        "id": f"00000000-0000-4000-8000-{n:012}", "shape": "process",
        "x": n, "y": 0, "width": 80, "height": 40,
        "attrs": {"text": {"text": label}},
    }  # fmt: skip


async def trail(rest: RestClient, token: str, path: str) -> list[Json]:
    """The entries of an object, oldest first."""
    answer = await rest.call("GET", f"{path}/audit_trail", token)
    assert 200 == answer.status, answer.data
    return list(reversed(answer.json["audit_entries"]))


async def roll_back(rest: RestClient, token: str, model: str, entry: Json) -> Json:
    path = f"/threat_models/{model}/audit_trail/{entry['id']}/rollback"
    answer = await rest.call("POST", path, token)
    assert 200 == answer.status, answer.data
    return answer.json


async def test_a_threat_model_is_rolled_back_but_for_its_roles(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    created = await rest.create_model(
        alice, user_grant("bob", "writer"), user_grant("eve", "owner"), description="Text"
    )
    model = created["id"]
    await rest.patch(alice, model, {"op": "replace", "path": "/name", "value": "New"})
    await rest.patch(alice, model, {"op": "remove", "path": "/description"})
    await rest.patch(alice, model, {"op": "remove", "path": "/authorization/2"})

    path = f"/threat_models/{model}"
    first = (await trail(rest, alice, path))[0]
    made = await roll_back(rest, bob, model, first)
    now = (await rest.call("GET", path, alice)).json
    assert ("Shop", "Text", 5) == (now["name"], now["description"], now["version"])
    assert ["alice@tmi.local", "bob@tmi.local"] == [a["provider_id"] for a in now["authorization"]]
    assert made["restored_entity"].items() <= now.items()
    entry = made["audit_entry"]
    assert ("rolled_back", "threat_model", 5, "bob@tmi.local") == (
        entry["change_type"], entry["object_type"], entry["version"], entry["actor"]["email"],
    )  # fmt: skip
    assert entry == (await trail(rest, alice, path))[-1]


async def test_a_rollback_can_be_rolled_back(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    await rest.patch(alice, model, {"op": "replace", "path": "/name", "value": "New"})
    first, second = await trail(rest, alice, f"/threat_models/{model}")
    await roll_back(rest, alice, model, first)
    assert "New" == (await roll_back(rest, alice, model, second))["restored_entity"]["name"]


async def test_a_child_is_rolled_back_with_its_metadata(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    notes = f"/threat_models/{model}/notes"
    body = {"name": "Note", "content": "first"}
    answer = await rest.call("POST", notes, alice, json_body=body)
    assert 201 == answer.status, answer.data
    note = answer.json
    path = f"{notes}/{note['id']}"
    first, second = [{"key": "k", "value": "1"}], [{"key": "k", "value": "2"}]
    assert 201 == (await rest.call("POST", f"{path}/metadata", alice, json_body=first[0])).status
    changed = {"name": "Other", "content": "second"}
    assert 200 == (await rest.call("PUT", path, alice, json_body=changed)).status
    answer = await rest.call("PUT", f"{path}/metadata/k", alice, json_body={"value": "2"})
    assert 200 == answer.status, answer.data
    assert second == (await rest.call("GET", path, alice)).json["metadata"]

    made = await roll_back(rest, alice, model, (await trail(rest, alice, path))[1])
    now = (await rest.call("GET", path, alice)).json
    assert (body | {"metadata": first}).items() <= now.items()
    assert now == made["restored_entity"]
    assert "rolled_back" == (await trail(rest, alice, path))[-1]["change_type"]

    entry = (await trail(rest, alice, path))[1]
    await rest.call("DELETE", path, alice)
    refused = f"/threat_models/{model}/audit_trail/{entry['id']}/rollback"
    assert 404 == (await rest.call("POST", refused, alice)).status


async def test_a_diagram_is_rolled_back_by_an_edit_of_the_live_document(
    rest: RestClient, store: MemoryStore
) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    path = f"/threat_models/{model}/diagrams/{diagram}"

    async def put(name: str, *cells: Json) -> None:
        body = {"name": name, "type": "DFD-1.0.0", "cells": list(cells)}
        answer = await rest.call("PUT", path, alice, json_body=body)
        assert 200 == answer.status, answer.data

    async def shown() -> tuple[str, dict[str, str], int]:
        now = (await rest.call("GET", path, alice)).json
        labels = {cell["id"][-1]: cell["attrs"]["text"]["text"] for cell in now["cells"]}
        return now["name"], labels, now["update_vector"]

    await put("One", node(1, "a"), node(2, "b"))
    await put("Two", node(1, "c"), node(3, "d"))
    created, one, two = await trail(rest, alice, path)
    assert ("Two", {"1": "c", "3": "d"}, 2) == await shown()

    made = await roll_back(rest, alice, model, one)
    assert ("One", {"1": "a", "2": "b"}, 3) == await shown()
    assert (3, 3) == (made["audit_entry"]["update_vector"], made["restored_entity"]["update_vector"])
    await roll_back(rest, alice, model, created)
    assert ("Flow", {}, 4) == await shown()
    await roll_back(rest, alice, model, two)
    assert ("Two", {"1": "c", "3": "d"}, 5) == await shown()

    # Long after, when it would be told of edits that nobody has told of yet, each of these has its own entry.
    store.logs[next(iter(store.logs))].times[:] = [store.clock() - timedelta(minutes=5)] * 5
    changes = [entry["change_type"] for entry in await trail(rest, alice, path)]
    assert ["created", "updated", "updated", *["rolled_back"] * 3] == changes


async def test_a_rollback_takes_out_colors_that_were_not_there_and_pictures_of_other_cells(
    rest: RestClient,
) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    path = f"/threat_models/{model}/diagrams/{diagram}"
    colors = [{"position": 1, "color": "#aabbcc"}]
    body = {"name": "One", "type": "DFD-1.0.0", "cells": [node(1, "a")], "color_palette": colors}
    picture = {"svg": "PHN2Zz4="}
    assert 200 == (await rest.call("PUT", path, alice, json_body={**body, "image": picture})).status
    renamed = {"op": "replace", "path": "/name", "value": "Two"}
    patch = "application/json-patch+json"
    answer = await rest.call("PATCH", path, alice, json_body=[renamed], content_type=patch)
    assert 200 == answer.status, answer.data
    created, one, _ = await trail(rest, alice, path)

    await roll_back(rest, alice, model, one)  # the same cells: the picture shows them
    now = (await rest.call("GET", path, alice)).json
    assert ("One", colors, picture["svg"]) == (now["name"], now["color_palette"], now["image"]["svg"])
    await roll_back(rest, alice, model, created)
    now = (await rest.call("GET", path, alice)).json
    assert ([], None, None) == (now["cells"], now.get("color_palette"), now.get("image"))
    await roll_back(rest, alice, model, one)
    now = (await rest.call("GET", path, alice)).json
    assert (colors, picture["svg"]) == (now["color_palette"], now["image"]["svg"])


async def test_a_picture_is_brought_back_with_its_cells_alone(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    path = f"/threat_models/{model}/diagrams/{(await rest.create_diagram(alice, model))['id']}"
    body = {"name": "One", "type": "DFD-1.0.0", "cells": [node(1, "a")], "image": {"svg": "PHN2Zz4="}}
    assert 200 == (await rest.call("PUT", path, alice, json_body=body)).status
    renamed = [{"op": "replace", "path": "/name", "value": "Two"}]
    patch = "application/json-patch+json"
    assert 200 == (await rest.call("PATCH", path, alice, json_body=renamed, content_type=patch)).status
    cell, svg = node(2, "b"), "PHN2Lz4="
    new = {"name": "Now", "type": "DFD-1.0.0", "cells": [cell], "image": {"svg": svg}}
    assert 200 == (await rest.call("PUT", path, alice, json_body=new)).status
    _, one, two, _ = await trail(rest, alice, path)
    assert ["cells, image, name", "name"] == [entry["change_summary"] for entry in (one, two)]

    await roll_back(rest, alice, model, two)
    now = (await rest.call("GET", path, alice)).json
    assert ("Two", svg) == (now["name"], now["image"]["svg"])
    assert [cell["id"]] == [shown["id"] for shown in now["cells"]]
    await roll_back(rest, alice, model, one)
    now = (await rest.call("GET", path, alice)).json
    assert ("One", {"svg": "PHN2Zz4=", "update_vector": 0}) == (now["name"], now["image"])


async def test_a_large_picture_is_not_brought_back(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    diagram = (await rest.create_diagram(alice, model))["id"]
    path = f"/threat_models/{model}/diagrams/{diagram}"
    svg = base64.b64encode(b"<svg>" + b" " * IMAGE_MAX_BYTES + b"</svg>").decode()
    body = {"name": "One", "type": "DFD-1.0.0", "cells": [node(1, "a")], "image": {"svg": svg}}
    assert 200 == (await rest.call("PUT", path, alice, json_body=body)).status
    small = "PHN2Zz4="
    changed = {**body, "cells": [node(2, "b")], "image": {"svg": small}}
    assert 200 == (await rest.call("PUT", path, alice, json_body=changed)).status
    _, one, two = await trail(rest, alice, path)
    image = {"bytes": len(svg), "update_vector": 0}
    assert {"op": "add", "path": "/image", "value": image} in one["changes"]
    await roll_back(rest, alice, model, one)
    assert "image" not in (await rest.call("GET", path, alice)).json
    await roll_back(rest, alice, model, two)
    assert small == (await rest.call("GET", path, alice)).json["image"]["svg"]


async def test_edits_in_an_editor_are_rolled_back_to_with_the_name_and_metadata_of_then(
    rest: RestClient, store: MemoryStore
) -> None:
    diagram = await Diagram(rest, store).prepare()
    metadata = [{"key": "k", "value": "1"}]
    cell = node(1, "a")
    answer = await diagram.put(cell, name="Then", description="Text", metadata=metadata, timmy_enabled=False)
    assert 200 == answer.status, answer.data
    editor = await diagram.open()
    await until(lambda: cell["id"] in editor.cells)
    before = editor.doc.get_state()
    editor.cells[cell["id"]]["angle"] = 45
    assert editor.session is not None
    editor.session.receive(Update(editor.doc.get_update(before)))
    log = store.logs[diagram.id]
    await until(lambda: len(log.rows) == 2)
    # All of that was some minutes ago.
    for number, event in store.events.items():
        store.events[number] = replace(event, at=event.at - timedelta(minutes=10))
    log.times[:] = [at - timedelta(minutes=5) for at in log.times]
    answer = await diagram.put(node(2, "b"), name="Now", metadata=[])
    assert 200 == answer.status, answer.data

    (edited,) = [e for e in await trail(rest, diagram.token, diagram.path) if e["change_type"] == "patched"]
    assert (2, "1 edit of cells") == (edited["update_vector"], edited["change_summary"])
    await roll_back(rest, diagram.token, diagram.path.split("/")[2], edited)
    now = await diagram.get()
    assert ("Then", "Text", False, metadata) == (
        now["name"], now["description"], now["timmy_enabled"], now["metadata"],
    )  # fmt: skip
    assert [(cell["id"], 45)] == [(shown["id"], shown["angle"]) for shown in now["cells"]]


async def test_a_child_is_rolled_back_without_what_it_named_and_what_is_gone_since(
    rest: RestClient, store: MemoryStore
) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    path = f"/threat_models/{model}"
    diagram = (await rest.create_diagram(alice, model))["id"]
    answer = await rest.call("POST", f"{path}/assets", alice, json_body={"name": "Cards", "type": "data"})
    asset = answer.json["id"]
    body = {"name": "Theft", "threat_type": ["Spoofing"], "asset_id": asset, "diagram_id": diagram}
    answer = await rest.call("POST", f"{path}/threats", alice, json_body=body)
    threat = f"{path}/threats/{answer.json['id']}"
    other = {"name": "Other", "threat_type": ["Tampering"]}
    assert 200 == (await rest.call("PUT", threat, alice, json_body=other)).status
    assert 204 == (await rest.call("DELETE", f"{path}/assets/{asset}", alice)).status
    assert 1 == await rest.services.bin.purge(store.clock() + timedelta(days=1), 10)

    made = await roll_back(rest, alice, model, (await trail(rest, alice, threat))[0])
    now = (await rest.call("GET", threat, alice)).json
    assert ("Theft", ["Spoofing"], diagram) == (now["name"], now["threat_type"], now["diagram_id"])
    assert "asset_id" not in now
    assert (now, ["asset_id"]) == (made["restored_entity"], made["left_out"])
    told = "diagram_id, name, threat_type; left out, since it is not there any more: asset_id"
    assert told == made["audit_entry"]["change_summary"]
    again = await roll_back(rest, alice, model, (await trail(rest, alice, threat))[1])
    assert "left_out" not in again


async def test_an_entry_whose_state_is_past_its_retention_is_gone(
    rest: RestClient, store: MemoryStore
) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    later = store.clock() + timedelta(days=1)
    await rest.services.trail.purge(later - timedelta(days=9), later, 10)
    (entry,) = await trail(rest, alice, f"/threat_models/{model}")
    assert "version" not in entry
    path = f"/threat_models/{model}/audit_trail/{entry['id']}/rollback"
    assert 410 == (await rest.call("POST", path, alice)).status


async def test_an_entry_of_another_threat_model_cannot_be_rolled_back_to(rest: RestClient) -> None:
    alice, eve = await rest.sign_in("alice"), await rest.sign_in("eve")
    model, own = (await rest.create_model(alice))["id"], (await rest.create_model(eve))["id"]
    (entry,) = await trail(rest, alice, f"/threat_models/{model}")
    path = f"/threat_models/{own}/audit_trail/{entry['id']}/rollback"
    assert 404 == (await rest.call("POST", path, eve)).status
