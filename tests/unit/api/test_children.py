"""Threats, assets, documents, notes and repositories, and the metadata of everything, over REST."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from api import schemas
from tests.rest import Answer, RestClient, over_memory, user_grant
from tests.security.test_role_matrix_entities import BODIES
from tmi.domain.kinds import KINDS, Kind

PATCH = "application/json-patch+json"


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


@pytest.fixture
async def alice(rest: RestClient) -> str:
    return await rest.sign_in("alice")


@pytest.fixture
async def model(rest: RestClient, alice: str) -> str:
    return f"/threat_models/{(await rest.create_model(alice))['id']}"


async def add(rest: RestClient, token: str, model: str, kind: str = "threat", **fields: Any) -> Any:
    plural = schemas_plural(kind)
    body = {**BODIES[kind], **fields}
    answer = await rest.call("POST", f"{model}/{plural}", token, json_body=body)
    assert answer.status == 201, answer.data
    return answer.json


def schemas_plural(kind: str) -> str:
    return next(k.plural for k in KINDS if k.name == kind)


async def patch(rest: RestClient, token: str, path: str, *operations: Any, **headers: str) -> Answer:
    return await rest.call(
        "PATCH",
        path,
        token,
        json_body=list(operations),
        content_type=PATCH,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def replace(path: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": path, "value": value}


FULL: dict[str, dict[str, Any]] = {
    "threat": {
        "name": "Spoofing of the till",
        "description": "Somebody else\npays",
        "mitigation": "**mTLS** & <b>care</b>",
        "cell_id": "6f9c3b1e-0000-4000-8000-000000000001",
        "severity": "high",
        "score": 7.3,
        "priority": "P1",
        "mitigated": True,
        "status": "open",
        "threat_type": ["Spoofing", "Tampering"],
        "issue_uri": "https://tracker.example/1",
        "cwe_id": ["CWE-287"],
        "cvss": [{"vector": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", "score": 9.8}],
        "ssvc": {"vector": "SSVCv2/E:A", "decision": "Immediate", "methodology": "Supplier"},
        "include_in_report": False,
        "timmy_enabled": False,
        "metadata": [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}],
    },
    "asset": {
        "name": "Cards",
        "description": "Numbers",
        "type": "data",
        "criticality": "high",
        "classification": ["pci", "pii"],
        "sensitivity": "secret",
        "include_in_report": False,
        "timmy_enabled": False,
    },
    "document": {
        "name": "Plan",
        "description": "How",
        "uri": "https://docs.example/plan",
        "include_in_report": False,
        "timmy_enabled": False,
    },
    "note": {
        "name": "Minutes",
        "description": "Of June",
        "content": "# Title\n\n`<script>` is text",
        "include_in_report": False,
        "timmy_enabled": False,
    },
    "repository": {
        "name": "Shop",
        "description": "Sources",
        "type": "git",
        "parameters": {"refType": "branch", "refValue": "main", "subPath": "src"},
        "uri": "https://git.example/shop",
        "include_in_report": False,
        "timmy_enabled": False,
    },
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_a_child_is_answered_as_it_was_given_and_as_it_is_documented(
    rest: RestClient, alice: str, model: str, kind: Kind
) -> None:
    body, forms = FULL[kind.name], schemas.CHILD_BODIES[kind.name]
    answer = await rest.call("POST", f"{model}/{kind.plural}", alice, json_body=body)
    assert 201 == answer.status, answer.data
    made = answer.json
    path = f"{model}/{kind.plural}/{made['id']}"

    assert path == answer.headers["Location"]
    assert ('"1"' if kind.has_version else None) == answer.headers.get("ETag")
    assert body == {name: made[name] for name in body}
    assert (1, model.rpartition("/")[2]) == (made["alias"], made["threat_model_id"])
    assert kind.shows_origin == ("auto_generated" in made)
    assert made == (await rest.call("GET", path, alice)).json
    forms.output.model_validate_json(answer.data, strict=False)
    page = await rest.call("GET", f"{model}/{kind.plural}", alice)
    forms.page.model_validate_json(page.data, strict=False)
    expected = {name: value for name, value in made.items() if name != kind.apart}
    assert {kind.plural: [expected], "total": 1, "limit": 20, "offset": 0} == page.json


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_put_replaces_all_but_metadata(
    rest: RestClient, alice: str, model: str, kind: Kind
) -> None:
    made = await add(rest, alice, model, kind.name, **FULL[kind.name])
    path = f"{model}/{kind.plural}/{made['id']}"
    metadata = [{"key": "k", "value": "v"}]
    await rest.call("PUT", f"{path}/metadata/bulk", alice, json_body=metadata)

    answer = await rest.call("PUT", path, alice, json_body=BODIES[kind.name])

    fields = {field.name for field in kind.fields}
    defaults = {field.name: field.default for field in kind.fields if field.default is not None}
    assert 200 == answer.status
    assert {**defaults, **BODIES[kind.name]} == {k: v for k, v in answer.json.items() if k in fields}
    assert metadata == answer.json["metadata"]
    assert answer.json == (await rest.call("GET", path, alice)).json


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("threat", {"name": ""}),
    ("threat", {"name": "a<b"}),
    ("threat", {"name": "x" * 257}),
    ("threat", {"name": "pay\u202eload"}),
    ("threat", {"name": "a\u200bb"}),
    ("threat", {"name": None}),
    ("threat", {"description": "x" * 2049}),
    ("threat", {"description": "<b>"}),
    ("threat", {"mitigation": "[x](javascript:alert(1))"}),
    ("threat", {"mitigation": "x" * 1025}),
    ("threat", {"score": 10.1}),
    ("threat", {"score": 5.55}),
    ("threat", {"score": "5"}),
    ("threat", {"score": None}),
    ("threat", {"mitigated": None}),
    ("threat", {"threat_type": None}),
    ("threat", {"threat_type": ["a", "a"]}),
    ("threat", {"threat_type": ["x"] * 21}),
    ("threat", {"threat_type": [""]}),
    ("threat", {"cwe_id": ["CWE-x"]}),
    ("threat", {"cvss": [{"vector": "x" * 26}]}),
    ("threat", {"cvss": [{"vector": "x" * 26, "score": 1, "more": 1}]}),
    ("threat", {"ssvc": {"vector": "x", "decision": "Never", "methodology": "x"}}),
    ("threat", {"diagram_id": "x"}),
    ("threat", {"diagram_id": str(uuid4())}),
    ("threat", {"asset_id": str(uuid4())}),
    ("threat", {"issue_uri": "javascript:alert(1)"}),
    ("threat", {"id": str(uuid4())}),
    ("threat", {"unknown": 1}),
    ("threat", {"metadata": [{"key": "a", "value": "1"}] * 2}),
    ("threat", {"metadata": [{"key": f"k{n}", "value": "1"} for n in range(101)]}),
    ("asset", {"type": "money"}),
    ("asset", {"classification": ["x" * 129]}),
    ("asset", {"metadata": []}),
    ("document", {"uri": "plan"}),
    ("document", {"uri": "x://" + "x" * 1000}),
    ("note", {"content": ""}),
    ("note", {"content": "<script>alert(1)</script>"}),
    ("note", {"content": "x" * 262_145}),
    ("repository", {"type": "cvs"}),
    ("repository", {"parameters": {"refType": "branch"}}),
    ("repository", {"parameters": None}),
]


@pytest.mark.parametrize(("kind", "fields"), REFUSED, ids=lambda value: repr(value)[:50])
async def test_a_body_outside_the_contract_is_400(
    rest: RestClient, alice: str, model: str, kind: str, fields: dict[str, Any]
) -> None:
    path = f"{model}/{schemas_plural(kind)}"
    answer = await rest.call("POST", path, alice, json_body={**BODIES[kind], **fields})
    assert (400, "invalid_input") == (answer.status, answer.json["error"])
    assert 0 == (await rest.call("GET", path, alice)).json["total"]


async def test_empty_references_are_none_and_ids_are_in_lower_case(
    rest: RestClient, alice: str, model: str
) -> None:
    diagram = (await rest.create_diagram(alice, model.rpartition("/")[2]))["id"]
    made = await add(rest, alice, model, diagram_id=diagram.upper(), asset_id="", cell_id="", issue_uri=" ")
    assert diagram == made["diagram_id"]
    assert not {"asset_id", "cell_id", "issue_uri"} & made.keys()


async def test_a_notes_html_is_cleaned(rest: RestClient, alice: str, model: str) -> None:
    content = "<b onclick=x()>b</b><script>alert(1)</script>\n\n```\n<script>\n```\n"
    made = await add(rest, alice, model, "note", content=content)
    assert "<b>b</b>\n\n```\n<script>\n```\n" == made["content"]


# --- versions -----------------------------------------------------------------------------------

VERSIONED = [kind.name for kind in KINDS if kind.has_version]


@pytest.mark.parametrize("kind", VERSIONED)
async def test_if_match_guards_a_version(rest: RestClient, alice: str, model: str, kind: str) -> None:
    made = await add(rest, alice, model, kind)
    path = f"{model}/{schemas_plural(kind)}/{made['id']}"

    async def put(match: str) -> Answer:
        return await rest.call("PUT", path, alice, json_body=BODIES[kind], headers={"If-Match": match})

    assert 400 == (await put("soon")).status
    assert 400 == (await put('"1", "2"')).status
    stale = await put('"9"')
    assert (409, {"code": "version_mismatch"}) == (stale.status, stale.json["details"])
    assert 409 == (await put('W/"1"')).status  # RFC 9110, section 13.1.1
    answers = [await put('"1"'), await put("2"), await put("*")]
    assert [200] * 3 == [answer.status for answer in answers]
    assert ['"2"', '"3"', '"4"'] == [answer.headers["ETag"] for answer in answers]
    assert 409 == (await patch(rest, alice, path, replace("/name", "x"), If_Match='"1"')).status
    assert 200 == (await patch(rest, alice, path, replace("/name", "x"), If_Match='"4"')).status


@pytest.mark.parametrize("kind", ["threat model", "diagram", *VERSIONED])
async def test_if_match_guards_a_deletion(rest: RestClient, alice: str, model: str, kind: str) -> None:
    path, name = model, "Name"
    if kind == "diagram":
        path += f"/diagrams/{(await rest.create_diagram(alice, model.rpartition('/')[2]))['id']}"
    elif kind in VERSIONED:
        path += f"/{schemas_plural(kind)}/{(await add(rest, alice, model, kind))['id']}"
    assert 200 == (await patch(rest, alice, path, replace("/name", name))).status

    async def delete(match: str) -> Answer:
        return await rest.call("DELETE", path, alice, headers={"If-Match": match})

    stale = await delete('"1"')
    assert (409, {"code": "version_mismatch"}) == (stale.status, stale.json["details"])
    assert [409, 409, 400] == [(await delete(match)).status for match in ('W/"2"', '"3"', "soon")]
    assert 200 == (await rest.call("GET", path, alice)).status
    assert 204 == (await delete('"2"')).status
    assert 404 == (await delete('"3"')).status
    assert 200 == (await rest.call("POST", f"{path}/restore", alice)).status
    assert 204 == (await delete("*")).status


async def test_metadata_raise_the_version_of_what_they_belong_to(
    rest: RestClient, alice: str, model: str
) -> None:
    made = await add(rest, alice, model)
    path = f"{model}/threats/{made['id']}"
    entry = {"key": "k", "value": "v"}
    assert 201 == (await rest.call("POST", f"{path}/metadata", alice, json_body=entry)).status
    late = await rest.call("PUT", path, alice, json_body=BODIES["threat"], headers={"If-Match": '"1"'})
    assert 409 == late.status


async def test_where_the_setting_asks_for_a_version_a_write_without_one_is_428() -> None:
    from dataclasses import replace as with_

    from tests.rest import OPTIONS

    async with over_memory(with_(OPTIONS, if_match_required=True)) as rest:
        alice = await rest.sign_in("alice")
        model = f"/threat_models/{(await rest.create_model(alice))['id']}"
        threat = f"{model}/threats/{(await add(rest, alice, model))['id']}"
        note = f"{model}/notes/{(await add(rest, alice, model, 'note'))['id']}"
        for path, body in ((model, {"name": "x"}), (threat, BODIES["threat"])):
            refused = await rest.call("PUT", path, alice, json_body=body)
            assert (428, "precondition_required") == (refused.status, refused.json["error"])
            assert 428 == (await patch(rest, alice, path, replace("/name", "x"))).status
            assert 200 == (await patch(rest, alice, path, replace("/name", "x"), If_Match='"1"')).status
        assert 200 == (await rest.call("PUT", note, alice, json_body=BODIES["note"])).status
        # The contract's clients send none with a deletion.
        assert 204 == (await rest.call("DELETE", threat, alice)).status


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("what", ["threat", "threat model"])
async def test_fifty_writers_at_once_lose_nothing_silently(
    rest: RestClient, alice: str, model: str, what: str, guarded: bool
) -> None:
    path = model if what == "threat model" else f"{model}/threats/{(await add(rest, alice, model))['id']}"

    async def write(n: int) -> int:
        operation = {"op": "add", "path": "/metadata/-", "value": {"key": f"k{n}", "value": "v"}}
        headers = {"If_Match": '"1"'} if guarded else {}
        return (await patch(rest, alice, path, operation, **headers)).status

    statuses = await asyncio.gather(*(write(n) for n in range(50)))

    after = (await rest.call("GET", path, alice)).json
    written = {f"k{n}" for n, status in enumerate(statuses) if status == 200}
    assert {200, 409} >= set(statuses)
    assert (1 if guarded else 50) == len(written)
    assert written == {entry["key"] for entry in after["metadata"]}
    assert 1 + len(written) == after["version"]


# --- patches ------------------------------------------------------------------------------------


async def test_a_patch_changes_what_it_names(rest: RestClient, alice: str, model: str) -> None:
    made = await add(rest, alice, model, **FULL["threat"])
    path = f"{model}/threats/{made['id']}"

    answer = await patch(
        rest,
        alice,
        path,
        {"op": "test", "path": "/score", "value": 7.3},
        replace("/name", "New"),
        {"op": "add", "path": "/threat_type/-", "value": "Elevation"},
        {"op": "remove", "path": "/description"},
        {"op": "remove", "path": "/ssvc"},
        replace("/cvss/0/score", 5.0),
        {"op": "add", "path": "/metadata/-", "value": {"key": "c", "value": "3"}},
    )

    after = answer.json
    assert 200 == answer.status, after
    assert ("New", ["Spoofing", "Tampering", "Elevation"], 5.0) == (
        after["name"],
        after["threat_type"],
        after["cvss"][0]["score"],
    )
    assert not {"description", "ssvc"} & after.keys()
    assert ["a", "b", "c"] == [entry["key"] for entry in after["metadata"]]
    untouched = ("mitigation", "severity", "score", "cwe_id", "include_in_report", "alias", "created_at")
    assert {name: made[name] for name in untouched} == {name: after[name] for name in untouched}


@pytest.mark.parametrize(
    ("operation", "status"),
    [
        (replace("/id", str(uuid4())), 400),
        (replace("/version", 7), 400),
        (replace("/alias", 7), 400),
        (replace("/created_at", "x"), 400),
        (replace("", {}), 400),
        (replace("/name/0", "x"), 400),
        (replace("/name", ""), 400),
        (replace("/score", 11), 400),
        ({"op": "remove", "path": "/name"}, 400),
        ({"op": "remove", "path": "/threat_type"}, 400),
        ({"op": "add", "path": "/description/x", "value": 1}, 400),
        ({"op": "add", "path": "/threat_type/99", "value": "x"}, 400),
        ({"op": "add", "path": "/threat_type/-1", "value": "x"}, 400),
        ({"op": "add", "path": "/nothing", "value": "x"}, 400),
        ({"op": "move", "path": "/name", "from": "/description"}, 400),
        ({"op": "test", "path": "/name", "value": "other"}, 409),
    ],
    ids=str,
)
async def test_a_patch_outside_the_contract_changes_nothing(
    rest: RestClient, alice: str, model: str, operation: Any, status: int
) -> None:
    made = await add(rest, alice, model)
    path = f"{model}/threats/{made['id']}"
    assert status == (await patch(rest, alice, path, replace("/name", "New"), operation)).status
    assert made == (await rest.call("GET", path, alice)).json


# --- lists --------------------------------------------------------------------------------------


async def test_threats_are_listed_newest_first_or_as_asked_for(
    rest: RestClient, alice: str, model: str
) -> None:
    for name, severity in (("b", "low"), ("a", "critical"), ("c", "high")):
        await add(rest, alice, model, name=name, severity=severity, threat_type=[severity])

    async def names(query: str = "") -> list[str]:
        answer = await rest.call("GET", f"{model}/threats?{query}", alice)
        assert 200 == answer.status, answer.data
        assert answer.json["total"] >= len(answer.json["threats"])
        return [threat["name"] for threat in answer.json["threats"]]

    assert ["c", "a", "b"] == await names()
    assert ["a", "b", "c"] == await names("sort=name:asc")
    assert ["a", "c", "b"] == await names("sort=severity:desc")
    assert ["c"] == await names("sort=name:asc&limit=1&offset=2")
    assert ["c", "b"] == await names("severity=high&severity=low")
    assert ["a", "b"] == await names("threat_type=critical&threat_type=low")
    assert ["a"] == await names("name=A&mitigated=false")
    assert ["c", "a", "b"] == await names("created_after=2020-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "query",
    ["sort=id:asc", "sort=name:up", "sort=fields->>'x'", "severity=awful", "score_gt=11", "score_gt=x",
     "mitigated=maybe", "diagram_id=x", "created_after=yesterday", "created_after=2020-01-01T00:00:00",
     "name=a&name=b", "nothing=1", "limit=101", "priority=" + "x" * 257],
    ids=lambda query: query[:24],
)  # fmt: skip
async def test_a_filter_outside_the_contract_is_400(
    rest: RestClient, alice: str, model: str, query: str
) -> None:
    assert 400 == (await rest.call("GET", f"{model}/threats?{query}", alice)).status


async def test_what_is_deleted_is_listed_for_owners_who_ask_for_it(
    rest: RestClient, alice: str, model: str
) -> None:
    made = await add(rest, alice, model)
    path = f"{model}/threats/{made['id']}"
    assert 204 == (await rest.call("DELETE", path, alice)).status
    assert 404 == (await rest.call("GET", path, alice)).status
    assert 404 == (await rest.call("DELETE", path, alice)).status
    assert 0 == (await rest.call("GET", f"{model}/threats", alice)).json["total"]

    (gone,) = (await rest.call("GET", f"{model}/threats?include_deleted=true", alice)).json["threats"]
    restored = (await rest.call("POST", f"{path}/restore", alice)).json

    assert gone["deleted_at"].endswith("Z")
    assert "deleted_at" not in restored
    assert made["alias"] == restored["alias"]


# --- several at once ----------------------------------------------------------------------------


async def test_several_are_written_at_once_or_none(rest: RestClient, alice: str, model: str) -> None:
    path = f"{model}/threats/bulk"
    bodies = [{**BODIES["threat"], "name": str(n)} for n in range(3)]
    refused = await rest.call("POST", path, alice, json_body=[*bodies, {"name": "x"}])
    made = (await rest.call("POST", path, alice, json_body=bodies)).json
    assert 400 == refused.status
    assert [("0", 1), ("1", 2), ("2", 3)] == [(threat["name"], threat["alias"]) for threat in made]
    ids = [threat["id"] for threat in made]

    updates = [{**BODIES["threat"], "id": key, "name": "put"} for key in reversed(ids)]
    put = await rest.call("PUT", path, alice, json_body=updates)
    assert (200, ids[::-1]) == (put.status, [threat["id"] for threat in put.json])

    def patches(*keys: str) -> Any:
        return {"patches": [{"id": key, "operations": [replace("/name", "patched")]} for key in keys]}

    for keys, status in ((ids, 200), ([ids[0], str(uuid4())], 404), ([ids[0], ids[0]], 400)):
        assert status == (await rest.call("PATCH", path, alice, json_body=patches(*keys))).status
    twice = [updates[0], updates[0]]
    missing = [updates[0], {**updates[0], "id": str(uuid4())}]
    for body, status in ((twice, 400), (missing, 404), ([], 200), (updates * 7, 400)):
        assert status == (await rest.call("PUT", path, alice, json_body=body)).status
    assert (201, []) == ((nothing := await rest.call("POST", path, alice, json_body=[])).status, nothing.json)
    shown = (await rest.call("GET", f"{model}/threats?sort=alias:asc", alice)).json["threats"]
    assert [("patched", 3)] * 3 == [(threat["name"], threat["version"]) for threat in shown]

    async def delete(*keys: str) -> Answer:
        return await rest.call("DELETE", f"{path}?threat_ids={','.join(keys)}", alice)

    for keys, status in (([ids[0], str(uuid4())], 404), ([ids[0], ids[0]], 400), (["x"], 400), ([], 400)):
        assert status == (await delete(*keys)).status
    assert {"deleted_count": 2, "deleted_ids": ids[:2]} == (await delete(*ids[:2])).json
    assert 1 == (await rest.call("GET", f"{model}/threats", alice)).json["total"]


async def test_a_bulk_put_makes_what_is_not_there(rest: RestClient, alice: str, model: str) -> None:
    path, key = f"{model}/documents/bulk", str(uuid4())
    body = [{**BODIES["document"], "id": key}]
    answers = [await rest.call("PUT", path, alice, json_body=body) for _ in range(2)]
    assert [(201, key, 1), (200, key, 2)] == [
        (answer.status, answer.json[0]["id"], answer.json[0]["version"]) for answer in answers
    ]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.bulk_most], ids=lambda kind: kind.name)
async def test_no_more_than_the_contract_says_are_written_at_once(
    rest: RestClient, alice: str, model: str, kind: Kind
) -> None:
    path = f"{model}/{kind.plural}/bulk"
    body = [BODIES[kind.name]] * kind.bulk_most
    assert 400 == (await rest.call("POST", path, alice, json_body=[*body, body[0]])).status
    assert kind.bulk_most == len((await rest.call("POST", path, alice, json_body=body)).json)


# --- metadata -----------------------------------------------------------------------------------


async def test_metadata_are_written_one_by_one_and_at_once(rest: RestClient, alice: str, model: str) -> None:
    path = f"{model}/metadata"

    async def call(method: str, rest_of_path: str = "", body: Any = ...) -> Answer:
        return await rest.call(method, path + rest_of_path, alice, json_body=body)

    def entries(**values: str) -> list[dict[str, str]]:
        return [{"key": key, "value": value} for key, value in values.items()]

    assert [] == (await call("GET")).json
    created = await call("POST", "", {"key": "a", "value": "1"})
    assert (201, {"key": "a", "value": "1"}) == (created.status, created.json)
    assert 409 == (await call("POST", "", {"key": "a", "value": "2"})).status
    assert {"key": "a", "value": "3"} == (await call("PUT", "/a", {"value": "3"})).json
    for method, body in (("GET", ...), ("PUT", {"value": "x"}), ("DELETE", ...)):
        assert 404 == (await call(method, "/nothing", body)).status
    assert entries(b="1", c="2") == (await call("POST", "/bulk", entries(c="2", b="1"))).json
    assert 409 == (await call("POST", "/bulk", entries(d="1", a="9"))).status
    assert entries(a="4", b="1", c="2", e="5") == (await call("PATCH", "/bulk", entries(a="4", e="5"))).json
    assert 204 == (await call("DELETE", "/a")).status
    assert entries(z="1") == (await call("PUT", "/bulk", entries(z="1"))).json
    assert entries(z="1") == (await rest.call("GET", model, alice)).json["metadata"]
    assert [] == (await call("PUT", "/bulk", [])).json


async def test_metadata_have_bounds(rest: RestClient, alice: str, model: str) -> None:
    path = f"{model}/metadata"
    for entry in (
        {"key": "", "value": "x"},
        {"key": "a b", "value": "x"},
        {"key": "k" * 257, "value": "x"},
        {"key": "k", "value": ""},
        {"key": "k", "value": "x" * 1025},
        {"key": "k", "value": "a\u202eb"},
        {"key": "k", "value": "x", "more": 1},
    ):
        assert 400 == (await rest.call("POST", path, alice, json_body=entry)).status, entry
    many = [{"key": f"k{n}", "value": "v"} for n in range(101)]
    assert 400 == (await rest.call("POST", f"{path}/bulk", alice, json_body=many)).status
    assert 400 == (await rest.call("POST", f"{path}/bulk", alice, json_body=[many[0], many[0]])).status
    for start in range(0, 100, 50):
        page = many[start : start + 50]
        assert 201 == (await rest.call("POST", f"{path}/bulk", alice, json_body=page)).status
    assert 400 == (await rest.call("POST", path, alice, json_body=many[100])).status
    for body, status in (
        ({"value": "w" * 1024}, 200),
        ({"key": "k1", "value": "w"}, 200),
        ({"key": "k2", "value": "w"}, 400),
        ({"value": ""}, 400),
    ):
        assert status == (await rest.call("PUT", f"{path}/k1", alice, json_body=body)).status, body
    assert 100 == len((await rest.call("GET", path, alice)).json)


# --- threat models ------------------------------------------------------------------------------


async def test_a_threat_model_is_shown_with_what_is_in_it(rest: RestClient, alice: str, model: str) -> None:
    diagram = await rest.create_diagram(alice, model.rpartition("/")[2])
    made = {kind.plural: await add(rest, alice, model, kind.name) for kind in KINDS}

    answer = await rest.call("GET", model, alice)

    schemas.ThreatModelOutput.model_validate_json(answer.data, strict=False)
    assert [diagram["id"]] == [shown["id"] for shown in answer.json["diagrams"]]
    for plural, child in made.items():
        expected = {name: value for name, value in child.items() if name != "content"}
        assert [expected] == answer.json[plural]
    (listed,) = (await rest.call("GET", "/threat_models", alice)).json["threat_models"]
    counts = ("diagram", "threat", "asset", "document", "note", "repo")
    assert [1] * 6 == [listed[f"{name}_count"] for name in counts]


async def test_put_of_a_threat_model_leaves_access_and_metadata_where_it_does_not_speak_of_them(
    rest: RestClient, alice: str
) -> None:
    entry = [{"key": "k", "value": "v"}]
    made = await rest.create_model(
        alice, user_grant("bob", "writer"), description="Old", metadata=entry, threat_model_framework="PASTA"
    )
    bob, path = await rest.sign_in("bob"), f"/threat_models/{made['id']}"

    answer = await rest.call("PUT", path, bob, json_body={"name": "New"})

    assert (200, '"2"') == (answer.status, answer.headers["ETag"])
    after = answer.json
    assert ("New", "STRIDE", made["authorization"], entry) == (
        after["name"],
        after["threat_model_framework"],
        after["authorization"],
        after["metadata"],
    )
    assert "description" not in after
    whole = {"name": "New", "authorization": made["authorization"], "metadata": []}
    assert [] == (await rest.call("PUT", path, bob, json_body=whole)).json["metadata"]
    fewer = {"name": "New", "authorization": [user_grant("alice", "owner")]}
    assert 403 == (await rest.call("PUT", path, bob, json_body=fewer)).status
    assert 200 == (await rest.call("PUT", path, alice, json_body=fewer)).status
    assert 403 == (await rest.call("GET", path, bob)).status
    empty = await rest.call("PUT", path, alice, json_body={"name": "New", "authorization": []})
    assert (409, {"code": "last_owner"}) == (empty.status, empty.json["details"])
    secret = await rest.call("PUT", path, alice, json_body={"name": "New", "is_confidential": True})
    assert 400 == secret.status


async def test_a_patch_sets_status_and_says_when(rest: RestClient, alice: str, model: str) -> None:
    before = (await rest.call("GET", model, alice)).json
    after = (await patch(rest, alice, model, replace("/status", "in_review"))).json
    same = (await patch(rest, alice, model, replace("/status", "in_review"), replace("/name", "x"))).json
    assert ("not_started", before["created_at"]) == (before["status"], before["status_updated"])
    assert ("in_review", True) == (after["status"], after["status_updated"] > before["status_updated"])
    assert after["status_updated"] == same["status_updated"]
    assert 400 == (await patch(rest, alice, model, replace("/status", "x" * 129))).status
    found = await rest.call("GET", "/threat_models?status=in_review&status=done", alice)
    assert 1 == found.json["total"]


async def test_a_security_reviewer_is_an_owner_while_assigned(
    rest: RestClient, alice: str, model: str
) -> None:
    rita = await rest.sign_in("rita")
    reviewer = {
        "principal_type": "user",
        "provider": "tmi",
        "provider_id": "rita@tmi.local",
        "display_name": "rita",
        "email": "rita@tmi.local",
    }
    assert 403 == (await rest.call("GET", model, rita)).status
    set_ = await patch(rest, alice, model, replace("/security_reviewer", reviewer))
    assert (200, reviewer) == (set_.status, set_.json["security_reviewer"])
    assert ["alice@tmi.local", "rita@tmi.local"] == [g["provider_id"] for g in set_.json["authorization"]]
    assert 200 == (await rest.call("GET", model, rita)).status
    for query, total in (("rita", 1), ("is:notnull", 1), ("is:null", 0)):
        found = await rest.call("GET", f"/threat_models?security_reviewer={query}", alice)
        assert total == found.json["total"]

    assert 409 == (await patch(rest, alice, model, {"op": "remove", "path": "/authorization/1"})).status
    cleared = await patch(rest, alice, model, {"op": "remove", "path": "/security_reviewer"})
    assert "security_reviewer" not in cleared.json
    assert 200 == (await patch(rest, alice, model, {"op": "remove", "path": "/authorization/1"})).status
    assert 403 == (await rest.call("GET", model, rita)).status


async def test_names_and_descriptions_of_threat_models_lose_their_html(rest: RestClient, alice: str) -> None:
    made = await rest.create_model(alice, name="R&D <b>shop</b>", description="a < b<script>x</script>")
    assert ("R&D shop", "a < b") == (made["name"], made["description"])
    for name in ("<b></b>", " ", "a\u202eb"):
        assert 400 == (await rest.call("POST", "/threat_models", alice, json_body={"name": name})).status


async def test_a_deleted_threat_model_is_gone_until_it_is_restored(
    rest: RestClient, alice: str, model: str
) -> None:
    diagram = f"{model}/diagrams/{(await rest.create_diagram(alice, model.rpartition('/')[2]))['id']}"
    threat = f"{model}/threats/{(await add(rest, alice, model))['id']}"
    assert 409 == (await rest.call("POST", f"{model}/restore", alice)).status

    assert 204 == (await rest.call("DELETE", model, alice)).status

    for path in (model, diagram, threat, f"{model}/threats", f"{model}/metadata"):
        assert 404 == (await rest.call("GET", path, alice)).status
    assert 404 == (await rest.call("POST", f"{threat}/restore", alice)).status
    assert 0 == (await rest.call("GET", "/threat_models", alice)).json["total"]
    (gone,) = (await rest.call("GET", "/threat_models?include_deleted=true", alice)).json["threat_models"]
    assert "deleted_at" in gone

    assert 200 == (await rest.call("POST", f"{model}/restore", alice)).status
    for path in (model, diagram, threat):
        assert 200 == (await rest.call("GET", path, alice)).status
