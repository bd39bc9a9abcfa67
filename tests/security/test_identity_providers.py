"""Identity providers that lie, fail or are not what they say: nobody is signed in by them."""

import base64
import json
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from joserfc import jwk
from joserfc.errors import SecurityWarning

from api.identity import web
from api.identity.provider import ProviderOptions
from api.identity.providers import identity_providers
from api.services import ApiOptions
from persistence.memory.store import MemoryStore
from tests.harness.identity import (
    CLIENT_ID,
    CLIENT_SECRET,
    PUBLIC_URL,
    Asked,
    Browser,
    Forger,
    GitHubAccount,
    GitHubSite,
    Reply,
    browsing,
    in_json,
    new_key,
    signed,
)
from tests.rest import RestClient, over_memory

Json = Any
OPTIONS = ApiOptions(dev=True, public_url=PUBLIC_URL)
NOW = int(time.time())
HOUR = 3600
TENANT = "11111111-2222-3333-4444-555555555555"
OTHER_TENANT = "99999999-2222-3333-4444-555555555555"
KEY = new_key("another")


@pytest.fixture(scope="module")
def _forger() -> Iterator[Forger]:
    with Forger() as forger:
        yield forger


@pytest.fixture
def forger(_forger: Forger) -> Forger:
    """One that tells the truth until it is told otherwise."""
    _forger.keys = _forger.keys[-1:]
    _forger.claims, _forger.header, _forger.document, _forger.back = {}, {}, {}, {}
    _forger.signed = _forger.sign
    _forger.override.clear()
    _forger.asked.clear()
    return _forger


@pytest.fixture
def github() -> Iterator[GitHubSite]:
    with GitHubSite() as github:
        yield github


def at(url: str, kind: Any = "oidc", **more: Any) -> ProviderOptions:
    return ProviderOptions(
        **{"id": "corp", "kind": kind, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        | {"issuer": url, "name": "Corp"} | more
    )  # fmt: skip


@asynccontextmanager
async def visiting(
    options: ProviderOptions, store: MemoryStore | None = None, *, loopback: bool = True
) -> AsyncIterator[Browser]:
    async with web.opened(allow_loopback=loopback) as client:
        providers = identity_providers([options], PUBLIC_URL, client)
        async with over_memory(OPTIONS, store, identity_providers=providers) as rest:
            with browsing(rest) as browser:
                yield browser


async def account(store: MemoryStore) -> tuple[str, str, bool, str]:
    """Who was signed in last."""
    user = list(store.users.values())[-1]
    return user.provider_id, user.email, user.email_verified, user.name


def unsigned(header: Json, claims: Json) -> str:
    def encoded(part: Json) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    return f"{encoded(header | {'alg': 'none'})}.{encoded(claims)}."


def by(key: jwk.Key, **header: Json) -> Callable[[Json, Json], str]:
    def sign(given: Json, claims: Json) -> str:
        told = {name: value for name, value in (given | header).items() if value is not None}
        return signed(told, claims, key)

    return sign


def with_secret(secret: str) -> Callable[[Json, Json], str]:
    return by(jwk.OctKey.import_key(secret.ljust(32, "=")), alg="HS256")


def broken(header: Json, claims: Json) -> str:
    """Other claims under a good signature."""
    first, _, last = KEEPER.sign(header, claims).split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "1"}).encode()).rstrip(b"=").decode()
    return f"{first}.{body}.{last}"


class _Keeper:
    """The signature of the forger that a test uses."""

    sign: Callable[[Json, Json], str]


KEEPER = _Keeper()


# --- OpenID Connect -----------------------------------------------------------------------------


async def test_the_forger_signs_people_in_while_it_tells_the_truth(forger: Forger) -> None:
    store = MemoryStore()
    async with visiting(at(forger.url), store) as browser:
        assert "code" in await browser.sign_in("corp")
    assert ("4711", "dave@example.org", True, "Dave") == await account(store)


LIES: dict[str, dict[str, Json]] = {
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "another issuer": {"iss": "https://accounts.google.com"},
    "an issuer with a slash more": {"iss": "<url>/"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "another-client"},
    "no audience": {"aud": None},
    "an empty audience": {"aud": []},
    "several audiences without an authorized party": {"aud": [CLIENT_ID, "another-client"]},
    "another authorized party": {"azp": "another-client"},
    "expired": {"exp": NOW - 120},
    "no expiry": {"exp": None},
    "an expiry that is a text": {"exp": str(NOW + HOUR)},
    "an expiry that never comes": {"exp": float("nan")},
    "issued in the future": {"iat": NOW + HOUR},
    "not valid yet": {"nbf": NOW + HOUR},
    "no subject": {"sub": None},
    "a subject that is a number": {"sub": 4711},
    "an empty subject": {"sub": ""},
    "a subject too long": {"sub": "x" * 256},
    "a subject with a NUL": {"sub": "a\0b"},
    "the hash of another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


@pytest.mark.parametrize("lie", LIES)
async def test_an_id_token_that_lies_signs_nobody_in(forger: Forger, lie: str) -> None:
    store = MemoryStore()
    forger.claims = {
        name: value.replace("<url>", forger.url) if isinstance(value, str) else value
        for name, value in LIES[lie].items()
    }
    async with visiting(at(forger.url), store) as browser:
        told = await browser.sign_in("corp")
    assert ("server_error", "xyz") == (told["error"], told["state"])
    assert not store.users


SIGNATURES: dict[str, Callable[[Json, Json], str]] = {
    "alg none": unsigned,
    "alg none in another case": lambda h, c: unsigned(h, c).replace("bm9uZSI", "bk9uRSI"),
    "HMAC with the client's secret": with_secret(CLIENT_SECRET),
    "HMAC with another secret": with_secret("x"),
    "another key under the kid of the issuer's": by(KEY),
    "another key under its own kid": by(KEY, kid="another"),
    "another key without a kid": by(KEY, kid=None),
    "a key in the header": by(KEY, jwk=KEY.as_dict(private=False)),
    "claims changed after signing": broken,
    "no signature": lambda h, c: KEEPER.sign(h, c).rpartition(".")[0] + ".",
    "two parts": lambda h, c: KEEPER.sign(h, c).rpartition(".")[0],
    "no token": lambda h, c: "x",
    "a header that is no object": lambda h, c: "W10." + KEEPER.sign(h, c).partition(".")[2],
    "a header that is deep": lambda h, c: (
        base64.urlsafe_b64encode(b"[" * 40_000).decode() + "." + KEEPER.sign(h, c).partition(".")[2]
    ),
    "a token too long": lambda h, c: KEEPER.sign(h, c | {"x": "y" * 100_000}),
}


@pytest.mark.parametrize("signature", SIGNATURES)
async def test_an_id_token_that_the_issuer_did_not_sign_signs_nobody_in(
    forger: Forger, signature: str
) -> None:
    store = MemoryStore()
    KEEPER.sign = forger.sign
    forger.signed = SIGNATURES[signature]
    async with visiting(at(forger.url), store) as browser:
        told = await browser.sign_in("corp")
    assert "server_error" == told["error"]
    assert not store.users


async def test_clocks_may_differ_by_less_than_a_minute(forger: Forger) -> None:
    now = int(time.time())
    forger.claims = {"exp": now - 30, "iat": now + 30}
    async with visiting(at(forger.url)) as browser:
        assert "code" in await browser.sign_in("corp")


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "PS256"])
async def test_other_algorithms_hold_as_well(forger: Forger, algorithm: str) -> None:
    made: dict[str, jwk.Key] = {
        "ES256": jwk.ECKey.generate_key("P-256", {"kid": "k2"}, private=True),
        "EdDSA": jwk.OKPKey.generate_key("Ed25519", {"kid": "k2"}, private=True),
        "PS256": jwk.RSAKey.generate_key(2048, {"kid": "k2"}, private=True),
    }
    forger.keys.insert(0, made[algorithm])
    forger.header = {"alg": algorithm}
    async with visiting(at(forger.url)) as browser:
        assert "code" in await browser.sign_in("corp")


async def test_a_key_that_was_taken_back_is_not_good_any_more_once_another_was_seen(forger: Forger) -> None:
    old = forger.keys[0]
    async with visiting(at(forger.url)) as browser:
        assert "code" in await browser.sign_in("corp")
        forger.keys = [new_key("k3")]
        assert "code" in await browser.sign_in("corp")
        forger.signed = by(old, kid=old.kid)
        assert "server_error" == (await browser.sign_in("corp"))["error"]
        forger.keys = [old]


async def test_keys_and_documents_are_not_asked_for_at_each_sign_in(forger: Forger) -> None:
    async with visiting(at(forger.url)) as browser:
        for _ in range(3):
            assert "code" in await browser.sign_in("corp")
    paths = [asked.path for asked in forger.asked]
    assert (1, 1, 3) == tuple(
        paths.count(path) for path in ("/.well-known/openid-configuration", "/jwks", "/token")
    )


async def test_without_names_the_one_key_that_fits_is_taken(forger: Forger) -> None:
    keys = [new_key("k4"), jwk.ECKey.generate_key("P-256", {"kid": "k5"}, private=True)]
    nameless = [{k: v for k, v in key.as_dict(private=False).items() if k != "kid"} for key in keys]
    forger.override["/jwks"] = lambda asked: in_json({"keys": nameless})
    forger.signed = by(keys[0], kid=None)
    async with visiting(at(forger.url)) as browser:
        assert "code" in await browser.sign_in("corp")


async def test_a_short_key_verifies_nothing(forger: Forger) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        short = jwk.RSAKey.generate_key(1024, {"kid": "k6"}, private=True)
    forger.keys.insert(0, short)
    async with visiting(at(forger.url)) as browser:
        assert "server_error" == (await browser.sign_in("corp"))["error"]


async def test_no_cookie_of_a_provider_is_brought_back(forger: Forger) -> None:
    def with_cookie(asked: Asked) -> Reply:
        status, headers, body = forger.answer(asked)
        return status, {**headers, "Set-Cookie": "session=somebody; Path=/"}, body

    for path in (DISCOVERY, "/jwks", "/token"):
        forger.override[path] = with_cookie
    async with visiting(at(forger.url)) as browser:
        for _ in range(2):
            assert "code" in await browser.sign_in("corp")
    assert not [asked for asked in forger.asked if asked.path != "/authorize" and "Cookie" in asked.headers]


async def test_a_provider_that_takes_too_long_is_not_waited_for(
    forger: Forger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(asked: Asked) -> Reply:
        time.sleep(1)
        return forger.answer(asked)

    monkeypatch.setattr("api.authorization.PROVIDER_S", 0.2)
    forger.override["/token"] = slowly
    async with visiting(at(forger.url)) as browser:
        began = time.monotonic()
        assert "temporarily_unavailable" == (await browser.sign_in("corp"))["error"]
    assert time.monotonic() - began < 1


async def test_a_secret_published_as_a_key_verifies_nothing(forger: Forger) -> None:
    shared = jwk.OctKey.import_key("x" * 32, {"kid": "k1"})
    forger.override["/jwks"] = lambda asked: in_json({"keys": [shared.as_dict(private=True)]})
    forger.signed = by(shared, alg="HS256")
    async with visiting(at(forger.url)) as browser:
        assert "server_error" == (await browser.sign_in("corp"))["error"]


# --- where an answer comes from -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("names_itself", "iss", "is_in"),
    [
        (True, "<url>", True),
        (True, None, False),
        (True, "https://evil.example", False),
        (None, None, True),
        (None, "https://evil.example", False),
    ],
)
async def test_an_answer_has_to_come_from_the_issuer_that_was_asked(
    forger: Forger, names_itself: bool | None, iss: str | None, is_in: bool
) -> None:
    forger.document = {"authorization_response_iss_parameter_supported": names_itself}
    forger.back = {} if iss is None else {"iss": iss.replace("<url>", forger.url)}
    async with visiting(at(forger.url)) as browser:
        told = await browser.sign_in("corp")
    assert is_in == ("code" in told)
    assert is_in == any(asked.path == "/token" for asked in forger.asked)


@pytest.mark.parametrize(
    "query",
    [
        "", "code=x", "state=&code=x", "state=unknown&code=x", "state=<state>&state=<state>&code=x",
        "state=<state>%00&code=x", "state=<state>&code=%E2%82%AC",
    ],
)  # fmt: skip
async def test_a_callback_that_nobody_waits_for_is_refused_and_nothing_is_sent_on(
    forger: Forger, query: str
) -> None:
    async with visiting(at(forger.url)) as browser:
        address = (await browser.begin("corp")).headers["Location"]
        state = address.partition("state=")[2].partition("&")[0]
        answer = await browser.tmi(f"/oauth2/callback?{query.replace('<state>', state)}")
        page = await browser.tmi(f"/oauth2/callback?{query.replace('<state>', state)}", "text/html")
    assert (400, "invalid_request") == (answer.status, answer.json["error"])
    assert (400, "text/html; charset=utf-8") == (page.status, page.headers["Content-Type"])
    assert not any(asked.path == "/token" for asked in forger.asked)


async def test_the_cookie_is_for_this_host_over_https_and_no_script(forger: Forger) -> None:
    async with visiting(at(forger.url)) as browser:
        answer = await browser.begin("corp")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-tmi-sign-in=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax", "Max-Age=600"} <= set(cookie.split("; "))
    assert "no-store" == answer.headers["Cache-Control"]


async def test_the_provider_is_sent_a_challenge_a_state_and_a_nonce_that_differ_each_time(
    forger: Forger,
) -> None:
    async with visiting(at(forger.url)) as browser:
        for _ in range(2):
            browser.at_provider((await browser.begin("corp")).headers["Location"])
    first, second = [asked.query for asked in forger.asked if asked.path == "/authorize"]
    assert "openid email profile" == first["scope"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name]) >= 43
        assert first[name] != second[name]


async def test_what_is_kept_of_a_visit_can_not_be_used_by_who_reads_the_database(forger: Forger) -> None:
    store = MemoryStore()
    async with visiting(at(forger.url), store) as browser:
        answer = await browser.begin("corp")
    kept = repr(store.pending_authorizations)
    address = answer.headers["Location"]
    for name in ("state", "nonce"):
        assert address.partition(f"{name}=")[2].partition("&")[0] not in kept
    assert next(iter(browser.cookies.values())) not in kept


# --- providers that fail ------------------------------------------------------------------------


def answering(status: int, body: bytes = b"", **headers: str) -> Callable[[Asked], Reply]:
    return lambda asked: (status, headers, body)


def redirecting(path: str) -> Callable[[Asked], Reply]:
    return lambda asked: (302, {"Location": path}, b"")


DISCOVERY = "/.well-known/openid-configuration"
TOO_MUCH = json.dumps({"issuer": "x" * (600 * 1024)}).encode()


@pytest.mark.parametrize(
    ("path", "reply"),
    [
        (DISCOVERY, answering(500)),
        (DISCOVERY, answering(200, b"<html>")),
        (DISCOVERY, answering(200, b"[]")),
        (DISCOVERY, answering(200, b"[" * 100_000)),
        (DISCOVERY, answering(200, TOO_MUCH)),
        (DISCOVERY, redirecting("/elsewhere")),
        ("/jwks", answering(404)),
        ("/jwks", answering(200, b'{"keys": 1}')),
        ("/token", answering(503)),
    ],
)
async def test_a_provider_that_fails_is_not_reachable_for_the_client(
    forger: Forger, path: str, reply: Callable[[Asked], Reply]
) -> None:
    forger.override[path] = reply
    async with visiting(at(forger.url)) as browser:
        told = await browser.sign_in("corp")
    assert ("temporarily_unavailable", "xyz") == (told["error"], told["state"])
    assert not any(asked.path == "/elsewhere" for asked in forger.asked)


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://accounts.google.com"},
        {"issuer": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://login.example.org/authorize"},
        {"token_endpoint": "http://login.example.org/token"},
        {"token_endpoint": "https://user:password@login.example.org/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": ["https://login.example.org/jwks"]},
        {"token_endpoint": None},
    ],
)
async def test_a_discovery_document_that_leads_astray_is_not_followed(
    forger: Forger, document: dict[str, Json]
) -> None:
    forger.document = document
    async with visiting(at(forger.url)) as browser:
        told = await browser.sign_in("corp")
    assert "temporarily_unavailable" == told["error"]


async def test_nobody_answers_there(forger: Forger) -> None:
    async with visiting(at("http://127.0.0.1:9")) as browser:
        told = await browser.sign_in("corp")
    assert "temporarily_unavailable" == told["error"]


async def test_http_is_for_this_machine_in_development_alone(forger: Forger) -> None:
    async with visiting(at(forger.url), loopback=False) as browser:
        told = await browser.sign_in("corp")
    assert "temporarily_unavailable" == told["error"]
    assert not forger.asked


async def test_a_provider_that_failed_a_moment_ago_is_not_asked_by_everybody(forger: Forger) -> None:
    forger.override[DISCOVERY] = answering(500)
    async with visiting(at(forger.url)) as browser:
        for _ in range(5):
            await browser.begin("corp")
    assert 1 == len(forger.asked)


async def test_no_secret_is_in_logs_errors_or_representations(
    forger: Forger, caplog: pytest.LogCaptureFixture
) -> None:
    options = at(forger.url, client_secret=CLIENT_SECRET + "!")
    caplog.set_level("DEBUG")
    async with visiting(options) as browser:
        told = await browser.sign_in("corp")
        shown = repr(browser.rest.services)
    assert "server_error" == told["error"]
    assert "invalid_client" in caplog.text
    for text in (caplog.text, str(told), shown, repr(options)):
        assert CLIENT_SECRET not in text


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "options", "expected"),
    [
        ({"email_verified": True}, {}, True),
        ({"email_verified": "true"}, {}, True),
        ({"email_verified": False}, {}, False),
        ({"email_verified": "false"}, {}, False),
        ({"email_verified": 1}, {}, False),
        ({"email_verified": None}, {}, False),
        ({"email_verified": None}, {"trust_emails": True}, True),
        ({"email_verified": False}, {"trust_emails": True}, False),
    ],
)
async def test_an_address_is_verified_if_the_provider_says_so(
    forger: Forger, claims: dict[str, Json], options: dict[str, Json], expected: bool
) -> None:
    store, forger.claims = MemoryStore(), claims
    async with visiting(at(forger.url, **options), store) as browser:
        assert "code" in await browser.sign_in("corp")
    assert expected is (await account(store))[2]


@pytest.mark.parametrize("email", [None, "", "dave", "dave@", "a@b@c", "dave @x.org", "x" * 300 + "@x.org"])
async def test_who_has_no_usable_address_does_not_come_in(forger: Forger, email: str | None) -> None:
    store, forger.claims = MemoryStore(), {"email": email}
    async with visiting(at(forger.url), store) as browser:
        assert "access_denied" == (await browser.sign_in("corp"))["error"]
    assert not store.users


@pytest.mark.parametrize(
    ("claims", "is_in"),
    [
        ({}, True),
        ({"email": "dave@EXAMPLE.org"}, True),
        ({"email_verified": False}, False),
        ({"email": "dave@example.org.evil.example"}, False),
        ({"email": "dave@evil.example"}, False),
    ],
)
async def test_only_verified_addresses_of_allowed_domains_come_in(
    forger: Forger, claims: dict[str, Json], is_in: bool
) -> None:
    forger.claims = claims
    async with visiting(at(forger.url, allowed_domains=("example.org",))) as browser:
        told = await browser.sign_in("corp")
    assert ("code" if is_in else "error") in told


async def test_a_name_is_shown_without_what_can_not_be_seen(forger: Forger) -> None:
    store, forger.claims = MemoryStore(), {"name": "Da\x00ve\n\x85Smith" + "x" * 500}
    async with visiting(at(forger.url), store) as browser:
        assert "code" in await browser.sign_in("corp")
    name = (await account(store))[3]
    assert ("Da ve Smithx", 256) == (name[:12], len(name))


async def test_the_user_info_of_somebody_else_signs_nobody_in(forger: Forger) -> None:
    forger.document = {"userinfo_endpoint": f"{forger.url}/userinfo"}
    forger.claims = {"email": None}
    said = {"sub": "4711", "email": "dave@example.org", "email_verified": True}
    forger.override["/userinfo"] = lambda asked: in_json(said)
    store = MemoryStore()
    async with visiting(at(forger.url), store) as browser:
        assert "code" in await browser.sign_in("corp")
        said["sub"] = "4712"
        assert "server_error" == (await browser.sign_in("corp"))["error"]
    assert ("4711", "dave@example.org", False, "Dave") != await account(store)
    assert 1 == len(store.users)


# --- Google -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({"email": "dave@gmail.com"}, True),
        ({"email": "dave@example.org", "hd": "example.org"}, True),
        ({"email": "dave@example.org"}, False),
        ({"email": "dave@gmail.com", "email_verified": False}, False),
    ],
)
async def test_google_vouches_for_addresses_of_its_own_and_of_workspaces(
    forger: Forger, claims: dict[str, Json], expected: bool
) -> None:
    store, forger.claims = MemoryStore(), claims
    async with visiting(at(forger.url, "google"), store) as browser:
        assert "code" in await browser.sign_in("corp")
    assert expected is (await account(store))[2]


@pytest.mark.parametrize(("hd", "is_in"), [("example.org", True), ("evil.example", False), (None, False)])
async def test_of_googles_accounts_those_of_the_hosted_domain_come_in(
    forger: Forger, hd: str | None, is_in: bool
) -> None:
    forger.claims = {"hd": hd}
    async with visiting(at(forger.url, "google", hosted_domain="example.org")) as browser:
        told = await browser.sign_in("corp")
    sent = next(asked for asked in forger.asked if asked.path == "/authorize")
    assert "example.org" == sent.query["hd"]
    assert ("code" if is_in else "error") in told


# --- Microsoft ----------------------------------------------------------------------------------


def microsoft(forger: Forger, tenant: str, issuer: str, **claims: Json) -> None:
    """Make the forger one of Microsoft's tenants."""
    forger.document = {"issuer": f"{forger.url}/{issuer}/v2.0"}
    forger.claims = {"tid": TENANT, "iss": f"{forger.url}/{TENANT}/v2.0", "email_verified": None} | claims
    forger.override[f"/{tenant}/v2.0{DISCOVERY}"] = lambda asked: in_json(forger._document())


@pytest.mark.parametrize(
    ("claims", "is_in"),
    [
        ({}, True),
        ({"tid": OTHER_TENANT}, False),
        ({"iss": "<url>/{tenantid}/v2.0"}, False),
        ({"tid": OTHER_TENANT, "iss": f"<url>/{OTHER_TENANT}/v2.0"}, False),
        ({"tid": None}, False),
    ],
)
@pytest.mark.parametrize("tenant", [TENANT, "organizations"])
async def test_of_microsofts_tenants_those_that_are_allowed_come_in(
    forger: Forger, tenant: str, claims: dict[str, Json], is_in: bool
) -> None:
    claims = {k: v.replace("<url>", forger.url) if isinstance(v, str) else v for k, v in claims.items()}
    allowed: dict[str, Json] = {} if tenant == TENANT else {"allowed_tenants": (TENANT,)}
    microsoft(forger, tenant, "{tenantid}" if allowed else TENANT, **claims)
    async with visiting(at(forger.url, "microsoft", tenant=tenant, **allowed)) as browser:
        told = await browser.sign_in("corp")
    assert ("code" if is_in else "error") in told


async def test_any_tenant_comes_in_where_the_operator_says_so(forger: Forger) -> None:
    claims = {"tid": OTHER_TENANT, "iss": f"{forger.url}/{OTHER_TENANT}/v2.0"}
    microsoft(forger, "common", "{tenantid}", **claims)
    options = at(forger.url, "microsoft", tenant="common", allowed_tenants=("*",))
    async with visiting(options) as browser:
        assert "code" in await browser.sign_in("corp")
        forger.claims["iss"] = f"{forger.url}/{TENANT}/v2.0"
        assert "error" in await browser.sign_in("corp")


@pytest.mark.parametrize(
    ("claims", "options", "expected"),
    [
        ({}, {}, ("dave@example.org", False)),
        ({"email_verified": True}, {}, ("dave@example.org", False)),
        ({"xms_edov": True}, {}, ("dave@example.org", True)),
        ({"xms_edov": "1"}, {}, ("dave@example.org", True)),
        ({"xms_edov": False}, {}, ("dave@example.org", False)),
        ({}, {"trust_emails": True}, ("dave@example.org", True)),
        (
            {"email": None, "preferred_username": "d@example.org", "xms_edov": True},
            {},
            ("d@example.org", False),
        ),
    ],
)
async def test_an_address_at_microsoft_counts_only_if_its_owner_verified_it(
    forger: Forger, claims: dict[str, Json], options: dict[str, Json], expected: tuple[str, bool]
) -> None:
    store = MemoryStore()
    microsoft(forger, TENANT, TENANT, **claims)
    async with visiting(at(forger.url, "microsoft", tenant=TENANT, **options), store) as browser:
        assert "code" in await browser.sign_in("corp")
    assert expected == (await account(store))[1:3]


# --- GitHub -------------------------------------------------------------------------------------


@asynccontextmanager
async def at_github(github: GitHubSite, **more: Any) -> AsyncIterator[tuple[Browser, MemoryStore]]:
    store = MemoryStore()
    async with visiting(at(github.url, "github", name=None, **more), store) as browser:
        yield browser, store


TOKEN = "/login/oauth/access_token"


async def test_somebody_signs_in_at_github_by_number_and_primary_address(github: GitHubSite) -> None:
    async with at_github(github) as (browser, store):
        assert "code" in await browser.sign_in("corp")
        assert ("583231", "octo@example.org", True, "Octo Cat") == await account(store)
        github.account = GitHubAccount(login="renamed", name=None)
        assert "code" in await browser.sign_in("corp")
        assert ("583231", "octo@example.org", True, "renamed") == await account(store)
        assert 1 == len(store.users)


@pytest.mark.parametrize(
    "emails",
    [
        [],
        [{"email": "octo@example.org", "primary": True, "verified": False}],
        [{"email": "octo@example.org", "primary": False, "verified": True}],
        [{"email": "octo@example.org", "primary": "true", "verified": "true"}],
        [None, 1],
    ],
)
async def test_without_a_primary_verified_address_nobody_comes_from_github(
    github: GitHubSite, emails: list[Json]
) -> None:
    github.account.emails = emails
    async with at_github(github) as (browser, store):
        told = await browser.sign_in("corp")
    assert "access_denied" == told["error"]
    assert not store.users


@pytest.mark.parametrize(
    ("path", "reply", "error"),
    [
        ("/api/v3/user", answering(500), "temporarily_unavailable"),
        ("/api/v3/user", lambda asked: in_json({"login": "x"}), "server_error"),
        ("/api/v3/user", lambda asked: in_json({"id": True}), "server_error"),
        ("/api/v3/user", lambda asked: in_json([]), "server_error"),
        ("/api/v3/user/emails", answering(404), "temporarily_unavailable"),
        ("/api/v3/user/emails", lambda asked: in_json({}), "server_error"),
        (TOKEN, lambda asked: in_json({"error": "bad_verification_code"}), "server_error"),
        (TOKEN, lambda asked: in_json({"access_token": "a\nb: c"}), "server_error"),
        (TOKEN, answering(502), "temporarily_unavailable"),
        (TOKEN, redirecting("/elsewhere"), "server_error"),
    ],
)
async def test_whatever_fails_at_github_signs_nobody_in(
    github: GitHubSite, path: str, reply: Callable[[Asked], Reply], error: str
) -> None:
    github.override[path] = reply
    async with at_github(github) as (browser, store):
        told = await browser.sign_in("corp")
    assert (error, "xyz") == (told["error"], told["state"])
    assert not store.users
    assert not any(asked.path == "/elsewhere" for asked in github.asked)


async def test_a_wrong_secret_at_github_is_told_to_nobody(
    github: GitHubSite, caplog: pytest.LogCaptureFixture
) -> None:
    async with at_github(github, client_secret="not the secret") as (browser, _):
        told = await browser.sign_in("corp")
    assert "server_error" == told["error"]
    assert "secret" not in caplog.text + str(told)


async def test_a_person_who_says_no_at_github_is_told_so(github: GitHubSite) -> None:
    def refused(asked: Asked) -> Reply:
        back = f"{asked.query['redirect_uri']}?error=access_denied&state={asked.query['state']}"
        return 302, {"Location": back}, b""

    github.override["/login/oauth/authorize"] = refused
    async with at_github(github) as (browser, _):
        assert "access_denied" == (await browser.sign_in("corp"))["error"]


async def test_a_code_of_github_from_another_visit_is_not_taken(github: GitHubSite) -> None:
    async with at_github(github) as (browser, store):
        first = browser.at_provider((await browser.begin("corp")).headers["Location"])
        second = browser.at_provider((await browser.begin("corp")).headers["Location"])
        code, other = [address.partition("code=")[2].partition("&")[0] for address in (first, second)]
        told = await browser.come_back(second.replace(other, code))
    assert "server_error" == told["error"]
    assert not store.users


# --- what changes when addresses change hands ---------------------------------------------------


async def test_an_address_that_changes_hands_takes_its_roles_along(forger: Forger) -> None:
    async with visiting(at(forger.url)) as browser:
        rest: RestClient = browser.rest
        named = {"principal_type": "user", "provider": "corp", "provider_id": "dave@example.org"}
        model = await rest.create_model(await rest.sign_in("alice"), named | {"role": "reader"})
        path = f"/threat_models/{model['id']}"

        async def token() -> str:
            told = await browser.sign_in("corp")
            answer = await rest.exchange(
                grant_type="authorization_code", code=told["code"], code_verifier="v" * 43
            )
            return str(answer.json["access_token"])

        first = await token()
        assert 200 == (await rest.call("GET", path, first)).status
        forger.claims = {"sub": "4712"}
        second = await token()
        assert [403, 200] == [(await rest.call("GET", path, one)).status for one in (first, second)]


async def test_a_provider_that_is_gone_meanwhile_finishes_nothing(forger: Forger) -> None:
    store = MemoryStore()
    async with visiting(at(forger.url), store) as browser:
        address = browser.at_provider((await browser.begin("corp")).headers["Location"])
        cookies = dict(browser.cookies)
    options = replace(at(forger.url), id="other")
    async with visiting(options, store) as browser:
        browser.cookies = cookies
        assert "server_error" == (await browser.come_back(address))["error"]
