"""Limits of REST requests, and what a client is told of them."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tests.rest import RestClient, given, over_memory

RATES = given(user_requests_per_min=10, address_requests_per_min=60, sign_in_requests_per_min=8)


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    if time.time() % 60 > 55:  # a window must not end in the middle of a test
        await asyncio.sleep(60 - time.time() % 60)
    async with over_memory(given=RATES) as client:
        yield client


async def test_a_user_is_told_what_is_left_and_when_to_come_back(rest: RestClient) -> None:
    alice, bob = await rest.sign_in("alice"), await rest.sign_in("bob")
    for left in reversed(range(10)):
        answer = await rest.call("GET", "/threat_models", alice)
        assert (200, "10", str(left)) == (
            answer.status, answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"],
        )  # fmt: skip
    answer = await rest.call("GET", "/threat_models", alice)
    assert (429, "0") == (answer.status, answer.headers["X-RateLimit-Remaining"])
    reset_in_s = int(answer.headers["X-RateLimit-Reset"]) - time.time()
    assert 0 < reset_in_s <= 60
    assert abs(int(answer.headers["Retry-After"]) - reset_in_s) <= 2
    assert 200 == (await rest.call("GET", "/threat_models", bob)).status


async def test_guessing_tokens_is_limited_by_address(rest: RestClient) -> None:
    statuses = [(await rest.call("GET", "/threat_models", "guessed")).status for _ in range(62)]
    assert [401] * 60 + [429] * 2 == statuses


async def test_sign_in_is_limited_more_strictly_whatever_the_address_claims(rest: RestClient) -> None:
    answers = [
        await rest.call("GET", "/oauth2/authorize", headers={"X-Forwarded-For": f"192.0.2.{number}"})
        for number in range(9)
    ]
    assert [400] * 8 + [429] == [answer.status for answer in answers]
    assert "8" == answers[0].headers["X-RateLimit-Limit"]
    assert 401 == (await rest.call("GET", "/threat_models")).status


async def test_a_refused_sign_in_says_when_to_come_back_in_the_shape_of_all_errors(rest: RestClient) -> None:
    for path in ("/oauth2/token", "/oauth2/refresh", "/oauth2/authorize"):
        answers = [await rest.call("GET" if "authorize" in path else "POST", path) for _ in range(9)]
        refused = answers[-1]
        assert 429 == refused.status
        assert "too_many_requests" == refused.json["error"]
        assert "sign-in" in refused.json["error_description"]
        assert ("8", "0") == (refused.headers["X-RateLimit-Limit"], refused.headers["X-RateLimit-Remaining"])
        assert 0 < int(refused.headers["Retry-After"]) <= 60


async def test_an_hour_is_limited_as_well() -> None:
    async with over_memory(given=given(user_requests_per_min=100, user_requests_per_hour=3)) as rest:
        alice = await rest.sign_in("alice")
        answers = [await rest.call("GET", "/threat_models", alice) for _ in range(4)]
        assert [200, 200, 200, 429] == [answer.status for answer in answers]
        assert ("3", "0") == (
            answers[-1].headers["X-RateLimit-Limit"], answers[-1].headers["X-RateLimit-Remaining"],
        )  # fmt: skip
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 3600


async def test_every_operation_but_probes_declares_that_it_may_be_refused(rest: RestClient) -> None:
    document = (await rest.call("GET", "/openapi.json")).json
    silent = {
        f"{method} {path}"
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation["responses"].get("429") != {"$ref": "#/components/responses/TooManyRequests"}
    }
    assert {"get /livez", "get /readyz"} == silent
    declared = document["components"]["responses"]["TooManyRequests"]["headers"]
    assert {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "Retry-After"} <= set(declared)


async def test_probes_are_not_counted(rest: RestClient) -> None:
    answers = [await rest.call("GET", "/livez") for _ in range(70)]
    assert {200} == {answer.status for answer in answers}
    assert "X-RateLimit-Limit" not in answers[-1].headers
