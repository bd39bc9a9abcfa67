"""Rollback of threat models, diagrams and children to an entry of the trail."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from persistence.memory.store import MemoryStore
from tests.rest import Json, RestClient, over_memory, user_grant


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
    assert colors == (await rest.call("GET", path, alice)).json["color_palette"]


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
