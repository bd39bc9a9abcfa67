"""Choosing how to sign in: pages, the list of providers, and where clients may take their codes."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from api.client_callbacks import checked_callback
from api.errors import OAuthError
from api.identity.provider import Attempt, Identity, IdentityProvider, ProviderOptions
from api.services import ApiOptions
from persistence.memory.store import MemoryStore
from tests.rest import CALLBACK, Answer, RestClient, over_memory

EDITOR = "https://editor.example.org/callback"
PUBLIC_URL = "https://tmi.example.org"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Elsewhere:
    """A provider that is never visited here."""

    def __init__(self, key: str, name: str) -> None:
        self.options = ProviderOptions(key, "oidc", f"{key}-client", "a secret", "https://login.example.org")
        self.name = name
        self.icon = "oidc"

    async def address(self, attempt: Attempt) -> str:
        return f"https://login.example.org/authorize?state={attempt.state}"

    async def identity(self, answer: Mapping[str, str], attempt: Attempt) -> Identity:
        raise NotImplementedError


def providers(*keys: str) -> dict[str, IdentityProvider]:
    return {key: Elsewhere(key, f"<{key}> & Co") for key in keys}


async def page(rest: RestClient, headers: Mapping[str, str] | None = None, **changes: str | None) -> Answer:
    path = rest.authorize_path(**changes)
    return await rest.call("GET", path, headers=HTML | dict(headers or {}))


def fields(html: str) -> dict[str, str]:
    """The hidden fields of a page."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html))


# --- the page of the development provider -------------------------------------------------------


async def test_a_browser_that_names_nobody_gets_a_page_that_sends_the_request_again() -> None:
    async with over_memory() as rest:
        await rest.sign_in("alice")
        answer = await page(rest, login_hint=None, state="a+b/c=")
        html = answer.data.decode()
        told: dict[str, str | None] = {**fields(html), "login_hint": "Bob"}
        again = await page(rest, None, **told)

    assert (200, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert 'name="login_hint" value="alice"' in html
    assert {"idp", "client_callback", "state", "scope", "code_challenge", "code_challenge_method"} == set(
        fields(html)
    )
    assert 302 == again.status
    assert again.headers["Location"].startswith(CALLBACK)
    assert "state=a%2Bb%2Fc%3D" in again.headers["Location"]


async def test_the_page_runs_no_script_and_loads_nothing() -> None:
    async with over_memory() as rest:
        answer = await page(rest, login_hint=None)
    policy, html = answer.headers["Content-Security-Policy"], answer.data.decode()
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in policy + html
    assert not re.search(r"\b(src|href|style|on\w+)=", html)
    assert "form-action 'self' http://localhost:* http://127.0.0.1:* http://127.0.0.1:4321;" in policy
    assert "no-store" == answer.headers["Cache-Control"]


async def test_the_page_can_be_used_without_seeing_it() -> None:
    async with over_memory() as rest:
        html = (await page(rest, login_hint=None)).data.decode()
    assert '<html lang="en">' in html
    assert 1 == html.count("<h1>")
    assert "<title>Sign in to TMI</title>" in html
    assert re.search(r'<label for="name">.*<input id="name"', html)


async def test_what_a_client_sends_is_text_on_the_page_and_no_markup() -> None:
    callback = "http://127.0.0.1:1/'+x='onload=alert(1)&amp;"
    async with over_memory() as rest:
        html = (await page(rest, login_hint=None, client_callback=callback)).data.decode()
    assert "'+x='" not in html
    assert "&#x27;+x=&#x27;" in html


async def test_a_program_that_names_nobody_is_told_how() -> None:
    async with over_memory() as rest:
        answer = await rest.authorize(login_hint=None)
    assert 400 == answer.status
    assert "login_hint=alice" in answer.json["error_description"]


async def test_a_page_of_another_site_signs_nobody_in_without_a_press_of_the_button() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        sent = await page(rest, {"Sec-Fetch-Site": "cross-site"}, login_hint="mallory")
        assert not store.users
        pressed = await page(rest, {"Sec-Fetch-Site": "same-origin"}, login_hint="mallory")
    assert 200 == sent.status
    assert 'value="mallory">' in sent.data.decode()
    assert 302 == pressed.status


async def test_a_browser_gets_errors_as_a_page_and_is_redirected_nowhere() -> None:
    async with over_memory() as rest:
        answer = await page(rest, client_callback="https://evil.example/<script>")
    assert (400, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert "Location" not in answer.headers
    assert "form-action 'none'" in answer.headers["Content-Security-Policy"]
    assert b"<script" not in answer.data


# --- several providers --------------------------------------------------------------------------


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(OAuthError) as caught:
        yield
    assert code == caught.value.code


async def test_a_browser_that_names_no_provider_gets_the_choice() -> None:
    async with over_memory(identity_providers=providers("corp", "other")) as rest:
        html = (await page(rest, idp=None, login_hint=None)).data.decode()
        links = [link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', html)]
        answers = [await rest.call("GET", link, headers=HTML) for link in links]
    assert "Continue with &lt;corp&gt; &amp; Co" in html
    assert [302, 302, 200] == [answer.status for answer in answers]
    assert answers[0].headers["Location"].startswith("https://login.example.org/authorize?state=")


async def test_a_program_that_names_no_provider_gets_the_development_provider_where_there_is_one() -> None:
    known = providers("corp", "other")
    async with over_memory(identity_providers=known) as rest:
        assert (await rest.authorize(idp=None)).headers["Location"].startswith(CALLBACK)
    options = ApiOptions(public_url=PUBLIC_URL, client_callbacks=(EDITOR,))
    async with over_memory(options, identity_providers=known) as rest:
        answer = await rest.authorize(idp=None, client_callback=EDITOR)
        assert 400 == answer.status
        assert "/oauth2/providers" in answer.json["error_description"]
        assert 400 == (await rest.authorize(client_callback=EDITOR)).status
    async with over_memory(options) as rest:
        assert 400 == (await rest.authorize(idp=None, client_callback=EDITOR)).status


async def test_the_only_provider_needs_no_name() -> None:
    options = ApiOptions(public_url=PUBLIC_URL, client_callbacks=(EDITOR,))
    async with over_memory(options, identity_providers=providers("corp")) as rest:
        answer = await rest.authorize(idp=None, client_callback=EDITOR)
    assert answer.headers["Location"].startswith("https://login.example.org/authorize?state=")


async def test_providers_are_listed_without_their_secrets() -> None:
    options = ApiOptions(dev=True, public_url=PUBLIC_URL)
    async with over_memory(options, identity_providers=providers("corp")) as rest:
        answer = await rest.call("GET", "/oauth2/providers")
    assert ["corp", "tmi"] == [provider["id"] for provider in answer.json["providers"]]
    assert {
        "id": "corp",
        "name": "<corp> & Co",
        "icon": "oidc",
        "auth_url": f"{PUBLIC_URL}/oauth2/authorize?idp=corp",
        "token_url": f"{PUBLIC_URL}/oauth2/token?idp=corp",
        "redirect_uri": f"{PUBLIC_URL}/oauth2/callback",
        "client_id": "corp-client",
    } == answer.json["providers"][0]
    assert b"secret" not in answer.data


async def test_without_a_public_url_addresses_are_those_of_the_request() -> None:
    async with over_memory() as rest:
        answer = await rest.call("GET", "/oauth2/providers", headers={"Host": "127.0.0.1:8080"})
    assert "http://127.0.0.1:8080/oauth2/authorize?idp=tmi" == answer.json["providers"][0]["auth_url"]


async def test_the_groups_of_a_provider_are_listed_for_who_is_signed_in() -> None:
    async with over_memory(identity_providers=providers("corp")) as rest:
        token = await rest.sign_in("alice")
        await rest.create_model(token, {
            "principal_type": "group", "provider": "tmi", "provider_id": "everyone", "role": "reader"
        })  # fmt: skip
        mine = await rest.call("GET", "/oauth2/providers/tmi/groups", token)
        theirs = await rest.call("GET", "/oauth2/providers/corp/groups", token)
        statuses = [
            (await rest.call("GET", f"/oauth2/providers/{key}/groups", token)).status for key in ("no", "1")
        ]
    assert {"name": "everyone", "display_name": "Everyone", "used_in_authorizations": True} in (
        mine.json["groups"]
    )
    assert {"idp": "corp", "groups": []} == theirs.json
    assert [404, 400] == statuses


async def test_who_signs_in_is_told_by_which_issuer() -> None:
    async with over_memory(ApiOptions(dev=True, public_url=PUBLIC_URL)) as rest:
        answer = await rest.authorize()
    assert answer.headers["Location"].endswith("&iss=https%3A%2F%2Ftmi.example.org")


# --- client callbacks ---------------------------------------------------------------------------

LISTED = ApiOptions(
    public_url=PUBLIC_URL,
    client_callbacks=(EDITOR, "http://127.0.0.1/callback", "http://[::1]:8000/cb?x=1"),
)


@pytest.mark.parametrize(
    "callback",
    [
        EDITOR,
        f"{PUBLIC_URL}/session/callback",
        "http://127.0.0.1/callback",
        "http://127.0.0.1:53124/callback",
        "http://[::1]:1/cb?x=1",
    ],
)
def test_a_listed_callback_is_allowed_and_on_this_machine_with_any_port(callback: str) -> None:
    assert callback == checked_callback(callback, LISTED)


@pytest.mark.parametrize(
    "callback",
    [
        None,
        "",
        "https://editor.example.org/callback/",
        "https://editor.example.org/callback?x=1",
        "https://editor.example.org/callback#x",
        "https://editor.example.org:443/callback",
        "https://EDITOR.example.org/callback",
        "https://editor.example.org/callback/../callback",
        "https://editor.example.org.evil.example/callback",
        "https://editor.example.org@evil.example/callback",
        "http://editor.example.org/callback",
        " https://editor.example.org/callback",
        "https://editor.example.org:8443/callback",
        f"{PUBLIC_URL}/session/callback?x=1",
        f"{PUBLIC_URL}/oauth2/callback",
        "http://tmi.example.org/session/callback",
        "http://127.0.0.1:53124/other",
        "http://127.0.0.1:53124/callback?x=1",
        "https://127.0.0.1:53124/callback",
        "http://localhost:53124/callback",
        "http://127.0.0.2:53124/callback",
        "http://127.0.0.1:53124@evil.example/callback",
        "http://127.0.0.1.evil.example/callback",
        "http://[::1]:1/cb?x=2",
        "javascript:alert(1)",
    ],
)
def test_any_other_callback_is_refused(callback: str | None) -> None:
    with refused("invalid_request"):
        checked_callback(callback, LISTED)


def test_in_development_every_callback_on_this_machine_is_allowed_and_no_other() -> None:
    for callback in ("http://localhost:5173/x", "http://[::1]/", "https://127.0.0.1:1/?a=b"):
        assert callback == checked_callback(callback, ApiOptions(dev=True))
        with refused("invalid_request"):
            checked_callback(callback, ApiOptions())
    with refused("invalid_request"):
        checked_callback(EDITOR, ApiOptions(dev=True))
