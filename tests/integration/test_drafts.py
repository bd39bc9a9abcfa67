"""Threat models that people write by hand, in the API's words, by `tmi import`."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from persistence.postgres.archive import PostgresArchives
from persistence.postgres.database import PostgresDatabase
from tests.integration.test_archive import tmi
from tests.rest import over_postgres
from tests.security.threat_model import SOURCE, load
from tmi import people
from tmi.archive import imported
from tmi.domain.errors import BadInput, NotFound

Json = Any


async def test_the_threat_model_of_this_service_is_imported_by_one_command(
    database: PostgresDatabase, database_url: str, tmp_path: Path
) -> None:
    async with over_postgres(database) as rest:
        alice = await rest.sign_in("alice")
        refused = await tmi(database_url, "import", str(SOURCE))
        assert (1, "") == refused[:2]
        assert "--owner" in refused[2]
        status, out, err = await tmi(database_url, "import", str(SOURCE), "--owner", "Alice@tmi.local")
        assert (0, "") == (status, err)
        model = out.split()[2]
        document, path = load(), f"/threat_models/{model}"
        shown = (await rest.call("GET", path, alice)).json
        assert document["threat_model"]["name"] == shown["name"]
        assert "alice@tmi.local" == shown["owner"]["email"] == shown["created_by"]["email"]
        (diagram,) = document["diagrams"]
        drawn = (await rest.call("GET", f"{path}/diagrams/{diagram['id']}", alice)).json
        assert [cell["id"] for cell in diagram["cells"]] == [cell["id"] for cell in drawn["cells"]]
        listed = (await rest.call("GET", f"{path}/threats?limit=100", alice)).json
        assert len(document["threats"]) == listed["total"]
        by_name = {threat["name"]: threat for threat in listed["threats"]}
        for threat in document["threats"]:
            kept = by_name[threat["name"]]
            wanted = {**threat, "metadata": sorted(threat["metadata"], key=lambda entry: str(entry["key"]))}
            assert wanted == {name: kept[name] for name in wanted}
        # It lives on like any other.
        new = {"name": "Another", "threat_type": ["Spoofing"], "diagram_id": diagram["id"]}
        made = await rest.call("POST", f"{path}/threats", alice, json_body=new)
        assert (201, len(document["threats"]) + 1) == (made.status, made.json["alias"])
        again = await tmi(database_url, "import", str(SOURCE), "--owner", "alice@tmi.local")
        assert "is here already" in again[2]
        twice = await tmi(database_url, "import", str(SOURCE), "--owner", "alice@tmi.local", "--new-ids")
        assert 0 == twice[0], twice[2]


async def test_a_bad_draft_is_refused_with_its_place(database: PostgresDatabase) -> None:
    async with over_postgres(database) as rest:
        await rest.sign_in("alice")
        alice = await people.by_email(rest.services.accounts, "alice@tmi.local")
        with pytest.raises(NotFound, match="tmi users list"):
            await people.by_email(rest.services.accounts, "lice@tmi.local")
        diagram = {"id": str(uuid4()), "name": "Flow", "type": "DFD-1.0.0", "cells": []}
        threat = {"name": "Theft", "threat_type": ["Spoofing"]}
        good = {"threat_model": {"name": "Shop"}, "diagrams": [diagram], "threats": [threat]}
        bad: dict[str, Json] = {
            "'riddles'": {"riddles": []},
            "threats is to be a list": {"threats": {}},
            r"threat_model: .*name": {"threat_model": {}},
            "leave authorization out": {
                "threat_model": {
                    "name": "Shop",
                    "authorization": [
                        {"principal_type": "user", "provider": "tmi", "provider_id": "x", "role": "reader"}
                    ],
                }
            },
            r"threats\.0: .*name": {"threats": [{"threat_type": []}]},
            r"threats\.0: diagram_id": {"threats": [{**threat, "diagram_id": str(uuid4())}]},
            r"diagrams\.0: .*type": {"diagrams": [{**diagram, "type": "UML"}]},
            r"diagrams\.0: .*image": {"diagrams": [{**diagram, "image": {"svg": ""}}]},
            r"diagrams\.0\.cells: .*cells\.0": {"diagrams": [{**diagram, "cells": [{"id": "x"}]}]},
            "no UUID": {"diagrams": [{**diagram, "id": "first"}]},
            "7' is no UUID": {"diagrams": [{**diagram, "id": 7}]},
            "cells is to be a list": {"diagrams": [{**diagram, "cells": None}]},
            "twice": {"diagrams": [diagram, diagram]},
            r"U\+202E": {"threats": [{**threat, "name": "a\u202eb"}]},
        }
        archives = PostgresArchives(database)
        for why, fields in bad.items():
            with pytest.raises(BadInput, match=why):
                await imported(archives, json.dumps(good | fields).encode(), new_ids=False, owner=alice)
        with pytest.raises(BadInput, match="leave the owner out"):
            await imported(archives, b'{"format": "tmi.threat-model"}', new_ids=False, owner=alice)
        assert 0 == (await rest.call("GET", "/threat_models", await rest.sign_in("alice"))).json["total"]
        named = {**threat, "diagram_id": diagram["id"]}
        loud = {**good, "diagrams": [{**diagram, "id": str(diagram["id"]).upper()}], "threats": [named]}
        for new_ids in (False, True, True):
            await imported(archives, json.dumps(loud).encode(), new_ids=new_ids, owner=alice)
        assert 3 == (await rest.call("GET", "/threat_models", await rest.sign_in("alice"))).json["total"]
