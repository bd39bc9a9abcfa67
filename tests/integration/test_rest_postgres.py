"""The REST application over PostgreSQL: what depends on the database's own doing."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from persistence.postgres.database import PostgresDatabase
from persistence.postgres.signing_keys import PostgresSigningKeys
from tests.rest import VERIFIER, Json, RestClient, group_grant, over_postgres, user_grant
from tests.security.test_role_matrix_entities import BODIES
from tmi.domain.kinds import BY_NAME


@pytest.fixture
async def rest(database: PostgresDatabase) -> AsyncIterator[RestClient]:
    async with over_postgres(database) as client:
        yield client


async def test_a_team_works_on_a_threat_model(rest: RestClient) -> None:
    alice, bob, carol = [await rest.sign_in(name) for name in ("alice", "bob", "carol")]
    model = await rest.create_model(
        alice, user_grant("bob", "writer"), description="Line one\nline two", issue_uri="https://t.example/1"
    )
    path = f"/threat_models/{model['id']}"
    assert (await rest.call("GET", path, carol)).status == 403
    shared = await rest.patch(
        alice,
        model["id"],
        {"op": "add", "path": "/authorization/-", "value": group_grant("everyone", "reader", "*")},
        {"op": "replace", "path": "/name", "value": "Ünïcode 🛒"},
        headers={"If-Match": '"1"'},
    )
    assert (shared.status, shared.json["version"], shared.json["name"]) == (200, 2, "Ünïcode 🛒")
    assert (await rest.call("GET", path, carol)).json == shared.json
    diagram = await rest.create_diagram(bob, model["id"])
    shown = await rest.call("GET", f"{path}/diagrams/{diagram['id']}", carol)
    assert (shown.json["cells"], shown.json["update_vector"]) == ([], 0)
    listed = (await rest.call("GET", "/threat_models", carol)).json
    assert [(model["id"], 1)] == [(item["id"], item["diagram_count"]) for item in listed["threat_models"]]
    assert (await rest.call("DELETE", path, bob)).status == 403
    assert (await rest.call("DELETE", path, alice)).status == 204
    assert (await rest.call("GET", path, alice)).status == 404
    assert (
        await rest.call("POST", "/collab/tokens", alice, json_body={"diagram_id": diagram["id"]})
    ).status == 404


async def test_of_many_redemptions_of_a_code_one_succeeds_at_most(rest: RestClient) -> None:
    code = await rest.code()
    body = {"grant_type": "authorization_code", "code": code, "code_verifier": VERIFIER}
    answers = await asyncio.gather(*(rest.exchange(**body) for _ in range(30)))
    good = [answer.json["access_token"] for answer in answers if answer.status == 200]
    assert len(good) <= 1
    assert {400} == {answer.status for answer in answers if answer.status != 200}
    for token in good:
        assert 401 == (await rest.call("GET", "/me", token)).status


async def test_of_two_parallel_uses_of_a_refresh_token_one_ends_the_session(rest: RestClient) -> None:
    refresh = (await rest.tokens("alice"))["refresh_token"]
    body = {"grant_type": "refresh_token", "refresh_token": refresh}
    answers = await asyncio.gather(rest.exchange(**body), rest.exchange(**body))
    assert [200, 400] == sorted(answer.status for answer in answers)
    (granted,) = (answer.json for answer in answers if answer.status == 200)
    assert (await rest.call("GET", "/me", granted["access_token"])).status == 401


async def test_parallel_patches_without_if_match_all_take_effect(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    names = ("bob", "carol", "dave")
    answers = await asyncio.gather(
        *(
            rest.patch(
                alice, model, {"op": "add", "path": "/authorization/-", "value": user_grant(n, "reader")}
            )
            for n in names
        )
    )
    shown = (await rest.call("GET", f"/threat_models/{model}", alice)).json
    assert [200] * 3 == [answer.status for answer in answers]
    assert {"alice", *names} == {a["provider_id"].removesuffix("@tmi.local") for a in shown["authorization"]}


async def test_of_parallel_patches_with_the_same_if_match_one_wins(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = (await rest.create_model(alice))["id"]
    answers = await asyncio.gather(
        *(
            rest.patch(
                alice, model, {"op": "replace", "path": "/name", "value": f"{n}"}, headers={"If-Match": "1"}
            )
            for n in range(5)
        )
    )
    assert [200, 409, 409, 409, 409] == sorted(answer.status for answer in answers)


async def test_two_owners_who_remove_each_other_at_once_leave_one(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    model = (await rest.create_model(alice, user_grant("bob", "owner")))["id"]
    answers = await asyncio.gather(
        rest.patch(
            alice, model, {"op": "replace", "path": "/authorization", "value": [user_grant("alice", "owner")]}
        ),
        rest.patch(
            bob, model, {"op": "replace", "path": "/authorization", "value": [user_grant("bob", "owner")]}
        ),
    )
    assert [200, 403] == sorted(answer.status for answer in answers)
    views = [(await rest.call("GET", f"/threat_models/{model}", who)).status for who in (alice, bob)]
    assert sorted(views) == [200, 403]


async def test_text_that_postgres_could_not_store_never_reaches_it(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    for name in ("a\u0000b", "\ud800"):
        answer = await rest.call("POST", "/threat_models", alice, json_body={"name": name})
        assert answer.status == 400


async def test_a_request_costs_no_query_for_its_sign_in_and_a_logout_elsewhere_is_seen_at_once(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with over_postgres(database) as here, over_postgres(database) as there:
        token = await here.sign_in("alice")
        there.services.tokens.use_keys(list(await PostgresSigningKeys(database).current()))
        for rest in (here, there):
            assert 200 == (await rest.call("GET", "/oauth2/userinfo", token)).status
        await asyncio.sleep(1.5)  # longer than an entry is trusted without proof
        asked: list[str] = []
        read = database.read

        async def counted(sql: str, *arguments: object) -> object:
            if "sign_ins" in sql:
                asked.append(sql)
            return await read(sql, *arguments)

        monkeypatch.setattr(database, "read", counted)
        for rest in (here, there):
            for _ in range(200):
                assert 200 == (await rest.call("GET", "/oauth2/userinfo", token)).status
        # On a machine under load a proof may come late: then a session is looked up once a second.
        assert len(asked) <= 4

        assert 204 == (await here.call("POST", "/me/logout", token)).status
        began = time.monotonic()
        assert 401 == (await here.call("GET", "/oauth2/userinfo", token)).status
        while 401 != (await there.call("GET", "/oauth2/userinfo", token)).status:
            assert time.monotonic() - began < 1



WRITERS = 50
MOST_OF_A_NOTE = 262_144
PATCH = "application/json-patch+json"


@pytest.mark.parametrize("name", ["threat_model", "diagram", *BODIES])
async def test_fifty_writers_lose_nothing_and_with_one_if_match_one_of_them_wins(
    rest: RestClient, name: str
) -> None:
    alice = await rest.sign_in("alice")
    path = f"/threat_models/{(await rest.create_model(alice))['id']}"
    if name == "diagram":
        path += f"/diagrams/{(await rest.create_diagram(alice, path.rpartition('/')[2]))['id']}"
    elif name in BODIES:
        made = await rest.call("POST", f"{path}/{BY_NAME[name].plural}", alice, json_body=BODIES[name])
        path += f"/{BY_NAME[name].plural}/{made.json['id']}"

    async def patch(operation: Json, headers: dict[str, str] | None = None) -> int:
        answer = await rest.call(
            "PATCH", path, alice, json_body=[operation], content_type=PATCH, headers=headers
        )
        return answer.status

    def adding(n: int) -> Json:
        return {"op": "add", "path": "/metadata/-", "value": {"key": f"k{n}", "value": str(n)}}

    async def tell(n: int) -> int:
        body = {"key": f"m{n}", "value": "v"}
        return (await rest.call("POST", f"{path}/metadata", alice, json_body=body)).status

    wanted = {f"m{n}" for n in range(WRITERS)}
    tag = (await rest.call("GET", path, alice)).headers.get("ETag")
    assert (tag is None) == (name in ("note", "repository"))  # the contract gives those no version
    version = await version_of(rest, alice, path)
    if tag is not None:
        changes = [{"op": "replace", "path": "/name", "value": f"Name {n}"} for n in range(WRITERS)]
        statuses = await asyncio.gather(*(patch(change, {"If-Match": tag}) for change in changes))
        assert [200, *[409] * (WRITERS - 1)] == sorted(statuses)
        shown = (await rest.call("GET", path, alice)).json
        assert f"Name {statuses.index(200)}" == shown["name"]
        assert version + 1 == shown["version"]
        version = shown["version"]
    work = [tell(n) for n in range(WRITERS)]
    if name in ("threat_model", "diagram", "threat"):
        work += [patch(adding(n)) for n in range(WRITERS)]
        wanted |= {f"k{n}" for n in range(WRITERS)}
    statuses = await asyncio.gather(*work)
    assert [201] * WRITERS + [200] * (len(work) - WRITERS) == statuses
    assert wanted == {entry["key"] for entry in (await rest.call("GET", f"{path}/metadata", alice)).json}
    assert version + len(work) == await version_of(rest, alice, path)


async def version_of(rest: RestClient, token: str, path: str) -> int:
    """As its trail has it: what has no version in the contract has one there."""
    model, _, child = path.removeprefix("/threat_models/").partition("/")
    trail = f"{path}/audit_trail" if child else f"/threat_models/{model}/audit_trail?object_type=threat_model"
    entries = (await rest.call("GET", trail, token)).json["audit_entries"]
    return max(int(entry["version"]) for entry in entries)


@pytest.mark.parametrize("name", ["threat_model", *BODIES])
async def test_fifty_writers_on_two_nodes_with_one_database_lose_nothing(
    database: PostgresDatabase, name: str
) -> None:
    async with over_postgres(database) as here, over_postgres(database) as there:
        alice = await here.sign_in("alice")
        there.services.tokens.use_keys(list(await PostgresSigningKeys(database).current()))
        path = f"/threat_models/{(await here.create_model(alice))['id']}"
        if name in BODIES:
            made = await here.call("POST", f"{path}/{BY_NAME[name].plural}", alice, json_body=BODIES[name])
            path += f"/{BY_NAME[name].plural}/{made.json['id']}"
        nodes = [(here, there)[n % 2] for n in range(WRITERS)]
        version = await version_of(here, alice, path)

        async def rename(n: int, headers: dict[str, str] | None = None) -> int:
            change = [{"op": "replace", "path": "/name", "value": f"Name {n}"}]
            answer = await nodes[n].call(
                "PATCH", path, alice, json_body=change, content_type=PATCH, headers=headers
            )
            return answer.status

        async def tell(n: int) -> int:
            body = {"key": f"m{n}", "value": "v"}
            return (await nodes[n].call("POST", f"{path}/metadata", alice, json_body=body)).status

        assert [201] * WRITERS == await asyncio.gather(*(tell(n) for n in range(WRITERS)))
        told = (await there.call("GET", f"{path}/metadata", alice)).json
        assert {f"m{n}" for n in range(WRITERS)} == {entry["key"] for entry in told}
        assert version + WRITERS == await version_of(there, alice, path)
        tag = (await there.call("GET", path, alice)).headers.get("ETag")
        if tag is not None:
            statuses = await asyncio.gather(*(rename(n, {"If-Match": tag}) for n in range(WRITERS)))
            assert [200, *[409] * (WRITERS - 1)] == sorted(statuses)
            won = (await here.call("GET", path, alice)).json
            assert (f"Name {statuses.index(200)}", version + WRITERS + 1) == (won["name"], won["version"])
        version = await version_of(here, alice, path)
        statuses = await asyncio.gather(*(rename(n) for n in range(WRITERS)))
        # A threat model's writer gives up after ten who came first, and is told so.
        assert {200} == set(statuses) or (name == "threat_model" and {200, 409} == set(statuses))
        assert version + statuses.count(200) == await version_of(there, alice, path)


async def test_the_longest_note_is_patched_beside_the_loop(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = f"/threat_models/{(await rest.create_model(alice))['id']}"
    made = await rest.call("POST", f"{model}/notes", alice, json_body=BODIES["note"])
    path = f"{model}/notes/{made.json['id']}"
    loop, pauses = asyncio.get_running_loop(), [0.0]
    shares = []

    async def watch() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.001)
            pauses.append(loop.time() - before)

    async def patched(field: str, value: str) -> None:
        body = [{"op": "replace", "path": f"/{field}", "value": value}]
        answer = await rest.call("PATCH", path, alice, json_body=body, content_type=PATCH)
        assert 200 == answer.status

    watching = asyncio.create_task(watch())
    for n in range(3):  # of which a busy machine may spoil two
        pauses[:], began = [0.0], loop.time()
        await patched("content", "<b>" * (MOST_OF_A_NOTE // 7) + "</b>" * (MOST_OF_A_NOTE // 7))
        await patched("name", f"The same, long as it is: {n}")
        shares.append(max(pauses) / (loop.time() - began))
    watching.cancel()
    assert min(shares) < 0.3, "most of it is done elsewhere"


async def test_what_is_in_a_threat_model_is_written_by_many_deleted_and_restored(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model = f"/threat_models/{(await rest.create_model(alice))['id']}"
    diagram = await rest.create_diagram(alice, model.rpartition("/")[2])
    body = {"name": "Spoofing", "threat_type": [], "diagram_id": diagram["id"], "score": 7.3}
    threat = (await rest.call("POST", f"{model}/threats", alice, json_body=body)).json
    paths = (f"{model}/threats/{threat['id']}", model)

    async def write(path: str, n: int) -> int:
        operation = {"op": "add", "path": "/metadata/-", "value": {"key": f"k{n}", "value": "v"}}
        patched = await rest.call(
            "PATCH", path, alice, json_body=[operation], content_type="application/json-patch+json"
        )
        return patched.status

    for path in paths:
        assert [200] * 50 == await asyncio.gather(*(write(path, n) for n in range(50)))
        after = (await rest.call("GET", path, alice)).json
        assert (51, 50) == (after["version"], len(after["metadata"]))
    assert 204 == (await rest.call("DELETE", model, alice)).status
    assert 404 == (await rest.call("GET", paths[0], alice)).status
    assert 200 == (await rest.call("POST", f"{model}/restore", alice)).status
    whole = (await rest.call("GET", model, alice)).json
    assert (7.3, diagram["id"]) == (whole["threats"][0]["score"], whole["diagrams"][0]["id"])
    assert 200 == (await rest.call("GET", f"{model}/diagrams/{diagram['id']}", alice)).status
