"""Sign-in for development."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from api.context import Context
from api.services import ApiOptions
from api.tokens import Tokens, new_signing_key
from persistence.memory.store import MemoryStore
from tests.rest import CALLBACK, ISSUER, VERIFIER, RestClient, challenge_of, over_memory


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory() as client:
        yield client


async def test_authorize_sends_code_and_state_to_the_callback_and_no_token(rest: RestClient) -> None:
    answer = await rest.authorize(state="a/b=c")
    location = urlsplit(answer.headers["Location"])
    query = parse_qs(location.query)
    assert answer.status == 302
    assert location._replace(query="").geturl() == CALLBACK
    assert query.keys() == {"code", "state"}
    assert query["state"] == ["a/b=c"]
    assert location.fragment == ""
    assert answer.headers["Cache-Control"] == "no-store"


async def test_a_callbacks_own_query_is_kept(rest: RestClient) -> None:
    answer = await rest.authorize(client_callback=f"{CALLBACK}?tab=1", state=None)
    query = parse_qs(urlsplit(answer.headers["Location"]).query)
    assert query.keys() == {"tab", "code"}


@pytest.mark.parametrize(
    "callback",
    ["http://localhost", "http://127.0.0.1:1/x", "http://[::1]:80/a?b=c", "https://localhost:8443/"],
)
async def test_callbacks_on_the_loopback_interface_are_taken(rest: RestClient, callback: str) -> None:
    assert (await rest.authorize(client_callback=callback)).status == 302


@pytest.mark.parametrize(
    "callback",
    [
        None,
        "",
        "http://evil.example/",
        "http://localhost.evil.example/",
        "http://127.0.0.1.evil.example/",
        "http://127.0.0.1@evil.example/",
        "http://localhost:1@evil.example/",
        "http://evil.example#http://localhost/",
        "http://localhost\\@evil.example/",
        "http://localhost/#fragment",
        "//localhost/",
        "/callback",
        "localhost/callback",
        "javascript:alert(1)",
        "myapp://localhost/",
        "http://localhost:port/",
        "http://localhost/\r\nSet-Cookie: a=b",
        "http://localhost/ x",
        "http://LOCALHOST.evil/",
        "http://127.1/",
        "http://2130706433/",
        "http://0.0.0.0/",
        "http://localhost/" + "x" * 1000,
    ],
)
async def test_any_other_callback_is_refused_and_nobody_is_redirected(
    rest: RestClient, callback: str | None
) -> None:
    answer = await rest.authorize(client_callback=callback)
    assert answer.status == 400
    assert answer.json["error"] == "invalid_request"
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge": "short"},
        {"code_challenge": "x" * 44},
        {"code_challenge": "é" * 43},
        {"login_hint": None},
        {"login_hint": "a b"},
        {"login_hint": "a@b"},
        {"login_hint": ""},
        {"login_hint": "a" * 245},
        {"idp": "google"},
        {"idp": "*"},
        {"state": "x" * 257},
        {"state": "<script>"},
        {"scope": "\x00"},
        {"redirect_uri": f"{CALLBACK}/else"},
        {"response_type": "x" * 101},
        {"client_callback": None, "redirect_uri": "http://evil.example/", "response_type": "token"},
    ],
    ids=str,
)
async def test_a_faulty_authorization_request_is_refused(
    rest: RestClient, changes: dict[str, str | None]
) -> None:
    answer = await rest.authorize(**changes)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_type": ""}, "unsupported_response_type"),
        ({"prompt": "none"}, "login_required"),
    ],
    ids=str,
)
async def test_a_client_is_told_what_there_is_not(
    rest: RestClient, changes: dict[str, str], error: str
) -> None:
    answer = await rest.authorize(**changes)
    location = urlsplit(answer.headers["Location"])
    told = parse_qs(location.query)
    assert (302, CALLBACK) == (answer.status, location._replace(query="").geturl())
    assert ([error], ["xyz"]) == (told["error"], told["state"])
    assert "code" not in told


async def test_a_stock_client_signs_in_with_all_that_it_adds(rest: RestClient) -> None:
    answer = await rest.authorize(
        client_callback=None,
        redirect_uri=CALLBACK,
        response_type="code",
        client_id="editor",
        nonce="n-0S6_WzA2Mj",
        prompt="login",
        resource="https://tmi.test",
    )
    (code,) = parse_qs(urlsplit(answer.headers["Location"]).query)["code"]
    form = urlencode(
        {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": VERIFIER,
            "redirect_uri": CALLBACK,
            "client_id": "editor",
            "resource": "https://tmi.test",
        }
    )
    answer = await rest.call(
        "POST", "/oauth2/token", data=form.encode(), content_type="application/x-www-form-urlencoded"
    )
    assert (200, "bearer") == (answer.status, answer.json["token_type"])


async def test_a_repeated_parameter_is_refused(rest: RestClient) -> None:
    query = urlencode({"idp": "tmi", "client_callback": CALLBACK})
    answer = await rest.call("GET", f"/oauth2/authorize?{query}&idp=tmi")
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


async def test_without_login_hint_the_answer_says_what_to_add(rest: RestClient) -> None:
    assert "login_hint=alice" in (await rest.authorize(login_hint=None)).json["error_description"]


@pytest.mark.parametrize("form", [False, True])
async def test_a_code_is_exchanged_for_tokens(rest: RestClient, form: bool) -> None:
    body = {
        "grant_type": "authorization_code",
        "code": await rest.code(),
        "code_verifier": VERIFIER,
        "redirect_uri": CALLBACK,
    }
    answer = (
        await rest.call(
            "POST",
            "/oauth2/token?idp=tmi",
            data=urlencode(body).encode(),
            content_type="application/x-www-form-urlencoded; charset=utf-8",
        )
        if form
        else await rest.exchange(**body)
    )
    tokens = answer.json
    assert answer.status == 200
    assert tokens.keys() == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)
    assert answer.headers["Cache-Control"] == "no-store"


async def test_me_and_userinfo_tell_who_signed_in(rest: RestClient) -> None:
    token = await rest.sign_in("alice")
    profile = (await rest.call("GET", "/me", token)).json
    claims = (await rest.call("GET", "/oauth2/userinfo", token)).json
    assert profile == {
        "principal_type": "user",
        "provider": "tmi",
        "provider_id": "alice@tmi.local",
        "display_name": "alice",
        "email": "alice@tmi.local",
        "is_admin": False,
        "is_security_reviewer": False,
        "groups": [],
    }
    assert claims == {
        "sub": str(rest.services.tokens.verify_access(token).user),
        "email": "alice@tmi.local",
        "name": "alice",
        "idp": "tmi",
        "groups": [],
    }


async def test_the_same_hint_is_the_same_user_whatever_its_case(rest: RestClient) -> None:
    verify = rest.services.tokens.verify_access
    assert verify(await rest.sign_in("alice")).user == verify(await rest.sign_in("Alice")).user


async def test_a_code_is_good_once(rest: RestClient) -> None:
    code = await rest.code()
    body = {"grant_type": "authorization_code", "code": code, "code_verifier": VERIFIER}
    answers = await asyncio.gather(*(rest.exchange(**body) for _ in range(20)))
    assert [200] + [400] * 19 == sorted(answer.status for answer in answers)
    assert {"invalid_grant"} == {answer.json["error"] for answer in answers if answer.status == 400}


async def test_a_wrong_verifier_is_refused_and_uses_the_code_up(rest: RestClient) -> None:
    code = await rest.code()
    wrong = await rest.exchange(grant_type="authorization_code", code=code, code_verifier="w" * 43)
    right = await rest.exchange(grant_type="authorization_code", code=code, code_verifier=VERIFIER)
    assert ["invalid_grant"] * 2 == [wrong.json["error"], right.json["error"]]


async def test_the_challenge_itself_is_no_verifier(rest: RestClient) -> None:
    answer = await rest.exchange(
        grant_type="authorization_code", code=await rest.code(), code_verifier=challenge_of(VERIFIER)
    )
    assert answer.json["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "redirect_uri", [CALLBACK + "/", CALLBACK + "?a=b", "http://localhost:4321/callback", ""]
)
async def test_another_redirect_uri_than_the_authorizations_is_refused(
    rest: RestClient, redirect_uri: str
) -> None:
    answer = await rest.exchange(
        grant_type="authorization_code",
        code=await rest.code(),
        code_verifier=VERIFIER,
        redirect_uri=redirect_uri,
    )
    assert (answer.status, answer.json["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("error", "body"),
    [
        ("invalid_request", {}),
        ("invalid_request", {"grant_type": None}),
        ("invalid_request", {"grant_type": "authorization_code"}),
        ("invalid_request", {"grant_type": "authorization_code", "code": "x"}),
        ("invalid_request", {"grant_type": "authorization_code", "code": "x", "code_verifier": "short"}),
        (
            "invalid_request",
            {"grant_type": "authorization_code", "code": "\u0000", "code_verifier": VERIFIER},
        ),
        ("invalid_grant", {"grant_type": "authorization_code", "code": "x", "code_verifier": VERIFIER}),
        ("invalid_request", {"grant_type": "refresh_token"}),
        ("invalid_request", {"grant_type": "refresh_token", "refresh_token": ""}),
        ("invalid_request", {"grant_type": "refresh_token", "refresh_token": 7}),
        ("invalid_grant", {"grant_type": "refresh_token", "refresh_token": "unknown"}),
        ("unsupported_grant_type", {"grant_type": "password", "client_id": "x"}),
    ],
    ids=str,
)
async def test_a_faulty_token_request_is_refused_by_rfc_6749(
    rest: RestClient, error: str, body: dict[str, object]
) -> None:
    answer = await rest.exchange(**body)
    assert (answer.status, answer.json["error"]) == (400, error)
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"grant_type",
        b"grant_type=a&grant_type=b",
        b"grant_type=%ff",
        b"\xff=1",
        b"&".join([b"a=b"] * 40),
    ],
)
async def test_a_faulty_form_is_refused(rest: RestClient, form: bytes) -> None:
    answer = await rest.call(
        "POST", "/oauth2/token", data=form, content_type="application/x-www-form-urlencoded"
    )
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


async def test_other_media_types_are_refused(rest: RestClient) -> None:
    for content_type in ("text/plain", "multipart/form-data; boundary=x", None):
        answer = await rest.call("POST", "/oauth2/token", data=b"{}", content_type=content_type)
        assert (answer.status, answer.json["error"]) == (415, "unsupported_media_type")


async def test_a_refresh_token_changes_with_each_use(rest: RestClient) -> None:
    first = await rest.tokens("alice")
    second = (await rest.exchange(grant_type="refresh_token", refresh_token=first["refresh_token"])).json
    third = (await rest.exchange(grant_type="refresh_token", refresh_token=second["refresh_token"])).json
    assert len({t["refresh_token"] for t in (first, second, third)}) == 3
    assert (await rest.call("GET", "/me", third["access_token"])).status == 200


async def test_a_refresh_token_used_twice_ends_its_whole_session(rest: RestClient) -> None:
    first = await rest.tokens("alice")
    second = (await rest.exchange(grant_type="refresh_token", refresh_token=first["refresh_token"])).json
    again = await rest.exchange(grant_type="refresh_token", refresh_token=first["refresh_token"])
    successor = await rest.exchange(grant_type="refresh_token", refresh_token=second["refresh_token"])
    assert ["invalid_grant"] * 2 == [again.json["error"], successor.json["error"]]
    assert (await rest.call("GET", "/me", second["access_token"])).status == 401


async def test_refresh_gives_new_tokens_and_is_not_kept_by_caches(rest: RestClient) -> None:
    first = await rest.tokens("alice")
    answer = await rest.call("POST", "/oauth2/refresh", json_body={"refresh_token": first["refresh_token"]})
    assert (200, "no-store") == (answer.status, answer.headers["Cache-Control"])
    assert first.keys() == answer.json.keys()
    assert first["refresh_token"] != answer.json["refresh_token"]
    assert (await rest.call("GET", "/me", answer.json["access_token"])).status == 200


async def test_refresh_with_a_used_token_is_401_and_ends_its_whole_session(rest: RestClient) -> None:
    first = await rest.tokens("alice")
    body = {"refresh_token": first["refresh_token"]}
    second = (await rest.call("POST", "/oauth2/refresh", json_body=body)).json
    again = await rest.call("POST", "/oauth2/refresh", json_body=body)
    successor = await rest.exchange(grant_type="refresh_token", refresh_token=second["refresh_token"])
    assert (401, "invalid_grant") == (again.status, successor.json["error"])
    assert (await rest.call("GET", "/me", second["access_token"])).status == 401


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {}),
        (400, {"refresh_token": ""}),
        (400, {"refresh_token": 7}),
        (400, {"refresh_token": "x" * 1001}),
        (400, {"refresh_token": "x", "grant_type": "refresh_token"}),
        (401, {"refresh_token": "unknown"}),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_faulty_refresh_is_refused(rest: RestClient, status: int, body: dict[str, object]) -> None:
    assert status == (await rest.call("POST", "/oauth2/refresh", json_body=body)).status


async def test_outside_development_the_provider_does_not_exist(rest: RestClient) -> None:
    code = await rest.code()
    production = replace(rest.services, options=ApiOptions(dev=False))
    rest.app.extensions["tmi"] = Context(production)
    authorized = await rest.authorize()
    exchanged = await rest.exchange(grant_type="authorization_code", code=code, code_verifier=VERIFIER)
    named = await rest.call("POST", "/oauth2/token?idp=tmi", json_body={"grant_type": "refresh_token"})
    assert [(400, "invalid_request")] * 3 == [
        (a.status, a.json["error"]) for a in (authorized, exchanged, named)
    ]


async def test_a_code_lives_for_a_minute() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        code, started = await rest.code(), store.clock()
        store.clock = lambda: started + timedelta(seconds=61)
        answer = await rest.exchange(grant_type="authorization_code", code=code, code_verifier=VERIFIER)
    assert answer.json["error"] == "invalid_grant"


async def test_an_ended_session_is_noticed_within_a_second_when_no_signals_are_heard() -> None:
    store = MemoryStore()
    async with over_memory(store=store) as rest:
        assert rest.services.sessions is not None
        rest.services.sessions.hearing = None
        token = await rest.sign_in("alice")
        assert (await rest.call("GET", "/me", token)).status == 200
        for session in store.sign_ins.values():
            session.ended = True
        await asyncio.sleep(1.05)
        answer = await rest.call("GET", "/me", token)
    assert (answer.status, answer.json["error"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_an_expired_access_token_is_401_and_a_refreshed_one_is_good() -> None:
    store, key = MemoryStore(), new_signing_key()
    short = Tokens([key], ISSUER, access_ttl=timedelta(seconds=-10))
    async with over_memory(store=store, tokens=short) as rest:
        tokens = await rest.tokens("alice")
        assert (await rest.call("GET", "/me", tokens["access_token"])).status == 401
    async with over_memory(store=store, tokens=Tokens([key], ISSUER)) as rest:
        renewed = await rest.exchange(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
        assert (await rest.call("GET", "/me", renewed.json["access_token"])).status == 200


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Basic YTpi", "Token x", "Bearer a b", "bearer\t", "Bearer é"]
)
async def test_an_odd_authorization_header_is_401(rest: RestClient, authorization: str) -> None:
    answer = await rest.call("GET", "/me", headers={"Authorization": authorization})
    assert answer.status == 401


async def test_a_token_in_the_query_is_not_looked_at(rest: RestClient) -> None:
    token = await rest.sign_in("alice")
    assert (await rest.call("GET", f"/me?access_token={token}")).status == 401
