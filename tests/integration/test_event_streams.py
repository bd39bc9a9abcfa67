"""Events of a threat model between nodes, over PostgreSQL, and out of the real process."""

import asyncio
import json
import time
from pathlib import Path

import httpx

from persistence.postgres.database import PostgresDatabase
from tests.harness.rest import Rest, user
from tests.harness.service import Service
from tests.rest import over_postgres, user_grant
from tests.unit.api.test_event_stream import following, rename
from tests.unit.api.test_rollback import node, roll_back, trail


async def test_an_event_of_one_node_reaches_readers_of_another_within_a_second(
    database: PostgresDatabase, database_url: str
) -> None:
    other = await PostgresDatabase.connect(database_url)
    try:
        async with over_postgres(database) as a, over_postgres(other) as b:
            alice, bob = await a.sign_in("alice"), await a.sign_in("bob")
            model = (await a.create_model(alice, user_grant("bob", "reader")))["id"]
            async with following(b, alice, model) as owner, following(b, bob, model) as reader:
                await rename(a, alice, model)
                assert "patched" == (await reader.event())["change_type"]
                await a.patch(alice, model, {"op": "remove", "path": "/authorization/1"})
                await reader.end()
                assert ["name", "authorization"] == [
                    (await owner.event())["change_summary"] for _ in range(2)
                ]
    finally:
        await other.close()


async def test_a_diagram_is_rolled_back_over_postgres(database: PostgresDatabase) -> None:
    async with over_postgres(database) as rest:
        alice = await rest.sign_in("alice")
        model = (await rest.create_model(alice))["id"]
        diagram = (await rest.create_diagram(alice, model))["id"]
        path = f"/threat_models/{model}/diagrams/{diagram}"
        for name, cell in (("One", node(1, "a")), ("Two", node(2, "b"))):
            body = {"name": name, "type": "DFD-1.0.0", "cells": [cell]}
            assert 200 == (await rest.call("PUT", path, alice, json_body=body)).status
        made = await roll_back(rest, alice, model, (await trail(rest, alice, path))[1])
        now = (await rest.call("GET", path, alice)).json
        assert ("One", [node(1, "a")["id"]]) == (now["name"], [cell["id"] for cell in now["cells"]])
        assert now == made["restored_entity"]


async def test_the_real_process_streams_at_once_and_stops_with_streams_open(
    tmp_path: Path, database_url: str
) -> None:
    with Service(tmp_path / "data", {}, database_url) as service:
        async with Rest(service.url) as rest:
            alice = await rest.sign_in("alice")
            model = await rest.create_model(alice, user("bob", "reader"))
            url = f"/threat_models/{model}/events"
            async with rest.http.stream("GET", url, headers=alice.headers) as answer:
                assert "text/event-stream" == answer.headers["content-type"]
                lines = answer.aiter_lines()
                async with asyncio.timeout(5):
                    while await anext(lines):
                        pass
                await rest.create_diagram(alice, model)
                told = ""
                async with asyncio.timeout(1):
                    while not told.startswith("data: "):
                        told = await anext(lines)
                assert "diagram" == json.loads(told.removeprefix("data: "))["object_type"]
                began = time.monotonic()
                await asyncio.to_thread(service.stop)
                assert time.monotonic() - began < 5
                try:
                    assert [""] == [line async for line in lines]
                except httpx.TransportError as error:
                    raise AssertionError("the stream was torn, not ended") from error
