"""What OAuth clients must not get away with, each with the error that its RFC names.

Authorization itself and its callbacks are tried with the providers; here are codes, tokens and clients.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from persistence.memory.store import MemoryStore
from tests.rest import ADMINISTRATOR, CALLBACK, VERIFIER, Answer, RestClient, challenge_of, over_memory

Json = Any
FORM = "application/x-www-form-urlencoded"
OTHER = "w" * 43


@dataclass(frozen=True, slots=True)
class World:
    """An authorization server with what a client may hold."""

    rest: RestClient
    store: MemoryStore
    fill: Mapping[str, str]

    async def ask(self, attempt: "Attempt") -> Answer:
        fields = {name: self.filled(value) for name, value in attempt.fields.items()}
        data = attempt.data
        if data is None and attempt.media_type == FORM:
            data = urlencode(fields).encode()
        headers = {name: self.filled(value) for name, value in attempt.headers.items()}
        if data is not None:
            data = self.filled(data.decode("latin-1")).encode("latin-1")
            return await self.rest.call(
                "POST", attempt.path, data=data, content_type=attempt.media_type, headers=headers
            )
        return await self.rest.call("POST", attempt.path, json_body=fields, headers=headers)

    def filled(self, text: Json) -> Json:
        if not isinstance(text, str):
            return text
        for name, value in self.fill.items():
            text = text.replace(f"<{name}>", value)
        if text.startswith("Basic ") and ":" in text:
            return "Basic " + base64.b64encode(text.removeprefix("Basic ").encode()).decode()
        return text


@dataclass(frozen=True, slots=True)
class Attempt:
    """A token request, and what it is answered."""

    about: str
    error: str
    fields: Mapping[str, Json]
    status: int = 400
    path: str = "/oauth2/token"
    media_type: str = FORM
    data: bytes | None = None
    headers: Mapping[str, str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", self.headers or {})


def code(error: str, about: str, **changes: Json) -> Attempt:
    good = {"grant_type": "authorization_code", "code": "<code>", "code_verifier": VERIFIER}
    return Attempt(about, error, _changed(good, changes))


def refresh(error: str, about: str, **changes: Json) -> Attempt:
    good = {"grant_type": "refresh_token", "refresh_token": "<refresh_token>"}
    return Attempt(about, error, _changed(good, changes))


def client(error: str, about: str, status: int = 401, basic: str | None = None, **changes: Json) -> Attempt:
    good = {"grant_type": "client_credentials", "client_id": "<client_id>", "client_secret": "<secret>"}
    headers = {} if basic is None else {"Authorization": f"Basic {basic}"}
    return Attempt(about, error, _changed(good, changes), status, headers=headers)


def raw(
    error: str,
    about: str,
    data: bytes,
    media_type: str = FORM,
    status: int = 400,
    path: str = "/oauth2/token",
) -> Attempt:
    return Attempt(about, error, {}, status, path, media_type, data)


def _changed(good: Mapping[str, Json], changes: Mapping[str, Json]) -> Mapping[str, Json]:
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


NONE: Json = None
BARE = {"client_id": NONE, "client_secret": NONE}
DEVICE = b"urn:ietf:params:oauth:grant-type:device_code"
ATTEMPTS = (
    # codes
    code("invalid_grant", "a code that was used", code="<used_code>"),
    code("invalid_grant", "a code that expired", code="<expired_code>"),
    code("invalid_grant", "a code that never was", code="unknown"),
    code("invalid_grant", "a verifier of another challenge", code_verifier=OTHER),
    code("invalid_grant", "the challenge as verifier (as by plain)", code_verifier="<challenge>"),
    code("invalid_request", "no verifier", code_verifier=NONE),
    code("invalid_request", "an empty verifier", code_verifier=""),
    code("invalid_request", "a verifier of 42 characters", code_verifier="v" * 42),
    code("invalid_request", "a verifier of 129 characters", code_verifier="v" * 129),
    code("invalid_request", "a verifier outside its alphabet", code_verifier="v" * 42 + "!"),
    code("invalid_grant", "another callback", redirect_uri="http://127.0.0.1:4321/other"),
    code("invalid_grant", "a longer callback", redirect_uri=CALLBACK + "/"),
    code("invalid_grant", "a callback with a query", redirect_uri=CALLBACK + "?x=1"),
    code("invalid_grant", "a callback in upper case", redirect_uri=CALLBACK.upper()),
    code("invalid_request", "no code", code=NONE),
    code("invalid_request", "a method, no verifier", code_verifier=NONE, code_challenge_method="plain"),
    code("invalid_grant", "a refresh token as a code", code="<refresh_token>"),
    # refresh tokens
    refresh("invalid_grant", "a token that was used", refresh_token="<used_refresh_token>"),
    refresh("invalid_grant", "a token that expired", refresh_token="<expired_refresh_token>"),
    refresh("invalid_grant", "a token of a sign-in that ended", refresh_token="<ended_refresh_token>"),
    refresh("invalid_grant", "an access token", refresh_token="<access_token>"),
    refresh("invalid_grant", "a code", refresh_token="<code>"),
    refresh("invalid_grant", "a client's secret", refresh_token="<secret>"),
    refresh("invalid_request", "no token", refresh_token=NONE),
    refresh("invalid_request", "an endless token", refresh_token="x" * 1025),
    # clients
    client("invalid_client", "another secret", client_secret="<secret>x"),
    client("invalid_client", "no secret", client_secret=NONE),
    client("invalid_client", "an empty secret", client_secret=""),
    client("invalid_client", "no id", client_id=NONE),
    client("invalid_client", "an unknown id", client_id="tmi_cc_unknown"),
    client("invalid_client", "the id of another client", client_id="<other_client_id>"),
    client("invalid_client", "one that is off", client_id="<off_client_id>", client_secret="<off_secret>"),
    client("invalid_client", "an expired client", client_id="<old_client_id>", client_secret="<old_secret>"),
    client("invalid_client", "an id that is SQL", client_id="' OR '1'='1"),
    client("invalid_client", "another secret by Basic", basic="<client_id>:x", **BARE),
    client("invalid_client", "Basic without a colon", basic="bm9jb2xvbg==", **BARE),
    client("invalid_client", "Basic that is no base64", basic="***", **BARE),
    client("invalid_client", "Basic of no UTF-8", basic="//8=", **BARE),
    client("invalid_request", "Basic and a secret in the body", 400, basic="<client_id>:<secret>"),
    client(
        "invalid_request", "Basic and another id in the body", 400, basic="<client_id>:<secret>",
        client_id="<other_client_id>", client_secret=NONE,
    ),
    # requests
    raw("invalid_request", "no grant type", b"code=x"),
    raw("invalid_request", "an empty form", b""),
    raw("unsupported_grant_type", "passwords", b"grant_type=password&client_id=a"),
    raw("unsupported_grant_type", "the implicit grant", b"grant_type=implicit"),
    raw("unsupported_grant_type", "a device's grant", b"grant_type=" + DEVICE),
    raw("unsupported_grant_type", "an assertion", b"grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer"),
    raw("unsupported_grant_type", "a grant type in upper case", b"grant_type=AUTHORIZATION_CODE"),
    raw(
        "invalid_request", "a code given twice",
        b"grant_type=authorization_code&code=<code>&code=<code>&code_verifier=" + VERIFIER.encode(),
    ),
    raw(
        "invalid_request", "a verifier given twice",
        b"grant_type=authorization_code&code=<code>&code_verifier=x&code_verifier=" + VERIFIER.encode(),
    ),
    raw("invalid_request", "a grant type given twice", b"grant_type=refresh_token&grant_type=refresh_token"),
    raw(
        "invalid_request", "a secret given twice",
        b"grant_type=client_credentials&client_id=<client_id>&client_secret=x&client_secret=<secret>",
    ),
    raw("invalid_request", "a member given twice", b'{"code":"x","code":"y"}', "application/json"),
    raw("invalid_request", "no object", b"[]", "application/json"),
    raw("invalid_request", "no JSON", b"{", "application/json"),
    raw("unsupported_media_type", "plain text", b"grant_type=refresh_token", "text/plain", 415),
    raw("unsupported_media_type", "a form in parts", b"x", "multipart/form-data; boundary=x", 415),
    raw("unsupported_media_type", "XML", b"<a/>", "application/xml", 415),
    raw(
        "unauthorized", "a used token at /oauth2/refresh", b'{"refresh_token":"<used_refresh_token>"}',
        "application/json", 401, "/oauth2/refresh",
    ),
    raw(
        "unauthorized", "an unknown token at /oauth2/refresh", b'{"refresh_token":"x"}',
        "application/json", 401, "/oauth2/refresh",
    ),
    raw("unauthorized", "nobody revokes", b"token=<refresh_token>", status=401, path="/oauth2/revoke"),
    raw("unauthorized", "nobody introspects", b"token=<access_token>", status=401, path="/oauth2/introspect"),
)  # fmt: skip


@pytest.fixture
async def world() -> AsyncIterator[World]:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        admin = await rest.sign_in(ADMINISTRATOR)
        clients = {name: await new_client(rest, admin) for name in ("", "other_", "off_", "old_")}
        off, old = clients["off_"], clients["old_"]
        await rest.call(
            "PATCH", f"/me/client_credentials/{off['id']}", admin, json_body={"is_active": False}
        )
        for stored in store.credentials.values():
            if stored.client_id == old["client_id"]:
                stored.expires_at = datetime.now(UTC) - timedelta(seconds=1)
        good, used, ended, expired = [await rest.tokens(name) for name in ("alice", "bob", "carol", "dave")]
        await rest.exchange(grant_type="refresh_token", refresh_token=used["refresh_token"])
        await rest.call("POST", "/me/logout", ended["access_token"])
        dave = rest.services.tokens.verify_access(expired["access_token"]).sign_in
        for token in store.refresh_tokens.values():
            if token.sign_in == dave:
                token.expires_at = datetime.now(UTC) - timedelta(seconds=1)
        used_code, expired_code = await rest.code(login_hint="erin"), await rest.code(login_hint="frank")
        await rest.exchange(grant_type="authorization_code", code=used_code, code_verifier=VERIFIER)
        for key, (grant, _) in list(store.codes.items()):
            store.codes[key] = (grant, datetime.now(UTC) - timedelta(seconds=1))
        code = await rest.code()
        yield World(
            rest,
            store,
            {
                "code": code,
                "used_code": used_code,
                "expired_code": expired_code,
                "challenge": challenge_of(VERIFIER),
                "refresh_token": good["refresh_token"],
                "access_token": good["access_token"],
                "used_refresh_token": used["refresh_token"],
                "ended_refresh_token": ended["refresh_token"],
                "expired_refresh_token": expired["refresh_token"],
                "client_id": clients[""]["client_id"],
                "secret": clients[""]["client_secret"],
                "other_client_id": clients["other_"]["client_id"],
                "off_secret": off["client_secret"],
                "old_secret": old["client_secret"],
                "off_client_id": off["client_id"],
                "old_client_id": old["client_id"],
            },
        )


async def new_client(rest: RestClient, admin: str) -> Json:
    answer = await rest.call("POST", "/me/client_credentials", admin, json_body={"name": "ci"})
    assert answer.status == 201
    return answer.json


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.about)
async def test_an_attempt_is_refused_as_its_rfc_says(world: World, attempt: Attempt) -> None:
    answer = await world.ask(attempt)
    assert (attempt.status, attempt.error) == (answer.status, answer.json["error"])
    assert "no-store" == answer.headers["Cache-Control"]
    assert b"access_token" not in answer.data
    if attempt.status == 401:
        kind = "Basic" if attempt.error == "invalid_client" else "Bearer"
        assert answer.headers["WWW-Authenticate"].startswith(kind)
    for name in ("secret", "refresh_token", "code", "access_token"):
        assert world.fill[name].encode() not in answer.data


def test_there_are_many_attempts_and_each_is_another() -> None:
    assert 50 <= len({attempt.about for attempt in ATTEMPTS}) == len(ATTEMPTS)


@pytest.mark.parametrize(
    "attempt",
    [code("", "a code"), refresh("", "a refresh token"), client("", "a client")],
    ids=lambda attempt: attempt.about,
)
async def test_the_same_requests_without_their_fault_are_good(world: World, attempt: Attempt) -> None:
    answer = await world.ask(attempt)
    assert 200 == answer.status
    assert answer.json["access_token"]


async def test_a_code_with_a_wrong_verifier_is_used_up(world: World) -> None:
    await world.ask(code("", "guess", code_verifier=OTHER))
    answer = await world.ask(code("", "know"))
    assert (400, "invalid_grant") == (answer.status, answer.json["error"])


async def test_of_many_exchanges_of_a_code_at_once_at_most_one_succeeds_and_nothing_of_it_stands(
    world: World,
) -> None:
    answers = await asyncio.gather(*(world.ask(code("", "race")) for _ in range(20)))
    good = [answer for answer in answers if answer.status == 200]
    assert len(good) <= 1
    assert {400} == {answer.status for answer in answers if answer not in good}
    for answer in good:
        me = await world.rest.call("GET", "/me", answer.json["access_token"])
        assert 401 == me.status


async def test_of_many_uses_of_a_refresh_token_at_once_one_succeeds_and_nothing_of_it_stands(
    world: World,
) -> None:
    answers = await asyncio.gather(*(world.ask(refresh("", "race")) for _ in range(20)))
    good = [answer for answer in answers if answer.status == 200]
    assert 1 == len(good)
    tokens = good[0].json
    assert 401 == (await world.rest.call("GET", "/me", tokens["access_token"])).status
    again = await world.rest.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert "invalid_grant" == again.json["error"]
