"""Identity providers for tests, each a real HTTP server on this machine, and a browser that visits them.

`OpenId` is npm's oidc-provider in a process of its own. `Forger` is an OpenID provider of our own making,
which can be told to lie: it answers by the rules, but its ID tokens say what a test wants. `GitHubSite`
answers as GitHub's documentation says: forms for JSON, errors with the status 200, an API that wants its
headers.
"""

import base64
import hashlib
import json
import secrets
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwk, jwt
from joserfc.errors import SecurityWarning

from tests.harness.node import node_program
from tests.rest import CALLBACK, Answer, RestClient

Json = Any
PUBLIC_URL = "https://tmi.example.org"
REDIRECT_URI = f"{PUBLIC_URL}/oauth2/callback"
CLIENT_ID = "tmi-client"
CLIENT_SECRET = "s3cret/with+odd%20signs:and=more"


# --- npm's oidc-provider ------------------------------------------------------------------------


class OpenId:
    """npm's oidc-provider. `restart` gives it another key, and lets it keep its place."""

    def __init__(self, *, authentication: str = "client_secret_basic", thin: bool = True) -> None:
        self.key = new_key("first")
        self._port = 0
        self._thin = thin
        self._client = {
            "client_id": CLIENT_ID,
            "redirect_uris": [REDIRECT_URI],
            "token_endpoint_auth_method": authentication,
        }
        if authentication != "none":
            self._client["client_secret"] = CLIENT_SECRET
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def next(self, **account: Json) -> None:
        """Who signs in from now on."""
        self._control({"account": account})

    def refuse(self, error: str) -> None:
        """Nobody signs in from now on."""
        self._control({"refuse": error})

    def restart(self, key: jwk.Key) -> None:
        """With another key. It forgets its people."""
        self._stop()
        self.key = key
        self._start()

    def _control(self, body: Json) -> None:
        httpx.post(f"{self.url}/control", json=body, trust_env=False, timeout=10).raise_for_status()

    def _start(self) -> None:
        told = {
            "port": self._port,
            "client": self._client,
            "jwks": {"keys": [self.key.as_dict(private=True)]},
            "thin": self._thin,
        }
        self._process = subprocess.Popen(
            node_program("openid-provider.mjs", json.dumps(told)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, "the OpenID provider did not start"
        self._port = urlsplit(self.url).port or 0

    def _stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate(timeout=10)


def new_key(kid: str) -> jwk.Key:
    """A key to sign ID tokens with."""
    return jwk.RSAKey.generate_key(2048, {"kid": kid, "use": "sig", "alg": "RS256"}, private=True)


# --- servers of our own -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    headers: Mapping[str, str]


Reply = tuple[int, Mapping[str, str], bytes]


class Site:
    """An HTTP server in a thread. A subclass answers; `override` answers instead, by path."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.override: dict[str, Callable[[Asked], Reply]] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._reply()

            def do_POST(self) -> None:
                self._reply()

            def _reply(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
                parts = urlsplit(self.path)
                asked = Asked(self.command, parts.path, _once(parts.query), _once(body), dict(self.headers))
                site.asked.append(asked)
                status, headers, data = site.override.get(parts.path, site.answer)(asked)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, asked: Asked) -> Reply:
        raise NotImplementedError


def in_json(body: Json, status: int = 200) -> Reply:
    """An answer in JSON."""
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


@dataclass(slots=True)
class Given:
    """What a code stands for."""

    challenge: str
    redirect_uri: str
    nonce: str


class CodeSite(Site):
    """A site that gives codes, once each and bound to a PKCE challenge, and takes them back."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: dict[str, Given] = {}

    def authorized(self, asked: Asked, **more: str) -> Reply:
        """Send the browser back with a code, nobody asked."""
        query = asked.query
        assert (CLIENT_ID, REDIRECT_URI, "code", "S256") == (
            query["client_id"],
            query["redirect_uri"],
            query["response_type"],
            query["code_challenge_method"],
        )
        code = secrets.token_urlsafe(16)
        self.codes[code] = Given(query["code_challenge"], query["redirect_uri"], query.get("nonce", ""))
        told = urlencode({"code": code, "state": query["state"], **more})
        return 302, {"Location": f"{query['redirect_uri']}?{told}"}, b""

    def redeemed(self, form: Mapping[str, str]) -> Given | None:
        """What a code stood for, if all of it fits."""
        given = self.codes.pop(form.get("code", ""), None)
        if given is None or form.get("redirect_uri") != given.redirect_uri:
            return None
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        return given if challenge == given.challenge else None


def signed(header: dict[str, Json], claims: dict[str, Json], key: jwk.Key) -> str:
    """A token. The name EdDSA is deprecated by RFC 9864, and what providers use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        return jwt.encode(header, claims, key, algorithms=[header["alg"]])


class Forger(CodeSite):
    """An OpenID provider that lies when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = [new_key("k1")]
        self.claims: dict[str, Json] = {}
        """What ID tokens say otherwise; None leaves a claim out."""
        self.header: dict[str, Json] = {}
        self.signed: Callable[[dict[str, Json], dict[str, Json]], str] = self.sign
        self.document: dict[str, Json] = {}
        """What the discovery document says otherwise."""
        self.back: dict[str, str] = {}
        """What the browser brings besides code and state."""

    def sign(self, header: dict[str, Json], claims: dict[str, Json]) -> str:
        """By the newest key."""
        return signed(header, claims, self.keys[0])

    def answer(self, asked: Asked) -> Reply:
        match asked.path:
            case "/.well-known/openid-configuration":
                return in_json(self._document())
            case "/authorize":
                return self.authorized(asked, **self.back)
            case "/token":
                return self._tokens(asked)
            case "/jwks":
                return in_json({"keys": [key.as_dict(private=False) for key in self.keys]})
            case _:
                return in_json({"error": "not_found"}, 404)

    def _document(self) -> Json:
        said: dict[str, Json] = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        } | self.document
        return {name: value for name, value in said.items() if value is not None}

    def _tokens(self, asked: Asked) -> Reply:
        if (CLIENT_ID, CLIENT_SECRET) != (asked.form.get("client_id"), asked.form.get("client_secret")):
            return in_json({"error": "invalid_client", "error_description": f"no {CLIENT_SECRET}"}, 401)
        given = self.redeemed(asked.form)
        if given is None:
            return in_json({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims: dict[str, Json] = {
            "iss": self.url,
            "sub": "4711",
            "aud": CLIENT_ID,
            "exp": now + 300,
            "iat": now,
            "nonce": given.nonce,
            "email": "dave@example.org",
            "email_verified": True,
            "name": "Dave",
        } | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        header: dict[str, Json] = {"alg": "RS256", "kid": self.keys[0].kid, "typ": "JWT"} | self.header
        header = {name: value for name, value in header.items() if value is not None}
        return in_json(
            {"access_token": "at", "token_type": "Bearer", "id_token": self.signed(header, claims)}
        )


@dataclass(slots=True)
class GitHubAccount:
    """Somebody at GitHub."""

    id: int = 583231
    login: str = "octocat"
    name: str | None = "Octo Cat"
    emails: list[dict[str, Json]] = field(
        default_factory=lambda: [
            {"email": "old@example.org", "primary": False, "verified": True, "visibility": None},
            {"email": "octo@example.org", "primary": True, "verified": True, "visibility": "private"},
        ]
    )


class GitHubSite(CodeSite):
    """GitHub's OAuth app flow and the two questions of its REST API, where an Enterprise Server has them."""

    def __init__(self) -> None:
        super().__init__()
        self.account = GitHubAccount()
        self.tokens: set[str] = set()

    def answer(self, asked: Asked) -> Reply:
        match asked.method, asked.path:
            case "GET", "/login/oauth/authorize":
                return self.authorized(asked)
            case "POST", "/login/oauth/access_token":
                return self._token(asked)
            case "GET", "/api/v3/user":
                account = self.account
                return self._known(asked, {"id": account.id, "login": account.login, "name": account.name})
            case "GET", "/api/v3/user/emails":
                return self._known(asked, self.account.emails)
            case _:
                return in_json({"message": "Not Found"}, 404)

    def _token(self, asked: Asked) -> Reply:
        form = asked.form
        if (CLIENT_ID, CLIENT_SECRET) != (form.get("client_id"), form.get("client_secret")):
            body = {"error": "incorrect_client_credentials"}
        elif self.redeemed(form) is None:
            body = {"error": "bad_verification_code"}
        else:
            token = f"gho_{secrets.token_hex(16)}"
            self.tokens.add(token)
            body = {"access_token": token, "scope": "read:user,user:email", "token_type": "bearer"}
        if asked.headers.get("Accept") == "application/json":
            return in_json(body)
        return 200, {"Content-Type": "application/x-www-form-urlencoded"}, urlencode(body).encode()

    def _known(self, asked: Asked, body: Json) -> Reply:
        if not asked.headers.get("User-Agent"):
            return in_json({"message": "Request forbidden by administrative rules."}, 403)
        if asked.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return in_json({"message": "Bad credentials"}, 401)
        return in_json(body)


def _once(text: str) -> dict[str, str]:
    pairs = parse_qs(text, keep_blank_values=True)
    assert all(len(values) == 1 for values in pairs.values()), text
    return {name: values[0] for name, values in pairs.items()}


# --- the browser --------------------------------------------------------------------------------


class Browser:
    """Follows redirects between TMI, which is in this process, and providers; keeps the cookies of both."""

    def __init__(self, rest: RestClient) -> None:
        self.rest = rest
        self.cookies: dict[str, str] = {}
        self._http = httpx.Client(trust_env=False, timeout=10, verify=False)

    def close(self) -> None:
        self._http.close()

    async def tmi(self, path: str, accept: str = "*/*") -> Answer:
        """A page of TMI."""
        headers = {"Accept": accept}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = await self.rest.call("GET", path, headers=headers)
        for cookie in answer.headers.getlist("Set-Cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        return answer

    async def begin(self, idp: str, **changes: str | None) -> Answer:
        """Ask TMI to sign in."""
        path = self.rest.authorize_path(idp=idp, login_hint=None, **changes)
        return await self.tmi(path)

    def at_provider(self, address: str) -> str:
        """Where the provider sends the browser in the end: an address of TMI's."""
        for _ in range(10):
            if address.startswith(PUBLIC_URL):
                return address
            answer = self._http.get(address)
            assert answer.is_redirect, answer.text
            address = str(answer.next_request.url if answer.next_request else "")
        raise AssertionError("too many redirects")

    async def come_back(self, address: str) -> Mapping[str, str]:
        """What the client gets when the browser comes to this address of TMI's."""
        answer = await self.tmi(address.removeprefix(PUBLIC_URL))
        assert answer.status == 302, answer.data
        return told(answer)

    async def sign_in(self, idp: str, **changes: str | None) -> Mapping[str, str]:
        """All of it: what the client gets."""
        answer = await self.begin(idp, **changes)
        assert answer.status == 302, answer.data
        if answer.headers["Location"].startswith(CALLBACK):
            return told(answer)
        return await self.come_back(self.at_provider(answer.headers["Location"]))


def told(answer: Answer) -> Mapping[str, str]:
    """The parameters of a redirect."""
    return _once(urlsplit(answer.headers["Location"]).query)


@contextmanager
def browsing(rest: RestClient) -> Iterator[Browser]:
    """A fresh browser."""
    browser = Browser(rest)
    try:
        yield browser
    finally:
        browser.close()
