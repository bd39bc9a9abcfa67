"""Rules of HTTP that hold for every operation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api.edge import without_version
from api.headers import VERSION
from tests.rest import RestClient, over_memory


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


@pytest.fixture
async def alice(rest: RestClient) -> str:
    return await rest.sign_in("alice")


async def sent(rest: RestClient, method: str, path: str, token: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """What the application sends, to the byte; the usual client counts the length anew."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"authorization", f"Bearer {token}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "extensions": {},
    }
    messages: list[dict[str, Any]] = []
    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in asked:
            return message
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    app: Any = rest.app
    await app(scope, receive, send)
    start, *bodies = messages
    headers = {name: value for name, value in start["headers"] if name.lower() != b"x-request-id"}
    return start["status"], headers, b"".join(body["body"] for body in bodies)


@pytest.mark.parametrize(
    "path", ["/me", "/threat_models?limit=1", "/livez", "/openapi.json", "/docs", "/docs/page.js", "/nothing"]
)
async def test_head_answers_what_get_does_without_a_body(rest: RestClient, alice: str, path: str) -> None:
    status, headers, body = await sent(rest, "GET", path, alice)
    assert str(len(body)).encode() == headers[b"content-length"]
    assert (status, headers, b"") == await sent(rest, "HEAD", path, alice)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/json", 200),
        ("*/*", 200),
        ("application/*;q=0.1", 200),
        ("text/html, */*;q=0.1", 200),
        ("text/html", 406),
        ("application/xml, text/plain", 406),
        ("application/json;q=0", 406),
        ("", 200),
    ],
)
async def test_accept_is_enforced(rest: RestClient, alice: str, accept: str, status: int) -> None:
    answer = await rest.call("GET", "/me", alice, headers={"Accept": accept})
    assert status == answer.status
    if status == 406:
        assert "not_acceptable" == answer.json["error"]
        assert "application/json" == answer.headers["Content-Type"]


async def test_who_may_not_is_told_that_first(rest: RestClient) -> None:
    assert 401 == (await rest.call("GET", "/me", headers={"Accept": "text/html"})).status


async def test_an_answer_without_a_body_takes_any_accept(rest: RestClient, alice: str) -> None:
    model = await rest.create_model(alice)
    path = f"/threat_models/{model['id']}"
    assert 204 == (await rest.call("DELETE", path, alice, headers={"Accept": "image/png"})).status


async def test_every_answer_says_the_version(rest: RestClient, alice: str) -> None:
    for path in ("/me", "/nothing", "/docs"):
        assert VERSION == (await rest.call("GET", path, alice)).headers["X-API-Version"]


async def test_a_path_may_begin_with_the_version(rest: RestClient, alice: str) -> None:
    for path in ("/me", "/threat_models", "/openapi.json", "/livez"):
        plain = await rest.call("GET", path, alice)
        assert plain.data == (await rest.call("GET", f"/v1{path}", alice)).data
    for path in ("/v2/me", "/v1me", "/v1/v1/me"):
        assert 404 == (await rest.call("GET", path, alice)).status
    document = (await rest.call("GET", "/v1/openapi.json")).json
    assert not [path for path in document["paths"] if path.startswith("/v1")]


def test_the_version_is_taken_from_the_front_alone() -> None:
    assert ["/", "/", "/collab/x", "/v1x", "/a/v1/b"] == [
        without_version(path) for path in ("/v1", "/v1/", "/v1/collab/x", "/v1x", "/a/v1/b")
    ]


async def test_the_sign_in_paths_count_as_such_with_the_version(rest: RestClient) -> None:
    assert 400 == (await rest.call("GET", "/v1/oauth2/authorize")).status


async def test_the_root_says_what_runs_here(rest: RestClient) -> None:
    told = (await rest.call("GET", "/", headers={"Host": "tmi.example.org"})).json
    assert ("TMI", VERSION) == (told["service"]["name"], told["api"]["version"])
    assert "http://tmi.example.org/openapi.json" == told["api"]["specification"]
    assert "ok" == told["status"]["code"]
