"""Threat models as files: out of PostgreSQL and into it, with all that is in them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from persistence.postgres.archive import COLUMNS, PostgresArchives
from persistence.postgres.audit import PostgresAudit
from persistence.postgres.bin import PostgresBin
from persistence.postgres.cell_edits import PostgresCellEdits
from persistence.postgres.database import PostgresDatabase
from tests.rest import RestClient, over_postgres, user_grant
from tests.unit.api.test_diagram_edits import node
from tmi.archive import exported, imported
from tmi.domain.errors import BadInput, Conflict, NotFound
from tmi.domain.ids import ThreatModelId
from tmi.domain.kinds import KINDS
from tmi.domain.ports import AuditFilter

Json = Any
LOG = """
SELECT seq, author, origin, created_at, data FROM diagram_updates WHERE diagram_id = $1 ORDER BY seq
"""
KEPT = """
SELECT count(*) FROM events e JOIN event_states s ON s.number = e.number WHERE threat_model_id = $1
"""
PATCH = "application/json-patch+json"
RENAME = {"op": "replace", "path": "/name", "value": "New"}


class House:
    """A service with one threat model, and its files."""

    def __init__(self, rest: RestClient, database: PostgresDatabase) -> None:
        self.rest, self.database = rest, database
        self.archives = PostgresArchives(database)
        self.token = self.model = self.diagram = self.asset = ""

    async def call(self, method: str, path: str, body: Json = ..., **more: Any) -> Json:
        answer = await self.rest.call(method, path, self.token, json_body=body, **more)
        assert answer.status < 300, answer.data
        return answer.json if answer.data else None

    async def furnish(self) -> "House":
        self.token = await self.rest.sign_in("alice")
        metadata = [{"key": "k", "value": "ü"}]
        model = await self.rest.create_model(self.token, user_grant("bob", "writer"), metadata=metadata)
        self.model = model["id"]
        path = f"/threat_models/{self.model}"
        self.asset = (await self.call("POST", f"{path}/assets", {"name": "Cards", "type": "data"}))["id"]
        self.diagram = (await self.rest.create_diagram(self.token, self.model))["id"]
        cell = node(data={"data_assets": [self.asset]})
        put = {"name": "Flow", "type": "DFD-1.0.0", "cells": [cell, node()], "image": {"svg": "PHN2Zz4="}}
        await self.call("PUT", f"{path}/diagrams/{self.diagram}", put)
        more = [{"op": "add", "path": "/cells/-", "value": node(shape="store")}]
        await self.call("PATCH", f"{path}/diagrams/{self.diagram}", more, content_type=PATCH)
        threat = {
            "name": "Theft",
            "threat_type": ["Spoofing"],
            "diagram_id": self.diagram,
            "asset_id": self.asset,
            "cell_id": cell["id"],
        }
        await self.call("POST", f"{path}/threats", threat)
        await self.call("POST", f"{path}/notes", {"name": "N", "content": "# Long\n\ntext"})
        return self

    async def everything(self, model: str) -> Json:
        path = f"/threat_models/{model}"
        found: dict[str, Json] = {"model": await self.call("GET", path)}
        for plural in (*(kind.plural for kind in KINDS), "diagrams"):
            listed = (await self.call("GET", f"{path}/{plural}"))[plural]
            found[plural] = [await self.call("GET", f"{path}/{plural}/{one['id']}") for one in listed]
        return found

    async def log(self, diagram: str) -> Json:
        return [tuple(row.values()) for row in await self.database.read(LOG, UUID(diagram))]

    async def export(self, *, history: bool = False, deleted: bool = False) -> bytes:
        model = ThreatModelId(UUID(self.model))
        return await exported(self.archives, model, history=history, deleted=deleted)

    async def forget(self) -> None:
        """All that happened."""
        await self.database.fetch("DELETE FROM event_states")
        await self.database.fetch("DELETE FROM events")

    async def destroy(self) -> None:
        await self.call("DELETE", f"/threat_models/{self.model}")
        # The room of its diagram, if it is open, ends first.
        await asyncio.sleep(0.1)
        assert await PostgresBin(self.database).purge(datetime.now(UTC) + timedelta(days=1), 1000)


@pytest.fixture
async def house(database: PostgresDatabase) -> AsyncIterator[House]:
    async with over_postgres(database) as rest:
        yield await House(rest, database).furnish()


@pytest.mark.parametrize("history", [False, True])
async def test_what_was_exported_and_destroyed_is_imported_as_it_was(house: House, history: bool) -> None:
    before, log = await house.everything(house.model), await house.log(house.diagram)
    file = await house.export(history=history)
    await house.destroy()
    model, alias = await imported(house.archives, file, new_ids=False)
    assert (house.model, before["model"]["alias"]) == (str(model), alias)
    assert before == await house.everything(house.model)
    if history:
        assert log == await house.log(house.diagram)
    # It can be worked on.
    more = [{"op": "remove", "path": "/cells/0"}]
    path = f"/threat_models/{house.model}/diagrams/{house.diagram}"
    after = await house.call("PATCH", path, more, content_type=PATCH)
    assert before["diagrams"][0]["update_vector"] + 1 == after["update_vector"]
    made = await house.call("POST", f"/threat_models/{house.model}/assets", {"name": "b", "type": "data"})
    assert 2 == made["alias"]


async def test_with_history_the_trail_comes_along(house: House) -> None:
    file = json.loads(await house.export(history=True))
    (before,) = (await house.database.read(KEPT, UUID(house.model)))[0].values()
    assert before == sum(event["state"] is not None for event in file["events"]) >= 5
    await house.destroy()
    await house.database.fetch("DELETE FROM event_states")
    await house.database.fetch("DELETE FROM events")
    await imported(house.archives, json.dumps(file).encode(), new_ids=False)
    assert before == (await house.database.read(KEPT, UUID(house.model)))[0]["count"]


async def test_what_is_deleted_comes_along_if_that_is_wanted_and_nothing_is_lost(house: House) -> None:
    path = f"/threat_models/{house.model}"
    drawn = (await house.rest.create_diagram(house.token, house.model))["id"]
    put = {"name": "Old", "type": "DFD-1.0.0", "cells": [node()]}
    await house.call("PUT", f"{path}/diagrams/{drawn}", put)
    note = (await house.call("POST", f"{path}/notes", {"name": "Old", "content": "**gone**"}))["id"]
    await house.call("PATCH", f"{path}/notes/{note}", [RENAME], content_type=PATCH)
    before = await house.everything(house.model)
    await house.call("DELETE", f"{path}/diagrams/{drawn}")
    await house.call("DELETE", f"{path}/notes/{note}")
    plain = json.loads(await house.export(history=True))
    file = json.loads(await house.export(history=True, deleted=True))
    assert [(1, 1), (2, 2)] == [(len(one["notes"]), len(one["diagrams"])) for one in (plain, file)]

    await house.destroy()
    await house.forget()
    told: list[str] = []
    await imported(house.archives, json.dumps(file).encode(), new_ids=False, tell=told.append)

    again = json.loads(await house.export(history=True, deleted=True))
    assert [] == told
    for one in (file, again):
        del one["exported_at"]
        for diagram in one["diagrams"]:
            del diagram["document"]  # the same document has several encodings; its cells and updates do not
    assert file == again
    for plural in ("notes", "diagrams"):
        assert 1 == (await house.call("GET", f"{path}/{plural}"))["total"]
    for plural, key in (("notes", note), ("diagrams", drawn)):
        await house.call("POST", f"{path}/{plural}/{key}/restore")
    after = await house.everything(house.model)
    assert before["diagrams"][1]["cells"] == after["diagrams"][1]["cells"]
    assert before["notes"][1]["content"] == after["notes"][1]["content"]
    more = [{"op": "remove", "path": "/cells/0"}]
    changed = await house.call("PATCH", f"{path}/diagrams/{drawn}", more, content_type=PATCH)
    assert ([], 2) == (changed["cells"], changed["update_vector"])


async def test_a_deleted_threat_model_is_exported_where_that_is_wanted_as_deleted(house: House) -> None:
    before = await house.everything(house.model)
    await house.call("DELETE", f"/threat_models/{house.model}")
    with pytest.raises(NotFound):
        await house.export()
    await asyncio.sleep(0.1)
    file = await house.export(deleted=True)
    assert await PostgresBin(house.database).purge(datetime.now(UTC) + timedelta(days=1), 1000)
    await imported(house.archives, file, new_ids=False)
    assert 0 == (await house.call("GET", "/threat_models"))["total"]
    await house.call("POST", f"/threat_models/{house.model}/restore")
    after = await house.everything(house.model)
    assert before["diagrams"][0]["cells"] == after["diagrams"][0]["cells"]
    assert before["threats"] == after["threats"]


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("old_trail", [False, True])
async def test_edits_in_open_editors_are_told_of_once_after_an_import(
    house: House, history: bool, old_trail: bool
) -> None:
    await house.database.fetch(
        "UPDATE diagram_updates SET origin = 1, created_at = created_at - interval '10 minutes'"
    )
    edits, model, now = PostgresCellEdits(house.database), ThreatModelId(UUID(house.model)), datetime.now(UTC)
    assert 1 <= await edits.tell_of(model, now)
    told = "SELECT count(*) FROM events WHERE id IN (SELECT id FROM events WHERE change_type = 'patched')"
    before = (await house.database.read(told))[0]["count"]
    file = await house.export(history=history)
    await house.destroy()
    if not old_trail:
        await house.database.fetch("DELETE FROM event_states")
        await house.database.fetch("DELETE FROM events")
    await imported(house.archives, file, new_ids=False)

    await edits.tell_of(model, now)

    after = (await house.database.read(told))[0]["count"]
    assert before == after or not history


@pytest.mark.parametrize("history", [False, True])
async def test_with_new_ids_it_is_here_twice_and_names_itself_alone(house: House, history: bool) -> None:
    before = await house.everything(house.model)
    model, alias = await imported(house.archives, await house.export(history=history), new_ids=True)
    after = await house.everything(str(model))
    assert before == await house.everything(house.model)
    assert before["model"]["alias"] + 1 == alias
    (threat,), (asset,), (diagram,) = after["threats"], after["assets"], after["diagrams"]
    assert (asset["id"], diagram["id"]) == (threat["asset_id"], diagram["id"])
    assert diagram["id"] == threat["diagram_id"]
    assert [asset["id"]] == diagram["cells"][0]["data"]["data_assets"]
    assert before["diagrams"][0]["cells"][1:] == diagram["cells"][1:]
    old = json.dumps(before)
    assert not any(key in old for key in (str(model), asset["id"], diagram["id"], threat["id"]))
    assert house.model not in json.dumps(after)


async def test_ids_that_are_taken_are_refused_and_nothing_is_stored(house: House) -> None:
    file = json.loads(await house.export())
    with pytest.raises(Conflict):
        await imported(house.archives, json.dumps(file).encode(), new_ids=False)
    file["threat_model"]["id"] = str(uuid4())
    with pytest.raises(Conflict):
        await imported(house.archives, json.dumps(file).encode(), new_ids=False)
    assert 1 == (await house.call("GET", "/threat_models"))["total"]


async def test_damaged_files_are_refused_in_words_and_nothing_is_stored(house: House) -> None:
    good = json.loads(await house.export(history=True))

    def changed(**fields: Json) -> bytes:
        return json.dumps({**good, **fields}).encode()

    diagram, threat, model = good["diagrams"][0], good["threats"][0], good["threat_model"]
    bad: dict[str, bytes] = {
        "no JSON": b"{",
        "no exported": b"[]",
        "version is 2": changed(version=2),
        "no owner": changed(authorization=[]),
        "no threat model in it": changed(threat_model=7),
        "damaged": changed(diagrams=[{}]),
        "no base64": changed(diagrams=[{**diagram, "document": "%"}]),
        "cannot be read": changed(diagrams=[{**diagram, "document": "AQID"}]),
        "gaps": changed(diagrams=[{**diagram, "updates": diagram["updates"][1:]}]),
        "does not lead": changed(diagrams=[{**diagram, "updates": diagram["updates"][:1]}]),
        "threats.0": changed(threats=[{**threat, "fields": {"name": "<b>", "threat_type": []}}]),
        "database refuses": changed(threat_model={**model, "created_at": "no day"}),
    }
    await house.destroy()
    for why, data in bad.items():
        with pytest.raises(BadInput, match=why):
            await imported(house.archives, data, new_ids=False)
    assert 0 == (await house.call("GET", "/threat_models"))["total"]
    with pytest.raises(NotFound):
        await house.export()


async def test_a_file_is_cleaned_as_what_clients_write_is(house: House) -> None:
    good = json.loads(await house.export(history=True))
    threat, note, diagram = good["threats"][0], good["notes"][0], good["diagrams"][0]
    unseen = "a\u202eb"
    hostile: list[dict[str, Json]] = [
        {"threat_model": {**good["threat_model"], "description": unseen}},
        {"threat_model": {**good["threat_model"], "metadata": {"k": unseen}}},
        {"threats": [{**threat, "fields": {**threat["fields"], "description": unseen}}]},
        {"threats": [{**threat, "metadata": {"k": unseen}}]},
        {"notes": [{**note, "content": unseen}]},
        {"diagrams": [{**diagram, "name": unseen}]},
        {"authorization": [{**good["authorization"][0], "display_name": unseen}]},
    ]
    await house.destroy()
    for fields in hostile:
        with pytest.raises(BadInput, match=r"U\+202E"):
            await imported(house.archives, json.dumps({**good, **fields}).encode(), new_ids=False)
    script = {
        "threat_model": {**good["threat_model"], "name": "Shop<script>alert(1)</script>"},
        "notes": [{**note, "content": "text <img src=x onerror=alert(1)> **bold**"}],
        "threats": [{**threat, "fields": {**threat["fields"], "mitigation": "<script>x</script>care"}}],
    }
    links = {**good["threat_model"], "issue_uri": "javascript:alert(1)"}
    with pytest.raises(BadInput, match="issue_uri"):
        await imported(house.archives, json.dumps({**good, "threat_model": links}).encode(), new_ids=False)
    await imported(house.archives, json.dumps({**good, **script}).encode(), new_ids=False)
    found = await house.everything(house.model)
    assert "Shop" == found["model"]["name"]
    assert 'text <img src="x"> **bold**' == found["notes"][0]["content"]
    assert "care" == found["threats"][0]["mitigation"]


async def test_past_states_in_a_file_are_cleaned_or_left_out_if_they_break_rules(house: House) -> None:
    path = f"/threat_models/{house.model}"
    (note,) = (await house.everything(house.model))["notes"]
    await house.call("PATCH", f"{path}/notes/{note['id']}", [RENAME], content_type=PATCH)
    await house.call("PATCH", path, [RENAME], content_type=PATCH)
    good = json.loads(await house.export(history=True))
    events = {(one["object_type"], one["change_type"]): one for one in good["events"]}
    script = "text <img src=x onerror=alert(1)> **bold**"
    events["note", "created"]["state"]["content"] = script
    events["threat_model", "created"]["state"]["name"] = "Old<script>alert(1)</script>"
    events["diagram", "updated"]["state"]["image"] = {"svg": "<script>", "update_vector": 0}
    events["threat", "created"]["state"]["description"] = "a\u202eb"
    events["asset", "created"]["state"] = ["no state"]
    events["threat_model", "patched"]["state"]["authorization"][0]["display_name"] = "a\u202eb"
    await house.destroy()
    await house.forget()
    told: list[str] = []
    await imported(house.archives, json.dumps(good).encode(), new_ids=False, tell=told.append)
    wrong = (
        ("asset", "created"), ("diagram", "updated"), ("threat", "created"), ("threat_model", "patched"),
    )  # fmt: skip
    places = [good["events"].index(events[key]) for key in wrong]
    assert [f"events.{at}" for at in sorted(places)] == [words.split()[0] for words in told]

    shown = {
        (one["object_type"], one["change_type"]): one
        for one in (await house.call("GET", f"{path}/audit_trail?limit=100"))["audit_entries"]
    }
    assert not {"version", "changes"} & shown["threat", "created"].keys()
    for key in (("note", "created"), ("threat_model", "created")):
        await house.call("POST", f"{path}/audit_trail/{shown[key]['id']}/rollback")
    after = await house.everything(house.model)
    assert ("Old", 'text <img src="x"> **bold**') == (after["model"]["name"], after["notes"][0]["content"])

    for field, value in (("change_type", "hacked"), ("object_type", "user"), ("summary", "a\u202eb")):
        bad = {**good, "events": [{**good["events"][0], field: value}]}
        with pytest.raises(BadInput, match=r"events\.0"):
            await imported(house.archives, json.dumps(bad).encode(), new_ids=False)


async def tmi(database_url: str, *arguments: str) -> tuple[int, str, str]:
    """The command, as an operator runs it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tmi.cli", *arguments),
        env={**os.environ, "TMI_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_the_commands(house: House, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "model.json"
    assert (0, "", "") == await tmi(database_url, "export", house.model, "-o", str(file), "--history")
    status, out, err = await tmi(database_url, "import", str(file))
    assert (1, "", 1) == (status, out, len(err.splitlines()))
    assert "is here already" in err
    alice = await house.rest.user_id("alice")
    named = await tmi(database_url, "users", "administrator", alice)
    assert "alice is an administrator.\n" == named[1]
    (shown,) = json.loads((await tmi(database_url, "users", "list", "--json"))[1])["users"]
    assert (alice, "alice@tmi.local", True) == (shown["internal_uuid"], shown["email"], shown["is_admin"])
    page = await PostgresAudit(house.database).page(AuditFilter(), 1, None, newer=False)
    assert [("group.member_added", alice)] == [(entry.what, entry.new) for entry in page.entries]


COLUMNS_OF = "SELECT column_name FROM information_schema.columns WHERE table_name = $1"
NOT_IN_FILES: dict[str, set[str]] = {
    "threat_models": {"charged_to"},
    "grants": {"model_alias", "is_living"},
    "children": set(),
    "diagrams": {"deleted_fence"},
    "diagram_updates": set(),
    "diagram_snapshots": {"created_at", "is_whole"},
    "events": {"number"},
}
"""What says where a row stands in this database, and nothing of what it means."""


async def test_no_column_is_forgotten(database: PostgresDatabase) -> None:
    for table, names in COLUMNS.items():
        there = {row["column_name"] for row in await database.read(COLUMNS_OF, table)}
        assert there == {*names} | NOT_IN_FILES[table], table
