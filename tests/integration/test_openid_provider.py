"""Signing in at a real OpenID provider (npm oidc-provider), over the in-memory store."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import pytest

from api.identity import web
from api.identity.provider import ProviderOptions
from api.identity.providers import identity_providers
from api.services import ApiOptions
from persistence.memory.store import MemoryStore
from tests.harness.identity import CLIENT_ID, CLIENT_SECRET, PUBLIC_URL, Browser, OpenId, browsing, new_key
from tests.rest import VERIFIER, RestClient, over_memory, user_grant

OPTIONS = ApiOptions(dev=True, public_url=PUBLIC_URL)


@pytest.fixture(scope="module")
def openid() -> Iterator[OpenId]:
    with OpenId() as openid:
        yield openid


@asynccontextmanager
async def service(
    openid: OpenId, store: MemoryStore | None = None, secret: str | None = CLIENT_SECRET
) -> AsyncIterator[RestClient]:
    told = ProviderOptions("corp", "oidc", CLIENT_ID, secret, openid.url, name="Corp")
    async with web.opened(allow_loopback=True) as client:
        providers = identity_providers([told], PUBLIC_URL, client)
        async with over_memory(OPTIONS, store, identity_providers=providers) as rest:
            yield rest


@pytest.fixture
async def rest(openid: OpenId) -> AsyncIterator[RestClient]:
    async with service(openid) as rest:
        yield rest


@pytest.fixture
def browser(rest: RestClient) -> Iterator[Browser]:
    with browsing(rest) as browser:
        yield browser


async def me(rest: RestClient, told: Mapping[str, str]) -> Mapping[str, object]:
    """Who a client has signed in that was told this."""
    assert "code" in told, told
    answer = await rest.exchange(
        grant_type="authorization_code", code=told["code"], code_verifier=VERIFIER
    )
    assert answer.status == 200, answer.data
    userinfo = await rest.call("GET", "/oauth2/userinfo", answer.json["access_token"])
    return dict(userinfo.json)


async def test_a_person_signs_in_and_is_the_same_the_next_time(
    openid: OpenId, rest: RestClient, browser: Browser
) -> None:
    openid.next(sub="1", email="dave@example.org", email_verified=True, name="Dave")

    told = await browser.sign_in("corp")
    first = await me(rest, told)
    openid.next(sub="1", email="david@example.org", email_verified=True, name="David")
    again = await me(rest, await browser.sign_in("corp"))

    assert {"code": told["code"], "state": "xyz", "iss": PUBLIC_URL} == told
    assert ("corp", "Dave", "dave@example.org") == (first["idp"], first["name"], first["email"])
    assert ("corp", "David", "david@example.org") == (again["idp"], again["name"], again["email"])
    assert first["sub"] == again["sub"]


@pytest.mark.parametrize(("verified", "expected"), [(True, 200), (False, 403), (None, 403)])
async def test_a_person_has_the_roles_of_an_address_that_the_provider_vouches_for(
    openid: OpenId, rest: RestClient, browser: Browser, verified: bool | None, expected: int
) -> None:
    named = user_grant("dave", "reader") | {"provider": "corp", "provider_id": "dave@example.org"}
    model = await rest.create_model(await rest.sign_in("alice"), named)
    openid.next(sub="2", email="dave@example.org", email_verified=verified)

    told = await browser.sign_in("corp")
    tokens = await rest.exchange(
        grant_type="authorization_code", code=told["code"], code_verifier=VERIFIER
    )

    path = f"/threat_models/{model['id']}"
    assert expected == (await rest.call("GET", path, tokens.json["access_token"])).status


@pytest.mark.parametrize("authentication", ["client_secret_post", "none"])
async def test_a_client_that_shows_its_secret_otherwise_or_has_none(authentication: str) -> None:
    secret = None if authentication == "none" else CLIENT_SECRET
    with OpenId(authentication=authentication, thin=False) as openid:
        async with service(openid, secret=secret) as rest:
            openid.next(sub="1", email="dave@example.org", email_verified=True)
            with browsing(rest) as browser:
                assert "dave@example.org" == (await me(rest, await browser.sign_in("corp")))["email"]


async def test_a_state_is_good_once_even_with_a_fresh_code(
    openid: OpenId, rest: RestClient, browser: Browser
) -> None:
    openid.next(sub="1", email="dave@example.org", email_verified=True)
    address = browser.at_provider((await browser.begin("corp")).headers["Location"])
    assert "code" in await browser.come_back(address)

    again = await browser.tmi(address.removeprefix(PUBLIC_URL))

    assert (400, "invalid_request") == (again.status, again.json["error"])


async def test_a_code_of_the_provider_is_good_once_and_for_its_own_visit_alone(
    openid: OpenId, rest: RestClient, browser: Browser
) -> None:
    openid.next(sub="1", email="dave@example.org", email_verified=True)
    address = browser.at_provider((await browser.begin("corp")).headers["Location"])
    code = address.partition("code=")[2].partition("&")[0]
    other = browser.at_provider((await browser.begin("corp")).headers["Location"])
    injected = other.replace(other.partition("code=")[2].partition("&")[0], code)

    told = await browser.come_back(injected)

    assert ("server_error", "xyz", True) == (told["error"], told["state"], "code" not in told)


async def test_another_browser_can_not_finish_a_sign_in_and_the_own_one_still_can(
    openid: OpenId, rest: RestClient, browser: Browser
) -> None:
    openid.next(sub="1", email="dave@example.org", email_verified=True)
    address = browser.at_provider((await browser.begin("corp")).headers["Location"])
    with browsing(rest) as victim:
        assert 400 == (await victim.tmi(address.removeprefix(PUBLIC_URL))).status
        await victim.begin("corp")
        assert 400 == (await victim.tmi(address.removeprefix(PUBLIC_URL))).status

    assert "code" in await browser.come_back(address)


async def test_two_sign_ins_of_one_browser_do_not_disturb_each_other(
    openid: OpenId, rest: RestClient, browser: Browser
) -> None:
    openid.next(sub="1", email="dave@example.org", email_verified=True)
    addresses = [
        browser.at_provider((await browser.begin("corp")).headers["Location"]) for _ in range(2)
    ]

    assert ["code", "code"] == [
        next(iter(await browser.come_back(address))) for address in reversed(addresses)
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("access_denied", "access_denied"),
        ("login_required", "access_denied"),
        ("temporarily_unavailable", "temporarily_unavailable"),
        ("invalid_scope", "server_error"),
    ],
)
async def test_what_the_provider_says_against_it_the_client_learns_in_our_words(
    openid: OpenId, rest: RestClient, browser: Browser, error: str, expected: str
) -> None:
    openid.refuse(error)

    told = await browser.sign_in("corp")

    assert {"error", "error_description", "state", "iss"} == told.keys()
    assert (expected, "xyz") == (told["error"], told["state"])
    assert "<" not in told["error_description"]


async def test_a_wrong_client_secret_is_told_to_nobody(
    openid: OpenId, caplog: pytest.LogCaptureFixture
) -> None:
    openid.next(sub="1", email="dave@example.org", email_verified=True)
    async with service(openid, secret="not the secret") as rest:
        with browsing(rest) as browser:
            told = await browser.sign_in("corp")

    assert "server_error" == told["error"]
    assert "invalid_client" in caplog.text
    assert "not the secret" not in caplog.text + str(told)
    assert "not+the+secret" not in caplog.text + str(told)


async def test_a_rotation_of_keys_costs_nobody_a_sign_in() -> None:
    with OpenId() as openid:
        async with service(openid) as rest:
            with browsing(rest) as browser:
                openid.next(sub="1", email="dave@example.org", email_verified=True)
                assert "code" in await browser.sign_in("corp")
            openid.restart(new_key("second"))
            openid.next(sub="1", email="dave@example.org", email_verified=True)
            with browsing(rest) as browser:
                assert "code" in await browser.sign_in("corp")
