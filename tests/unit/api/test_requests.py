"""What every request meets: JSON as it should be, one shape of errors, headers, documents, probes."""

import json
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.services import ApiOptions
from persistence.memory.store import MemoryStore
from tests.rest import RestClient, over_memory


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory(ApiOptions(dev=True, max_body_bytes=50_000)) as client:
        yield client


@pytest.fixture
async def alice(rest: RestClient) -> str:
    return await rest.sign_in("alice")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        b'{"name": NaN}',
        b'{"name": Infinity}',
        b'{"name": "a", "name": "b"}',
        b'{"name": "a", "authorization": [{"role": "reader", "role": "owner"}]}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xed\xa0\x80"}',
        b'{"name": "\xff"}',
        b'{"name": "\x01"}',
        b"{'name': 'a'}",
        b'{"name": "a",}',
        b'{"name": "a"} x',
        b'\xef\xbb\xbf{"name": "a"}',
        b"[" * 40_000,
        b'{"a":' * 8_000,
        b"9" * 40_000,
        '{"name": "a"}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body)[:40],
)
async def test_what_is_no_clean_json_is_400(rest: RestClient, alice: str, body: bytes) -> None:
    answer = await rest.call("POST", "/threat_models", alice, data=body)
    assert (answer.status, answer.json["error"]) == (400, "invalid_input")


async def test_a_body_over_the_bound_is_413(rest: RestClient, alice: str) -> None:
    body = json.dumps({"name": "x" * 60_000}).encode()
    answer = await rest.call("POST", "/threat_models", alice, data=body)
    assert (answer.status, answer.json["error"]) == (413, "payload_too_large")


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "application/jsonx"])
async def test_a_body_of_another_media_type_is_415(
    rest: RestClient, alice: str, content_type: str | None
) -> None:
    answer = await rest.call(
        "POST", "/threat_models", alice, data=b'{"name": "a"}', content_type=content_type
    )
    assert (answer.status, answer.json["error"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/threat_models/",
        "/threat_models//diagrams",
        "/docs/../me",
        "/%00",
    ],
)
async def test_an_unknown_path_is_404_in_the_one_shape_and_no_redirect(rest: RestClient, path: str) -> None:
    answer = await rest.call("GET", path)
    assert answer.status == 404
    assert {"error", "error_description"} == answer.json.keys()


async def test_another_method_is_405_with_those_that_are_allowed(rest: RestClient, alice: str) -> None:
    answer = await rest.call("DELETE", "/threat_models", alice)
    assert (answer.status, answer.json["error"]) == (405, "method_not_allowed")
    assert {"GET", "HEAD", "POST"} == set(answer.headers["Allow"].split(", "))


async def test_head_answers_as_get(rest: RestClient, alice: str) -> None:
    answer = await rest.call("HEAD", "/me", alice)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize("host", ["a b", "a..b", "[", "x/y", "é", "user@host", "h:x", "a" * 64])
async def test_a_host_that_is_none_is_400_on_every_path(rest: RestClient, host: str) -> None:
    for path in ("/livez", "/me", "/docs"):
        assert (await rest.call("GET", path, headers={"Host": host})).status == 400


class _Broken:
    async def visible_to(self, *_: object) -> None:
        raise RuntimeError("the secret of the database")


async def test_a_bug_is_500_logged_with_its_traceback_and_told_to_nobody(
    rest: RestClient, alice: str, caplog: pytest.LogCaptureFixture
) -> None:
    object.__setattr__(rest.services, "threat_models", _Broken())
    with caplog.at_level(logging.ERROR):
        answer = await rest.call("GET", "/threat_models?limit=5", alice)
    assert (answer.status, answer.json["error"]) == (500, "server_error")
    assert b"secret" not in answer.data
    assert "the secret of the database" in caplog.text
    assert alice not in caplog.text


@pytest.mark.parametrize(
    "path", ["/livez", "/nothing", "/me", "/docs", "/openapi.json", "/docs/swagger-ui.css"]
)
async def test_every_answer_carries_the_security_headers(rest: RestClient, path: str) -> None:
    headers = (await rest.call("GET", path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "no-store" in headers["Cache-Control"] or path.startswith("/docs/")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers


# --- documents ----------------------------------------------------------------------------------


async def test_the_docs_ask_no_other_host_for_anything(rest: RestClient) -> None:
    page = await rest.call("GET", "/docs")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.data.decode())
    policy = page.headers["Content-Security-Policy"]
    assert addresses
    for address in (*addresses, "/openapi.json"):
        assert address.startswith("/")
        assert (await rest.call("GET", address)).status == 200
    assert "unsafe" not in policy
    assert not re.search(r"https?:|\*", policy)
    assert b"validatorUrl: null" in (await rest.call("GET", "/docs/page.js")).data
    assert (await rest.call("GET", "/docs/index.html")).status == 404


BODILESS = (
    "createDiagramCollaborationSession",
    "drainNode",
    "endBrowserSession",
    "logoutCurrentUser",
    "reencryptSystemSettings",
)


async def test_every_documented_operation_names_its_answers_and_errors(rest: RestClient) -> None:
    document = (await rest.call("GET", "/openapi.json")).json
    ids = []
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            ids.append(operation["operationId"])
            assert operation["summary"], path
            public = operation.get("security") == []
            assert public or "401" in operation["responses"], path
            for parameter in re.findall(r"{(\w+)}", path):
                assert {"400", "404", "403"} <= operation["responses"].keys(), path
                assert parameter in {p["name"] for p in operation["parameters"]}
            bodiless = operation["operationId"] in BODILESS
            bodiless |= path.endswith(("/restore", "/rollback"))
            assert ("requestBody" in operation) == (method in ("post", "patch", "put") and not bodiless)
            assert "requestBody" not in operation or {"413", "415"} <= operation["responses"].keys()
    assert len(set(ids)) == len(ids)


async def test_every_reference_of_the_openapi_document_resolves(rest: RestClient) -> None:
    text = (await rest.call("GET", "/openapi.json")).data.decode()
    components = json.loads(text)["components"]
    for kind in ("schemas", "responses", "headers"):
        named = set(re.findall(rf'"\$ref":"#/components/{kind}/([\w-]+)"', text))
        assert named
        assert named <= components[kind].keys()
    assert '"$defs"' not in text


async def test_every_path_of_the_application_is_documented(rest: RestClient) -> None:
    documented = (await rest.call("GET", "/openapi.json")).json["paths"].keys()
    paths = {re.sub(r"<(\w+)>", r"{\1}", rule.rule) for rule in rest.app.url_map.iter_rules()}
    assert {path for path in paths if not path.startswith(("/docs", "/openapi"))} == documented


# --- probes -------------------------------------------------------------------------------------


async def test_readyz_follows_the_services_life() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        health = rest.services.health
        health.started = False
        starting = await rest.call("GET", "/readyz")
        health.started = True
        ready = await rest.call("GET", "/readyz")
        health.draining = True
        draining = await rest.call("GET", "/readyz")
        alive = await rest.call("GET", "/livez")
    assert [503, 200, 503, 200] == [a.status for a in (starting, ready, draining, alive)]
    assert ready.json == {"status": "ok"}
    assert {"error", "error_description"} == starting.json.keys() == draining.json.keys()


async def test_readyz_stays_200_and_says_so_while_the_database_is_away() -> None:
    store = MemoryStore(unavailable=False)
    async with over_memory(store=store) as rest:
        store.unavailable = True
        answer = await rest.call("GET", "/readyz")
    assert (answer.status, answer.json) == (200, {"status": "degraded: database"})


async def test_many_probes_cost_one_ping() -> None:
    pings = []

    class Counting:
        async def ping(self, timeout_s: float) -> bool:
            pings.append(timeout_s)
            return True

    async with over_memory() as rest:
        object.__setattr__(rest.services.database, "ping", Counting().ping)
        for _ in range(50):
            await rest.call("GET", "/readyz")
    assert len(pings) == 1


def test_no_module_of_the_api_asks_for_the_network() -> None:
    """Tokens bring no addresses that are fetched: nothing in the package opens a connection."""
    client = re.compile(r"^(import|from) (httpx|requests|urllib\.request|aiohttp)\b", re.MULTILINE)
    for path in Path(__file__).parents[3].joinpath("api").glob("*.py"):
        assert not client.search(path.read_text())
