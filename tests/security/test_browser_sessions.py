"""The session cookie: how a browser gets it, and who can do nothing with it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from api.forwarding import TrustedProxies
from api.headers import StrictTransport
from api.origins import Origins
from persistence.memory.store import MemoryStore
from tests.rest import OPTIONS, Answer, RestClient, over_memory

OURS = "https://tmi.example.org"
EDITOR = "https://draw.example.org"
FOREIGN = "https://evil.example.net"
HOST = {"Host": "tmi.example.org"}
SESSION = "__Host-tmi_session"
ATTEMPT = "__Host-tmi_sign_in"
HTTPS = replace(OPTIONS, public_url=OURS, origins=Origins(OURS, frozenset({EDITOR})))
SAME_ORIGIN = {"Origin": OURS, "Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True, slots=True)
class Cookie:
    """A cookie as the service set it."""

    name: str
    value: str
    attributes: Mapping[str, str]

    @property
    def sent(self) -> dict[str, str]:
        return {"Cookie": f"{self.name}={self.value}"}


def cookie_of(answer: Answer) -> Cookie:
    """The one cookie that an answer sets."""
    (line,) = answer.headers.getlist("Set-Cookie")
    pair, *attributes = line.split("; ")
    name, _, value = pair.partition("=")
    parts = (attribute.partition("=") for attribute in attributes)
    return Cookie(name, value, {key.lower(): value for key, _, value in parts})


class Browser:
    """What a browser would do, step by step."""

    def __init__(self, rest: RestClient, base: str = OURS, name: str = "alice") -> None:
        self.rest = rest
        self.base = base
        self.name = name
        self.session: Cookie

    async def get(self, address: str, headers: Mapping[str, str] | None = None) -> Answer:
        sent = {**HOST, **(headers or {})}
        return await self.rest.call("GET", address.removeprefix(self.base), headers=sent)

    async def begin(self, return_to: str = "/", **more: str) -> Answer:
        query = urlencode({"idp": "tmi", "login_hint": self.name, "return_to": return_to, **more})
        return await self.get(f"/session/sign-in?{query}")

    async def authorized(self, return_to: str = "/") -> tuple[Cookie, str]:
        """The cookie of a sign-in under way, and the address to which it comes back."""
        begun = await self.begin(return_to)
        assert 302 == begun.status, begun.data
        answer = await self.get(begun.headers["Location"])
        assert 302 == answer.status, answer.data
        return cookie_of(begun), answer.headers["Location"]

    async def sign_in(self, return_to: str = "/", headers: Mapping[str, str] | None = None) -> Answer:
        attempt, address = await self.authorized(return_to)
        cookies = "; ".join([attempt.sent["Cookie"], *([headers["Cookie"]] if headers else [])])
        answer = await self.get(address, {"Cookie": cookies})
        assert 302 == answer.status, answer.data
        self.session = cookie_of(answer)
        return answer

    async def csrf(self) -> str:
        answer = await self.get("/session", self.session.sent)
        assert 200 == answer.status, answer.data
        return str(answer.json["csrf_token"])

    async def write(self, headers: Mapping[str, str | None]) -> Answer:
        """A write by the cookie, as a page of ours makes it; None takes a header out."""
        usual = {**HOST, **self.session.sent, **SAME_ORIGIN, "X-CSRF-Token": await self.csrf()}
        sent = {name: value for name, value in {**usual, **headers}.items() if value is not None}
        return await self.rest.call("POST", "/threat_models", json_body={"name": "Shop"}, headers=sent)


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory(HTTPS) as rest:
        yield rest


@pytest.fixture
async def alice(rest: RestClient) -> Browser:
    browser = Browser(rest)
    await browser.sign_in()
    return browser


# --- signing in ---------------------------------------------------------------------------------


async def test_a_browser_signs_in_and_is_led_back(rest: RestClient) -> None:
    browser = Browser(rest)
    answer = await browser.sign_in("/editor?model=1#top")
    assert f"{OURS}/editor?model=1#top" == answer.headers["Location"]
    cookie = browser.session
    assert (SESSION, "", "", "Lax", "/") == (
        cookie.name, *(cookie.attributes[name] for name in ("secure", "httponly", "samesite", "path"))
    )  # fmt: skip
    assert "domain" not in cookie.attributes
    assert str(12 * 3600) == cookie.attributes["max-age"]
    shown = (await browser.get("/session", cookie.sent)).json
    assert "alice@tmi.local" == shown["user"]["email"]
    assert cookie.value not in str(shown)


async def test_the_attempts_cookie_is_as_strict_and_short_lived(rest: RestClient) -> None:
    cookie = cookie_of(await Browser(rest).begin())
    assert (ATTEMPT, "", "", "Lax", "/", "600") == (
        cookie.name,
        *(cookie.attributes[name] for name in ("secure", "httponly", "samesite", "path", "max-age")),
    )


@pytest.mark.parametrize(
    "return_to",
    [
        "//evil.example.net", "https://evil.example.net", "/\\evil.example.net", "\\\\evil", "/a\r\nX: y",
        "javascript:alert(1)", "evil", "", "/a\\b", "/\t/evil.example.net", "/é", "/" + "a" * 1000,
    ],
)  # fmt: skip
async def test_nobody_is_led_elsewhere(rest: RestClient, return_to: str) -> None:
    answer = await Browser(rest).begin(return_to)
    assert (400, []) == (answer.status, answer.headers.getlist("Set-Cookie"))


@pytest.mark.parametrize("place", ["Ly9ldmls", "aHR0cHM6Ly9ldmls", "L1w", "!!", "_w", ""])
async def test_a_changed_attempt_leads_nobody_elsewhere(rest: RestClient, place: str) -> None:
    """`//evil`, `https://evil` and the like in the cookie."""
    browser = Browser(rest)
    attempt, address = await browser.authorized()
    changed = replace(attempt, value=f"{attempt.value.partition('.')[0]}.{place}")
    assert 400 == (await browser.get(address, changed.sent)).status


async def test_a_sign_in_that_another_browser_began_is_refused(rest: RestClient) -> None:
    """Login CSRF: the victim is sent to the attacker's callback, with and without an attempt of their own."""
    _, attackers = await Browser(rest, name="mallory").authorized()
    victim = Browser(rest)
    attempt, _ = await victim.authorized()
    for headers in ({}, attempt.sent):
        answer = await victim.get(attackers, headers)
        assert (400, []) == (answer.status, answer.headers.getlist("Set-Cookie"))


async def test_a_code_of_another_sign_in_is_refused(rest: RestClient) -> None:
    """Code injection: a stolen code with the attacker's own state does not fit the verifier."""
    _, victims = await Browser(rest).authorized()
    mallory = Browser(rest, name="mallory")
    attempt, own = await mallory.authorized()
    code = parse_qs(urlsplit(victims).query)["code"][0]
    state = parse_qs(urlsplit(own).query)["state"][0]
    answer = await mallory.get(f"/session/callback?{urlencode({'code': code, 'state': state})}", attempt.sent)
    assert (400, "invalid_grant") == (answer.status, answer.json["error"])


@pytest.mark.parametrize(
    "query",
    ["", "code=x", "state=x", "code=x&state=x", "code=x&code=y&state=x", "error=access_denied", "evil=1"],
)
async def test_a_callback_without_its_state_is_refused(rest: RestClient, query: str) -> None:
    browser = Browser(rest)
    attempt, _ = await browser.authorized()
    answer = await browser.get(f"/session/callback?{query}", attempt.sent)
    assert (400, []) == (answer.status, answer.headers.getlist("Set-Cookie"))


async def test_what_the_provider_says_against_it_is_told(rest: RestClient) -> None:
    browser = Browser(rest)
    attempt, address = await browser.authorized()
    state = parse_qs(urlsplit(address).query)["state"][0]
    query = urlencode({"error": "access_denied", "error_description": "not today", "state": state})
    answer = await browser.get(f"/session/callback?{query}", attempt.sent)
    assert (400, "access_denied", "Not today") == (
        answer.status,
        answer.json["error"],
        answer.json["error_description"],
    )


async def test_a_callback_is_good_once(rest: RestClient) -> None:
    browser = Browser(rest)
    attempt, address = await browser.authorized()
    assert 302 == (await browser.get(address, attempt.sent)).status
    assert 400 == (await browser.get(address, attempt.sent)).status


async def test_two_tabs_may_sign_in_at_once(rest: RestClient) -> None:
    browser = Browser(rest)
    first, address = await browser.authorized("/a")
    second = cookie_of(await browser.get("/session/sign-in?return_to=/b", first.sent))
    assert first.value.partition(".")[0] == second.value.partition(".")[0]
    assert 302 == (await browser.get(address, second.sent)).status


async def test_each_sign_in_makes_a_new_secret_and_ends_the_former_session(alice: Browser) -> None:
    former = alice.session
    await alice.sign_in(headers=former.sent)
    assert former.value != alice.session.value
    assert 401 == (await alice.get("/session", former.sent)).status
    assert 200 == (await alice.get("/session", alice.session.sent)).status


async def test_a_planted_secret_becomes_nobodys_session(rest: RestClient) -> None:
    """Session fixation."""
    planted = {"Cookie": f"{SESSION}={'x' * 43}"}
    browser = Browser(rest)
    await browser.sign_in(headers=planted)
    assert "x" * 43 != browser.session.value
    assert 401 == (await browser.get("/session", planted)).status


async def test_a_service_that_does_not_know_its_own_address_begins_nothing() -> None:
    proxies = TrustedProxies((ip_network("0.0.0.0/0"),))
    async with over_memory(replace(OPTIONS, dev=False, trusted_proxies=proxies)) as rest:
        assert 400 == (await Browser(rest).begin()).status


# --- what a session does ------------------------------------------------------------------------


async def test_a_page_of_ours_reads_and_writes(alice: Browser) -> None:
    assert 201 == (await alice.write({})).status
    assert 200 == (await alice.get("/threat_models", alice.session.sent)).status


async def test_either_header_names_the_page(alice: Browser) -> None:
    assert 201 == (await alice.write({"Sec-Fetch-Site": None})).status
    assert 201 == (await alice.write({"Origin": None})).status


async def test_a_listed_page_writes(alice: Browser) -> None:
    answer = await alice.write({"Origin": EDITOR, "Sec-Fetch-Site": "same-site"})
    assert (201, EDITOR) == (answer.status, answer.headers["Access-Control-Allow-Origin"])


@pytest.mark.parametrize(
    "change",
    [
        {"X-CSRF-Token": None},
        {"X-CSRF-Token": ""},
        {"X-CSRF-Token": "x" * 43},
        {"X-CSRF-Token": "é"},
        {"Origin": FOREIGN},
        {"Origin": FOREIGN, "Sec-Fetch-Site": "cross-site"},
        {"Origin": FOREIGN, "Sec-Fetch-Site": None},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://tmi.example.org"},
        {"Origin": OURS + ".evil.example.net"},
        {"Origin": OURS + ":8443"},
        {"Origin": OURS + "/"},
        {"Origin": "https://TMI.example.org"},
        {"Origin": "https://sub.tmi.example.org"},
        {"Origin": f"{OURS}, {OURS}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": None, "Sec-Fetch-Site": None},
        {"Origin": None, "Sec-Fetch-Site": "none"},
        {"Origin": None, "Sec-Fetch-Site": "same-site"},
        {"Origin": None, "Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
async def test_a_write_that_is_not_known_to_be_ours_is_refused(
    alice: Browser, change: dict[str, str | None]
) -> None:
    answer = await alice.write(change)
    assert (403, "forbidden") == (answer.status, answer.json["error"])
    assert 0 == (await alice.get("/threat_models", alice.session.sent)).json["total"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_every_operation_that_changes_something_needs_the_csrf_token(
    alice: Browser, method: str
) -> None:
    tried = 0
    for rule in alice.rest.app.url_map.iter_rules():
        if method not in (rule.methods or ()) or rule.rule.startswith("/oauth2/"):
            continue
        path = re.sub(r"<[^>]+>", "00000000-0000-4000-8000-00000000000a", rule.rule)
        headers = {**HOST, **alice.session.sent, **SAME_ORIGIN}
        answer = await alice.rest.call(method, path, headers=headers)
        assert 403 == answer.status, rule.rule
        assert "X-CSRF-Token" in answer.json["error_description"]
        tried += 1
    assert tried > 0 or method == "PUT"


async def test_the_csrf_token_of_another_session_is_refused(alice: Browser) -> None:
    mallory = Browser(alice.rest, name="mallory")
    await mallory.sign_in()
    assert 403 == (await alice.write({"X-CSRF-Token": await mallory.csrf()})).status


async def test_the_csrf_token_is_no_session_and_no_bearer_token(alice: Browser) -> None:
    token = await alice.csrf()
    assert 401 == (await alice.get("/session", {"Cookie": f"{SESSION}={token}"})).status
    assert 401 == (await alice.rest.call("GET", "/me", token)).status
    assert 401 == (await alice.rest.call("GET", "/me", alice.session.value)).status


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": FOREIGN},
        {"Origin": "null"},
    ],
    ids=str,
)
async def test_a_read_that_another_page_makes_is_refused(alice: Browser, headers: dict[str, str]) -> None:
    for path in ("/me", "/session", "/threat_models"):
        assert 403 == (await alice.get(path, {**alice.session.sent, **headers})).status


async def test_a_bearer_token_needs_neither_and_goes_with_no_cookie(alice: Browser) -> None:
    token = await alice.rest.sign_in("alice")
    create = ("POST", "/threat_models", token)
    body: Any = {"name": "Shop"}
    headers = {**HOST, "Origin": FOREIGN, "Sec-Fetch-Site": "cross-site"}
    assert 201 == (await alice.rest.call(*create, json_body=body, headers=headers)).status
    both = {**HOST, **SAME_ORIGIN, **alice.session.sent, "X-CSRF-Token": await alice.csrf()}
    assert 400 == (await alice.rest.call(*create, json_body=body, headers=both)).status


def _twice(value: str) -> str:
    return f"{SESSION}={value}; {SESSION}={value}"


@pytest.mark.parametrize(
    ("made", "status"),
    [
        (_twice, 400),
        (lambda value: f"tmi_session={value}", 401),
        (lambda value: f"__host-tmi_session={value}", 401),
        (lambda value: f"__Secure-tmi_session={value}", 401),
        (lambda value: f"{SESSION}={value[:-1]}", 401),
        (lambda value: f"{SESSION}={value}=", 401),
        (lambda value: f"{SESSION}=", 401),
        (lambda value: f"{SESSION}={'é' * 43}", 401),
        (lambda value: f"{ATTEMPT}={value}", 401),
        (lambda value: f"{SESSION}={value}; a={'b' * 17_000}", 400),
    ],
)
async def test_a_cookie_that_is_not_the_session_is_nobodys(
    alice: Browser, made: Callable[[str], str], status: int
) -> None:
    answer = await alice.get("/me", {"Cookie": made(alice.session.value)})
    assert status == answer.status


# --- its end ------------------------------------------------------------------------------------


async def test_sign_out_ends_the_session_and_takes_the_cookie(alice: Browser) -> None:
    headers = {**HOST, **alice.session.sent, **SAME_ORIGIN, "X-CSRF-Token": await alice.csrf()}
    answer = await alice.rest.call("POST", "/session/sign-out", headers=headers)
    gone = cookie_of(answer)
    assert (204, SESSION, "", "0") == (answer.status, gone.name, gone.value, gone.attributes["max-age"])
    assert 401 == (await alice.get("/session", alice.session.sent)).status
    assert 401 == (await alice.get("/me", alice.session.sent)).status


@pytest.mark.parametrize("change", [{"X-CSRF-Token": ""}, {"Origin": FOREIGN}, {"Origin": ""}], ids=str)
async def test_nobody_else_can_sign_somebody_out(alice: Browser, change: dict[str, str]) -> None:
    headers = {**HOST, **alice.session.sent, **SAME_ORIGIN, "X-CSRF-Token": await alice.csrf(), **change}
    assert 403 == (await alice.rest.call("POST", "/session/sign-out", headers=headers)).status
    assert 200 == (await alice.get("/session", alice.session.sent)).status


async def test_without_a_cookie_there_is_no_session(rest: RestClient) -> None:
    token = await rest.sign_in("alice")
    for method, path in (("GET", "/session"), ("POST", "/session/sign-out")):
        assert 401 == (await rest.call(method, path, token, headers=HOST)).status
        assert 401 == (await rest.call(method, path, headers=HOST)).status


async def test_a_session_ends_when_it_goes_unused_and_at_its_end_however_busy() -> None:
    now = datetime.now(UTC)
    store = MemoryStore(clock=lambda: now)
    async with over_memory(replace(HTTPS, browser_session_s=3 * 3600.0), store) as rest:
        idle, busy = Browser(rest), Browser(rest)
        await idle.sign_in()
        await busy.sign_in()
        for _ in range(3):
            now += timedelta(minutes=50)
            _forget(rest)
            assert 200 == (await busy.get("/session", busy.session.sent)).status
        assert 401 == (await idle.get("/session", idle.session.sent)).status
        now += timedelta(minutes=31)
        _forget(rest)
        assert 401 == (await busy.get("/session", busy.session.sent)).status


def _forget(rest: RestClient) -> None:
    """What is remembered of cookies goes by the real clock, a minute at most."""
    rest.services.cookies._seen.clear()
    context: Any = rest.app.extensions["tmi"]
    context.sessions.hear(None)


async def test_a_request_by_cookie_costs_no_write_each_time(alice: Browser) -> None:
    used: list[str] = []
    store = alice.rest.services.cookies.store
    use = store.use

    async def counted(secret: str, idle: timedelta) -> Any:
        used.append(secret)
        return await use(secret, idle)

    alice.rest.services.cookies._seen.clear()
    store.use = counted  # type: ignore[method-assign]
    await asyncio.gather(*(alice.get("/session", alice.session.sent) for _ in range(5)))
    for _ in range(5):
        await alice.get("/session", alice.session.sent)
    assert len(used) <= 5, "at most those that came at once"


async def test_revoking_the_sign_in_ends_the_cookie(alice: Browser) -> None:
    other = await alice.rest.sign_in("alice")
    listed = (await alice.rest.call("GET", "/me/sign_ins", other)).json["sign_ins"]
    assert 2 == len(listed)
    assert 204 == (await alice.rest.call("DELETE", "/me/sign_ins", other)).status
    assert 401 == (await alice.get("/session", alice.session.sent)).status


# --- over plain http ----------------------------------------------------------------------------


async def test_development_does_without_https_and_production_does_not() -> None:
    host = {"Host": "127.0.0.1:8080"}
    async with over_memory(OPTIONS) as rest:
        answer = await rest.call("GET", "/session/sign-in?idp=tmi", headers=host)
        cookie = cookie_of(answer)
        assert (302, "tmi_sign_in") == (answer.status, cookie.name)
        assert "secure" not in cookie.attributes
    plain = replace(OPTIONS, dev=False, public_url="http://tmi.example.org")
    async with over_memory(plain) as rest:
        answer = await rest.call("GET", "/session/sign-in?idp=tmi", headers=HOST)
        assert (400, []) == (answer.status, answer.headers.getlist("Set-Cookie"))
        assert 401 == (await rest.call("GET", "/me", headers={"Cookie": f"tmi_session={'x' * 43}"})).status


async def test_behind_a_trusted_proxy_that_says_https_it_is_https() -> None:
    trusting = replace(OPTIONS, trusted_proxies=TrustedProxies((ip_network("127.0.0.0/8"),)))
    told = {"Host": "127.0.0.1:1", "X-Forwarded-Proto": "https"}
    for options, name in ((trusting, ATTEMPT), (OPTIONS, "tmi_sign_in")):
        async with over_memory(options) as rest:
            client = rest.app.test_client(use_cookies=False)
            answer = await client.get(
                "/session/sign-in?idp=tmi", headers=told, scope_base={"client": ("127.0.0.1", 5)}
            )
            assert answer.headers["Set-Cookie"].startswith(f"{name}=")


@pytest.mark.parametrize(
    ("hsts", "told"),
    [
        (StrictTransport(60), "max-age=60"),
        (StrictTransport(60, subdomains=True), "max-age=60; includeSubDomains"),
        (StrictTransport(0, subdomains=True), None),
    ],
)
async def test_browsers_are_told_to_stay_with_https_over_https_alone(
    hsts: StrictTransport, told: str | None
) -> None:
    async with over_memory(replace(HTTPS, hsts=hsts)) as rest:
        client = rest.app.test_client(use_cookies=False)
        for scheme, expected in (("https", told), ("http", None)):
            answer = await client.get("/nowhere", scheme=scheme)
            assert expected == answer.headers.get("Strict-Transport-Security")


# --- CORS ---------------------------------------------------------------------------------------


def asks(origin: str, method: str = "PATCH") -> dict[str, str]:
    return {
        **HOST,
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "x-csrf-token, content-type",
    }


async def test_a_preflight_of_a_listed_page_is_answered_without_a_sign_in(rest: RestClient) -> None:
    for path in ("/threat_models", "/me", "/session"):
        answer = await rest.call("OPTIONS", path, headers=asks(EDITOR))
        assert (204, EDITOR, "true") == (
            answer.status,
            answer.headers["Access-Control-Allow-Origin"],
            answer.headers["Access-Control-Allow-Credentials"],
        )
        assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
        assert {"x-csrf-token", "content-type", "authorization"} <= {
            name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")
        }
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize(
    "origin",
    [
        FOREIGN, "null", "*", "", EDITOR + ".evil.net", EDITOR.upper(), EDITOR + ":8443", EDITOR + "/",
        "http://draw.example.org", "https://xdraw.example.org", f"{EDITOR},{EDITOR}",
    ],
)  # fmt: skip
async def test_other_pages_are_told_nothing(rest: RestClient, origin: str) -> None:
    preflight = await rest.call("OPTIONS", "/threat_models", headers=asks(origin))
    plain = await rest.call("GET", "/livez", headers={**HOST, "Origin": origin})
    assert (403, 200) == (preflight.status, plain.status)
    for answer in (preflight, plain):
        assert [] == [name for name, _ in answer.headers if name.lower().startswith("access-control")]
        assert "Origin" in answer.headers["Vary"]


async def test_errors_can_be_read_by_listed_pages_as_well(rest: RestClient) -> None:
    for path, status in (("/me", 401), ("/nowhere", 404)):
        answer = await rest.call("GET", path, headers={**HOST, "Origin": EDITOR})
        assert (status, EDITOR) == (answer.status, answer.headers["Access-Control-Allow-Origin"])


async def test_options_that_is_no_preflight_is_a_method_like_others(rest: RestClient) -> None:
    assert 405 == (await rest.call("OPTIONS", "/threat_models", headers=HOST)).status
    assert 405 == (await rest.call("OPTIONS", "/threat_models", headers={**HOST, "Origin": EDITOR})).status


async def test_where_no_origin_is_listed_nobody_is_told_anything() -> None:
    async with over_memory() as rest:
        answer = await rest.call("GET", "/livez", headers={"Origin": OURS})
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Vary" not in answer.headers
