"""The preferences of people, bounded by the contract."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.rest import RestClient, over_memory


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def test_preferences_are_empty_created_once_and_replaced(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    path, first = "/me/preferences", {"tmi-ux": {"a": [1, None, "\u0000"]}}
    second: dict[str, Any] = {"cli": {}}

    async def call(method: str, token: str, body: Any = ...) -> tuple[int, Any]:
        answer = await rest.call(method, path, token, json_body=body)
        return answer.status, answer.json

    assert (200, {}) == await call("GET", alice)
    assert (201, first) == await call("POST", alice, first)
    assert 409 == (await call("POST", alice, second))[0]
    assert (200, first) == await call("GET", alice)
    assert (200, second) == await call("PUT", alice, second)
    assert (200, second) == await call("GET", alice)
    assert (200, {}) == await call("GET", bob)


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        {"ux": 1},
        {"ux": []},
        {"": {}},
        {"a b": {}},
        {"a\n": {}},
        {"x" * 65: {}},
        {f"client{n}": {} for n in range(21)},
        {"ux": {"a": "x" * 1024}},
        {"ux": {"a": "\u00e9" * 512}},
    ],
    ids=str,
)
async def test_what_the_contract_does_not_take_is_refused(rest: RestClient, body: Any) -> None:
    alice = await rest.sign_in("alice")
    for method in ("POST", "PUT"):
        assert 400 == (await rest.call(method, "/me/preferences", alice, json_body=body)).status
    assert {} == (await rest.call("GET", "/me/preferences", alice)).json


async def test_a_kilobyte_fits_and_a_byte_more_does_not(rest: RestClient) -> None:
    alice = await rest.sign_in("alice")
    room = 1024 - len('{"ux":{"a":""}}')
    for extra, status in ((0, 200), (1, 400)):
        body = {"ux": {"a": "x" * (room + extra)}}
        assert status == (await rest.call("PUT", "/me/preferences", alice, json_body=body)).status
