"""The audit trail over REST."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import pytest

from persistence.memory.store import MemoryStore
from tests.rest import ADMINISTRATOR, Json, RestClient, over_memory, user_grant
from tmi.domain.ids import Seq
from tmi.domain.ports import LoggedUpdate, Origin


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def listed(rest: RestClient, token: str, path: str) -> Json:
    answer = await rest.call("GET", path, token)
    assert 200 == answer.status, answer.data
    return answer.json


def told(entries: Json) -> list[tuple[str, str, str]]:
    return [(e["object_type"], e["change_type"], e["actor"]["display_name"]) for e in entries]


async def test_the_trail_says_who_did_what_to_a_threat_model_and_its_diagrams(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    model = await rest.create_model(alice, user_grant("bob", "writer"))
    await rest.patch(bob, model["id"], {"op": "replace", "path": "/name", "value": "New"})
    diagram = await rest.create_diagram(bob, model["id"])
    await rest.call("DELETE", f"/threat_models/{model['id']}/diagrams/{diagram['id']}", alice)

    shown = await listed(rest, alice, f"/threat_models/{model['id']}/audit_trail")
    assert (4, 50) == (shown["total"], shown["limit"])
    assert {"next_cursor", "prev_cursor"}.isdisjoint(shown)
    assert [
        ("diagram", "deleted", "alice"),
        ("diagram", "created", "bob"),
        ("threat_model", "patched", "bob"),
        ("threat_model", "created", "alice"),
    ] == [(kind, change, who.lower()) for kind, change, who in told(shown["audit_entries"])]
    entry = shown["audit_entries"][2]
    assert ("name", 2, model["id"]) == (entry["change_summary"], entry["version"], entry["object_id"])
    actor = {"email": "bob@tmi.local", "provider": "tmi", "provider_id": "bob@tmi.local"}
    assert actor.items() <= entry["actor"].items()
    path = f"/threat_models/{model['id']}/audit_trail/{entry['id']}"
    assert entry == await listed(rest, bob, path)


async def test_each_entry_shows_by_a_json_patch_what_it_changed(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice, description="Text"))["id"]
    path = f"/threat_models/{model}"
    await rest.patch(alice, model, {"op": "remove", "path": "/description"})
    metadata = {"key": "k", "value": "1"}
    assert 201 == (await rest.call("POST", f"{path}/metadata", alice, json_body=metadata)).status
    note = {"name": "Note", "content": "x" * 20_000}
    answer = await rest.call("POST", f"{path}/notes", alice, json_body=note)
    assert 201 == answer.status, answer.data
    long, added, removed, created = (await listed(rest, alice, f"{path}/audit_trail"))["audit_entries"]

    test = {"op": "test", "path": "/description", "value": "Text"}
    assert [test, {"op": "replace", "path": "/description", "value": None}] == removed["changes"]
    assert [{"op": "add", "path": "/metadata/0", "value": metadata}] == added["changes"]
    assert {"op": "add", "path": "/name", "value": "Shop"} in created["changes"]
    assert {"add"} == {step["op"] for step in created["changes"]}
    assert {"op": "add", "path": "/name", "value": "Note"} in long["changes"]
    assert ["content"] == long["changes_omitted"]
    assert "changes_omitted" not in removed
    for entry in (long, removed):
        assert entry == await listed(rest, alice, f"{path}/audit_trail/{entry['id']}")
    of_note = await listed(rest, alice, f"{path}/notes/{answer.json['id']}/audit_trail")
    assert [long] == of_note["audit_entries"]


async def test_edits_of_cells_and_trails_of_administrators_show_no_changes(rest: RestClient) -> None:
    alice, admin = await rest.sign_in("alice"), await rest.sign_in(ADMINISTRATOR)
    model = await rest.create_model(alice)
    shown = await listed(rest, admin, f"/admin/audit/threat_models?threat_model_id={model['id']}")
    (entry,) = shown["entries"]
    assert entry == await listed(rest, admin, f"/admin/audit/threat_models/{entry['id']}")
    assert "changes" not in entry

    diagram = await rest.create_diagram(alice, model["id"])
    path = f"/threat_models/{model['id']}/diagrams/{diagram['id']}"
    node = {"id": str(uuid4()), "shape": "process", "x": 0, "y": 0, "width": 80, "height": 40}
    add = [{"op": "add", "path": "/cells/-", "value": node}]
    answer = await rest.call("PATCH", path, alice, json_body=add, content_type="application/json-patch+json")
    assert 200 == answer.status, answer.data
    patched, _ = (await listed(rest, alice, f"{path}/audit_trail"))["audit_entries"]
    assert ("cells", [], ["cells"]) == (
        patched["change_summary"],
        patched["changes"],
        patched["changes_omitted"],
    )
    rename = [{"op": "replace", "path": "/name", "value": "Other"}]
    await rest.call("PATCH", path, alice, json_body=rename, content_type="application/json-patch+json")
    renamed, *_ = (await listed(rest, alice, f"{path}/audit_trail"))["audit_entries"]
    assert "changes_omitted" not in renamed
    assert "Other" == renamed["changes"][-1]["value"]


async def test_the_trail_is_paged_by_cursor_and_filtered(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = await rest.create_model(alice)
    await rest.create_diagram(alice, model["id"])
    path = f"/threat_models/{model['id']}/audit_trail"
    first = await listed(rest, alice, f"{path}?limit=1")
    second = await listed(rest, alice, f"{path}?limit=1&cursor={first['next_cursor']}")
    assert ["diagram", "threat_model"] == [
        page["audit_entries"][0]["object_type"] for page in (first, second)
    ]
    assert "next_cursor" not in second
    back = await listed(rest, alice, f"{path}?limit=1&cursor={second['prev_cursor']}")
    assert first["audit_entries"] == back["audit_entries"]

    for query, total in (
        ("object_type=diagram", 1),
        ("change_type=created", 2),
        ("change_type=rolled_back", 0),
        ("actor_email=ALICE@tmi.local", 2),
        ("actor_email=bob@tmi.local", 0),
        ("created_after=2099-01-01T00:00:00Z", 0),
        ("created_before=2099-01-01T00:00:00Z", 2),
    ):
        assert total == (await listed(rest, alice, f"{path}?{query}"))["total"], query
    refused = "limit=0 limit=101 cursor=x object_type=user change_type=x offset=1 actor_email=x"
    for query in refused.split():
        assert 400 == (await rest.call("GET", f"{path}?{query}", alice)).status, query


async def test_the_trail_of_a_diagram_is_paged_by_offset_and_outlives_it(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = await rest.create_model(alice)
    diagram = await rest.create_diagram(alice, model["id"])
    path = f"/threat_models/{model['id']}/diagrams/{diagram['id']}"
    await rest.call("DELETE", path, alice)
    shown = await listed(rest, alice, f"{path}/audit_trail?limit=1&offset=1")
    assert (2, 1, 1) == (shown["total"], shown["limit"], shown["offset"])
    assert ["created"] == [e["change_type"] for e in shown["audit_entries"]]
    other = await rest.create_model(alice)
    elsewhere = f"/threat_models/{other['id']}/diagrams/{diagram['id']}/audit_trail"
    assert 404 == (await rest.call("GET", elsewhere, alice)).status


async def test_the_trail_of_one_diagram_tells_of_its_edits_alone() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        alice = await rest.sign_in("alice")
        model = (await rest.create_model(alice))["id"]
        diagrams = [(await rest.create_diagram(alice, model))["id"] for _ in range(2)]
        for log in store.logs.values():
            update = LoggedUpdate(Seq(1), None, Origin.UPDATE, b"")
            log.rows.append((log.fence, update))
            log.times.append(store.clock() - timedelta(minutes=5))
        path = f"/threat_models/{model}"
        assert 2 == (await listed(rest, alice, f"{path}/diagrams/{diagrams[0]}/audit_trail"))["total"]
        assert [1, 0] == [log.told for log in store.logs.values()]
        assert 5 == (await listed(rest, alice, f"{path}/audit_trail"))["total"]
        assert [1, 1] == [log.told for log in store.logs.values()]


async def test_a_diagram_whose_events_are_gone_has_an_empty_trail() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        alice = await rest.sign_in("alice")
        model = await rest.create_model(alice)
        diagram = await rest.create_diagram(alice, model["id"])
        store.events.clear()
        path = f"/threat_models/{model['id']}/diagrams"
        assert 0 == (await listed(rest, alice, f"{path}/{diagram['id']}/audit_trail"))["total"]
        assert 404 == (await rest.call("GET", f"{path}/{uuid4()}/audit_trail", alice)).status


async def test_an_entry_of_another_threat_model_is_not_found(rest: RestClient) -> None:
    alice, eve = await rest.sign_in("alice"), await rest.sign_in("eve")
    secret, own = await rest.create_model(alice), await rest.create_model(eve)
    entry = (await listed(rest, alice, f"/threat_models/{secret['id']}/audit_trail"))["audit_entries"][0]
    path = f"/threat_models/{own['id']}/audit_trail/{entry['id']}"
    assert 404 == (await rest.call("GET", path, eve)).status


async def test_administrators_see_all_trails(rest: RestClient) -> None:
    alice, bob, admin = [await rest.sign_in(name) for name in ("alice", "bob", ADMINISTRATOR)]
    first, second = await rest.create_model(alice), await rest.create_model(bob)
    path = "/admin/audit/threat_models"
    shown = await listed(rest, admin, path)
    assert [second["id"], first["id"]] == [e["threat_model_id"] for e in shown["entries"]]
    entry = shown["entries"][1]
    assert entry == await listed(rest, admin, f"{path}/{entry['id']}")
    assert [entry] == (await listed(rest, admin, f"{path}?threat_model_id={first['id']}"))["entries"]
    assert [entry] == (await listed(rest, admin, f"{path}?around={entry['id']}"))["entries"]
    assert 0 == (await listed(rest, admin, f"{path}?actor_provider=corp"))["total"]
    assert 404 == (await rest.call("GET", f"{path}?around={uuid4()}", admin)).status
    assert 404 == (await rest.call("GET", f"{path}/{uuid4()}", admin)).status
