"""The data that the load tester writes is what REST would have made, and REST goes on from there."""

from collections.abc import AsyncIterator

import pytest

from bench.filling import Filling, fill
from bench.servers import Account
from persistence.postgres.database import PostgresDatabase
from tests.rest import RestClient, over_postgres

MODELS, THREATS = 3, 45


@pytest.fixture
async def rest(database: PostgresDatabase) -> AsyncIterator[RestClient]:
    async with over_postgres(database) as client:
        yield client


async def test_a_filled_database_is_like_one_that_was_written_over_rest(
    rest: RestClient, database: PostgresDatabase, database_url: str
) -> None:
    token = await rest.sign_in("alice")
    filling = await fill(database_url, Account("", token, "alice@tmi.local"), MODELS, THREATS)

    listed = (await rest.call("GET", "/threat_models", token)).json
    ids = [filling.model_id(number) for number in range(MODELS)]
    assert (MODELS, ids[::-1]) == (listed["total"], [item["id"] for item in listed["threat_models"]])
    assert [(3, THREATS), (2, THREATS), (1, THREATS)] == [
        (item["alias"], item["threat_count"]) for item in listed["threat_models"]
    ]
    for number, key in enumerate(ids):
        model = (await rest.call("GET", f"/threat_models/{key}", token)).json
        assert f"model {number}, name 0" == model["name"]
        assert [
            (k + 1, filling.threat_id(number, k), f"threat {k} of model {number}") for k in range(THREATS)
        ] == [(threat["alias"], threat["id"], threat["name"]) for threat in model["threats"]]
    assert await _usage(database) == await _usage_of_rest(rest, database, filling)


async def _usage_of_rest(rest: RestClient, database: PostgresDatabase, filling: Filling) -> tuple[int, ...]:
    """What a user is charged for who wrote the same over REST."""
    token, like = await rest.sign_in("bob"), filling.account.token
    threats = (await rest.call("GET", f"/threat_models/{filling.model_id(0)}", like)).json["threats"]
    computed = ("id", "threat_model_id", "alias", "created_at", "modified_at", "version", "auto_generated")
    bodies = [{k: v for k, v in threat.items() if k not in computed} for threat in threats]
    for _ in range(MODELS):
        path = f"/threat_models/{(await rest.create_model(token))['id']}/threats/bulk"
        for start in range(0, THREATS, 20):
            answer = await rest.call("POST", path, token, json_body=bodies[start : start + 20])
            assert answer.status == 201, answer.data
    return await _usage(database, "bob@tmi.local")


async def _usage(database: PostgresDatabase, email: str = "alice@tmi.local") -> tuple[int, ...]:
    rows = await database.read(
        """
        SELECT s.threat_models, s.diagrams, s.stored_bytes
        FROM user_usage s JOIN users u ON u.id = s.user_id WHERE u.email = $1
        """,
        email,
    )
    return tuple(rows[0])


async def test_writes_over_rest_go_on_where_a_filling_ended(rest: RestClient, database_url: str) -> None:
    token = await rest.sign_in("alice")
    before = await rest.create_model(token)
    filling = await fill(database_url, Account("", token, "alice@tmi.local"), MODELS, THREATS)
    after = await rest.create_model(token)
    assert (before["alias"], before["alias"] + MODELS + 1) == (1, after["alias"])
    threat = await rest.call(
        "POST",
        f"/threat_models/{filling.model_id(1)}/threats",
        token,
        json_body={"name": "New", "threat_type": ["Spoofing"]},
    )
    assert (201, THREATS + 1) == (threat.status, threat.json["alias"])
    renamed = await rest.patch(token, filling.model_id(2), {"op": "replace", "path": "/name", "value": "New"})
    assert (200, "New") == (renamed.status, renamed.json["name"])
