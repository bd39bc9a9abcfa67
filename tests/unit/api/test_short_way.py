"""The short way answers what the long way answers, and nothing else."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from email.parser import BytesParser
from typing import Any
from uuid import uuid4

import pytest

from api.app import RestApp
from api.origins import Origins
from api.rates import Counts
from api.short_way import asked
from tests.rest import OPTIONS, RestClient, group_grant, over_memory
from tmi.domain.configuration import GivenSetting
from tmi.domain.kinds import KINDS
from tmi.domain.roles import Action, Role, may

ID = "0b8f0a3e-6f6c-4e0a-9c43-9a2b8f0c1d2e"
HOST = "Host: tmi.test\r\n"
VARYING = {"date", "x-ratelimit-remaining", "x-request-id"}
BODIES: Mapping[str, dict[str, Any]] = {
    "threats": {
        "name": "Ünï",
        "threat_type": ["Tampering"],
        "score": 7.0,
        "metadata": [{"key": "k", "value": '"'}],
    },
    "assets": {"name": "Keys", "type": "data", "classification": ["a", "b"]},
    "documents": {"name": "Plan", "uri": "https://t.example/1"},
    "notes": {"name": "Note", "content": "# much"},
    "repositories": {"uri": "https://t.example/2", "parameters": {"refType": "tag", "refValue": "1"}},
}


def head(path: str, *lines: str) -> bytes:
    return (f"GET {path} HTTP/1.1\r\n{HOST}" + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


Said = tuple[int, dict[str, str], bytes]


async def short(rest: RestClient, path: str, token: str, *lines: str) -> Said | Counts:
    """What the short way says of a request, which it has to take."""
    assert isinstance(rest.app, RestApp)
    wanted = asked(head(path, f"Authorization: Bearer {token}", *lines))
    assert wanted is not None
    answer = await rest.app.short_way.answer(wanted, "127.0.0.1", "http")
    if isinstance(answer, Counts):
        return answer
    start, _, body = answer.partition(b"\r\n\r\n")
    line, _, rest_of_head = start.partition(b"\r\n")
    fields = BytesParser().parsebytes(rest_of_head + b"\r\n\r\n")
    return int(line.split()[1]), {name.lower(): value for name, value in fields.items()}, body


@pytest.fixture(params=[frozenset(), frozenset({"https://editor.example"})], ids=["", "origins"])
async def rest(request: pytest.FixtureRequest) -> AsyncIterator[RestClient]:
    given = [GivenSetting("user_requests_per_min", "900", "int", "", True)]
    async with over_memory(replace(OPTIONS, origins=Origins(listed=request.param)), given=given) as client:
        yield client


async def filled(rest: RestClient, token: str) -> tuple[str, dict[str, str]]:
    """A threat model, and one child of each kind."""
    model = (await rest.create_model(token, group_grant("everyone", "reader", "*"), description="x"))["id"]
    await rest.create_diagram(token, model)
    made = {}
    for plural, body in BODIES.items():
        answer = await rest.call("POST", f"/threat_models/{model}/{plural}", token, json_body=body)
        assert answer.status == 201, answer.data
        made[plural] = answer.json["id"]
    return model, made


async def test_each_answer_is_that_of_the_long_way(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    model, made = await filled(rest, alice)
    paths = [
        "/threat_models", "/threat_models?limit=1&offset=1", "/v1/threat_models", f"/threat_models/{model}",
        *(f"/threat_models/{model}/{plural}" for plural in made),
        *(f"/threat_models/{model}/{plural}/{key}" for plural, key in made.items()),
        f"/threat_models/{model}/threats?sort=name:asc&threat_type=Tampering&limit=5",
        f"/threat_models/{model}/threats?mitigated=true",
    ]  # fmt: skip
    for path in paths:
        answer = await short(rest, path, alice)
        assert not isinstance(answer, Counts), path
        status, headers, body = answer
        long = await rest.call("GET", path, alice)
        told = {name.lower(): value for name, value in long.headers.items()}
        assert (long.status, long.data) == (status, body), path
        assert {k: v for k, v in told.items() if k not in VARYING} == {
            k: v for k, v in headers.items() if k not in VARYING
        }, path
        assert VARYING - {"date"} <= told.keys() & headers.keys()


async def test_what_would_be_refused_goes_the_long_way_counted_once(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    model = (await rest.create_model(alice))["id"]
    of_model = f"/threat_models/{model}"
    made = await rest.call("POST", f"{of_model}/threats", alice, json_body=BODIES["threats"])
    of_others = [of_model, f"{of_model}/threats", f"{of_model}/threats/{made.json['id']}"]
    missing = [f"/threat_models/{uuid4()}", f"/threat_models/{model}/threats/{uuid4()}"]
    for who, path in [*((bob, path) for path in of_others), *((alice, path) for path in missing)]:
        counts = await short(rest, path, who)
        assert isinstance(counts, Counts), path
        assert counts.nearest is not None
    of_threats = [f"{of_model}/threats?{query}" for query in ("limit=101", "include_deleted=true", "x=y")]
    for path in ("/threat_models?limit=0", *of_threats):
        assert isinstance(await short(rest, path, alice), Counts), path
    assert isinstance(await short(rest, "/threat_models", "no.token"), Counts)
    assert (await rest.call("DELETE", f"/threat_models/{model}", alice)).status == 204
    assert isinstance(await short(rest, f"/threat_models/{model}", alice), Counts)


async def test_a_sign_in_or_a_role_that_ended_is_felt_at_once(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    shared = await rest.create_model(alice, group_grant("everyone", "reader", "*"))
    path = f"/threat_models/{shared['id']}"
    assert not isinstance(await short(rest, path, bob), Counts)
    operation = {"op": "remove", "path": "/authorization/1"}
    assert (await rest.patch(alice, shared["id"], operation)).status == 200
    assert isinstance(await short(rest, path, bob), Counts)
    assert (await rest.call("POST", "/me/logout", alice)).status == 204
    assert isinstance(await short(rest, path, alice), Counts)


async def test_requests_of_both_ways_share_their_limits() -> None:
    async with over_memory(given=[GivenSetting("user_requests_per_min", "9", "int", "", True)]) as rest:
        alice = await rest.sign_in("alice")
        first = await short(rest, "/threat_models", alice)
        long = await rest.call("GET", "/threat_models", alice)
        second = await short(rest, "/threat_models", alice)
        assert not isinstance(first, Counts)
        assert not isinstance(second, Counts)
        left = [int(first[1]["x-ratelimit-remaining"]), int(long.headers["X-RateLimit-Remaining"])]
        left.append(int(second[1]["x-ratelimit-remaining"]))
        assert [left[0], left[0] - 1, left[0] - 2] == left


USUAL = f"GET /threat_models/{ID} HTTP/1.1\r\n{HOST}"


@pytest.mark.parametrize(
    "received",
    [
        f"{USUAL}Cookie: a=b\r\n\r\n",
        f"{USUAL}Origin: https://x.example\r\n\r\n",
        f"{USUAL}Content-Length: 0\r\n\r\n",
        f"{USUAL}Transfer-Encoding: chunked\r\n\r\n",
        f"{USUAL}Connection: close\r\n\r\n",
        f"{USUAL}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        f"{USUAL}Expect: 100-continue\r\n\r\n",
        f"{USUAL}Accept: application/yaml\r\n\r\n",
        f"{USUAL}{HOST}\r\n",
        f"{USUAL}Authorization: a\r\nauthorization: b\r\n\r\n",
        f"{USUAL}A: b\r\n c\r\n\r\n",
        f"{USUAL}A : b\r\n\r\n",
        f"{USUAL}A: \x00\r\n\r\n",
        f"{USUAL}A: é\r\n\r\n",
        f"{USUAL}A: b\n\r\n\r\n",
        f"{USUAL}\r\n{USUAL}\r\n",
        f"{USUAL}\r\nrest",
        USUAL,
        f"{USUAL}A: {'x' * 9000}\r\n\r\n",
        f"GET /threat_models/{ID} HTTP/1.0\r\n{HOST}\r\n",
        f"HEAD /threat_models/{ID} HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models/{ID} HTTP/1.1\r\n\r\n",
        f"GET /threat_models/{ID} HTTP/1.1\r\nHost: a b\r\n\r\n",
        f"GET /threat_models/{ID}/ HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models//threats HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models/%30 HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models/{ID}/diagrams HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models/{ID}/threats/{ID}/metadata HTTP/1.1\r\n{HOST}\r\n",
        f"GET /me HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models?limit=1&limit=2 HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models?limit HTTP/1.1\r\n{HOST}\r\n",
        f"GET /threat_models?name=a%20b HTTP/1.1\r\n{HOST}\r\n",
        f"GET http://x/threat_models HTTP/1.1\r\n{HOST}\r\n",
    ],
)
def test_whatever_is_out_of_the_ordinary_goes_the_long_way(received: str) -> None:
    assert asked((USUAL + "\r\n").encode()) is not None
    assert asked(received.encode()) is None


def test_every_role_may_read_and_every_kind_has_a_body_here() -> None:
    assert all(may(role, Action.READ) for role in Role)
    assert {kind.plural for kind in KINDS} == BODIES.keys()
