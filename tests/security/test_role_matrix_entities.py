"""Every REST operation on what is in a threat model, tried by everyone: the rows are made from the kinds.

They are many and alike, so all rows of a kind run in one house, one after the other, each first by those who
may not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from tests.rest import ADMINISTRATOR, RestClient, over_memory, user_grant
from tmi.domain.kinds import KINDS, Kind

NOBODY, READER, WRITER, OWNER = "nobody", "reader", "writer", "owner"
ROLES = (NOBODY, READER, WRITER, OWNER)
CALLERS = (*ROLES, ADMINISTRATOR)
MODEL = "/threat_models/<threat_model_id>"
PATCH = "application/json-patch+json"

BODIES: dict[str, dict[str, Any]] = {
    "threat": {"name": "Spoofing", "threat_type": ["Spoofing"]},
    "asset": {"name": "Cards", "type": "data"},
    "document": {"name": "Plan", "uri": "https://docs.example/plan"},
    "note": {"name": "Minutes", "content": "# Title"},
    "repository": {"name": "Shop", "uri": "https://git.example/shop"},
}


@dataclass(frozen=True, slots=True)
class Step:
    """An operation, a good request of it, and the least role that it needs."""

    operation: str
    least: str
    status: int
    body: Any = ...
    content_type: str = "application/json"
    query: str = ""
    by_administrators: bool = False
    """They may do it without a role."""

    def refused(self) -> tuple[str, ...]:
        """Those who may not."""
        lesser = ROLES[: ROLES.index(self.least)]
        return lesser if self.by_administrators else (*lesser, ADMINISTRATOR)


def metadata_steps(path: str) -> Iterator[Step]:
    """The operations on the metadata of what a path means."""
    entry, all_, one = {"key": "k", "value": "v"}, f"{path}/metadata", f"{path}/metadata/<key>"
    yield Step(f"POST {all_}", WRITER, 201, entry)
    yield Step(f"GET {all_}", READER, 200)
    yield Step(f"GET {one}", READER, 200)
    yield Step(f"PUT {one}", WRITER, 200, {"value": "w"})
    yield Step(f"DELETE {one}", WRITER, 204)
    yield Step(f"POST {all_}/bulk", WRITER, 201, [entry])
    yield Step(f"PATCH {all_}/bulk", WRITER, 200, [entry])
    yield Step(f"PUT {all_}/bulk", WRITER, 200, [entry])


def child_steps(kind: Kind) -> Iterator[Step]:
    """The operations on children of a kind."""
    all_, id_ = f"{MODEL}/{kind.plural}", f"<{kind.name}_id>"
    one, body = f"{all_}/{id_}", BODIES[kind.name]
    operations = [{"op": "replace", "path": "/name", "value": "New"}]
    yield Step(f"POST {all_}", WRITER, 201, body)
    yield Step(f"GET {all_}", READER, 200)
    yield Step(f"GET {one}", READER, 200)
    yield Step(f"PUT {one}", WRITER, 200, body)
    yield Step(f"PATCH {one}", WRITER, 200, operations, PATCH)
    yield from metadata_steps(one)
    if kind.bulk_most:
        yield Step(f"POST {all_}/bulk", WRITER, 201, [body])
        yield Step(f"PUT {all_}/bulk", WRITER, 200, [{"id": id_, **body}])
    if kind.has_all_bulk:
        patches = {"patches": [{"id": id_, "operations": operations}]}
        yield Step(f"PATCH {all_}/bulk", WRITER, 200, patches)
        yield Step(f"DELETE {all_}/bulk", WRITER, 200, query=f"?{kind.name}_ids={id_}")
        yield Step(f"POST {one}/restore", OWNER, 200, by_administrators=True)
    yield Step(f"DELETE {one}", WRITER, 204)
    yield Step(f"GET {all_}", OWNER, 200, query="?include_deleted=true", by_administrators=True)
    yield Step(f"POST {one}/restore", OWNER, 200, by_administrators=True)


def diagram_steps() -> Iterator[Step]:
    """The operations on diagrams that are common to all kinds."""
    one = f"{MODEL}/diagrams/<diagram_id>"
    yield from metadata_steps(one)
    yield Step(f"DELETE {one}", WRITER, 204)
    yield Step(f"POST {one}/restore", OWNER, 200, by_administrators=True)


def model_steps() -> Iterator[Step]:
    """The operations on a threat model itself."""
    yield Step(f"PUT {MODEL}", WRITER, 200, {"name": "New"})
    yield from metadata_steps(MODEL)
    yield Step(f"DELETE {MODEL}", OWNER, 204)
    yield Step(f"POST {MODEL}/restore", OWNER, 200, by_administrators=True)


SETS = {kind.name: tuple(child_steps(kind)) for kind in KINDS} | {
    "diagram": tuple(diagram_steps()),
    "threat_model": tuple(model_steps()),
}
OPERATIONS = frozenset(step.operation for steps in SETS.values() for step in steps)
"""For the table of all operations."""


async def call(rest: RestClient, step: Step, token: str | None, ids: dict[str, str]) -> int:
    def filled(value: Any) -> Any:
        if isinstance(value, str):
            for name, key in ids.items():
                value = value.replace(f"<{name}>", key)
            return value
        if isinstance(value, dict):
            return {name: filled(item) for name, item in value.items()}
        return [filled(item) for item in value] if isinstance(value, list) else value

    method, path = step.operation.split(" ")
    body = step.body if step.body is ... else filled(step.body)
    answer = await rest.call(
        method, filled(path + step.query), token, json_body=body, content_type=step.content_type
    )
    if answer.status >= 400:
        assert {"error", "error_description"} <= answer.json.keys()
    return answer.status


@pytest.mark.parametrize("name", SETS)
async def test_a_role_allows_what_the_table_says_and_nothing_more(name: str) -> None:
    async with over_memory() as rest:
        tokens = {caller: await rest.sign_in(caller) for caller in CALLERS}
        model = await rest.create_model(
            tokens[OWNER], user_grant(READER, "reader"), user_grant(WRITER, "writer")
        )
        ids = {"threat_model_id": model["id"], "key": "k"}
        ids["diagram_id"] = (await rest.create_diagram(tokens[OWNER], model["id"]))["id"]
        for kind in KINDS:
            path = f"/threat_models/{model['id']}/{kind.plural}"
            made = await rest.call("POST", path, tokens[OWNER], json_body=BODIES[kind.name])
            ids[f"{kind.name}_id"] = made.json["id"]
        missing = {id_: str(uuid4()) for id_ in ids} | {"key": "k"}
        for step in SETS[name]:
            for token in (None, "x"):
                assert 401 == await call(rest, step, token, ids), step
            for caller in step.refused():
                assert 403 == await call(rest, step, tokens[caller], ids), (step, caller)
            assert 404 == await call(rest, step, tokens[OWNER], missing), step
            assert 400 == await call(rest, step, tokens[OWNER], dict.fromkeys(ids, "1")), step
            assert step.status == await call(rest, step, tokens[step.least], ids), step


@pytest.mark.parametrize("name", [*(kind.name for kind in KINDS), "diagram"])
async def test_a_child_under_another_threat_model_is_404(name: str) -> None:
    async with over_memory() as rest:
        owner = await rest.sign_in(OWNER)
        model, other = await rest.create_model(owner), await rest.create_model(owner)
        if name == "diagram":
            key = (await rest.create_diagram(owner, model["id"]))["id"]
        else:
            (kind,) = [kind for kind in KINDS if kind.name == name]
            path = f"/threat_models/{model['id']}/{kind.plural}"
            key = (await rest.call("POST", path, owner, json_body=BODIES[name])).json["id"]
        ids = {"threat_model_id": other["id"], f"{name}_id": key, "key": "k"}
        for step in SETS[name]:
            if f"<{name}_id>" in step.operation:
                assert 404 == await call(rest, step, owner, ids), step


@pytest.mark.parametrize("name", ["threat", "diagram", "threat_model"])
async def test_administrators_restore_and_see_what_is_deleted_without_a_role(name: str) -> None:
    async with over_memory() as rest:
        owner, admin = await rest.sign_in(OWNER), await rest.sign_in(ADMINISTRATOR)
        path = f"/threat_models/{(await rest.create_model(owner))['id']}"
        if name == "diagram":
            path += f"/diagrams/{(await rest.create_diagram(owner, path.rsplit('/', maxsplit=1)[-1]))['id']}"
        elif name == "threat":
            made = await rest.call("POST", f"{path}/threats", owner, json_body=BODIES[name])
            path += f"/threats/{made.json['id']}"
        assert 204 == (await rest.call("DELETE", path, owner)).status
        if name != "threat_model":
            plural = path.rpartition("/")[0]
            assert 403 == (await rest.call("GET", plural, admin)).status
            listed = await rest.call("GET", f"{plural}?include_deleted=true", admin)
            assert (200, 1) == (listed.status, listed.json["total"])
            assert 200 == (await rest.call("GET", f"{plural}?include_deleted=true", owner)).status
            told = await rest.call("GET", "/admin/audit/system?limit=100", admin)
            seen = [entry for entry in told.json["entries"] if entry["field_path"] == "deleted.listed"]
            assert [f"{ADMINISTRATOR}@tmi.local"] == [entry["actor"]["email"] for entry in seen]
        assert 200 == (await rest.call("POST", f"{path}/restore", admin)).status
        assert 409 == (await rest.call("POST", f"{path}/restore", admin)).status
        assert 200 == (await rest.call("GET", path, owner)).status
