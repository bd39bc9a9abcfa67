"""The REST side of a TMI service, as far as a load test needs it: sign-in, diagrams, collab tokens."""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from bench.protocols import hocuspocus, y_websocket
from bench.refusals import description, with_setting
from bench.servers.base import Room, ServerError, Unreachable
from bench.tls import checking

TIMEOUT_S = 30.0
CALLBACK = "http://127.0.0.1:9/callback"
MAIL_DOMAIN = "tmi.local"
"""Of everybody whom the development provider signs in."""
_ROOMS = re.compile(r"^tmi_(?:rooms|replicas)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
NAME = "load test"


class _AtAddress(httpx.AsyncHTTPTransport):
    """Connects to one address. Requests name the host of their URL, and the certificate has to be its."""

    def __init__(self, address: str) -> None:
        super().__init__(verify=checking(), trust_env=False)
        self._address = address

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await super().handle_async_request(httpx.Request(
            request.method, request.url.copy_with(host=self._address), headers=request.headers,
            stream=request.stream, extensions={**request.extensions, "sni_hostname": request.url.host},
        ))  # fmt: skip


class Rest:
    """One user of the service, and one threat model in which all diagrams of this process are made.

    Every method that calls the service raises `ServerError`. With an `address` that one is connected to,
    whatever the name in the URL leads to.
    """

    def __init__(self, base_url: str, address: str | None = None) -> None:
        transport = None if address is None else _AtAddress(address)
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=TIMEOUT_S, trust_env=False, verify=checking(), transport=transport
        )
        self._signed_in_as: str | None = None
        self._model: str | None = None
        self._has_asked_for_model = False
        self.model_name = f"{NAME} {secrets.token_hex(8)}"
        """Nobody else's, so that the threat model is found again where the answer to its making was lost."""

    async def aclose(self) -> None:
        await self._http.aclose()

    async def ready(self) -> bool:
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def rooms_in_memory(self) -> int:
        """By the service's `/metrics`, which it tells its own machine: of all its workers, with replicas."""
        answer = await self._send("GET", "/metrics")
        if not answer.is_success:
            raise ServerError(f"GET /metrics was answered {_told(answer)}")
        found = _ROOMS.findall(answer.text)
        if not found:
            raise ServerError("/metrics does not tell how many rooms are in memory")
        return round(sum(map(float, found)))

    def bring(self, token: str) -> None:
        """Calls with an access token that was got elsewhere."""
        self._http.headers["Authorization"] = f"Bearer {token}"

    async def sign_in(self, who: str) -> str:
        """The access token of the development provider's flow with PKCE (RFC 7636, S256)."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        digest = hashlib.sha256(verifier.encode()).digest()
        answer = await self._send("GET", "/oauth2/authorize", params={
            "idp": "tmi", "login_hint": who, "client_callback": CALLBACK, "state": state, "scope": "openid",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        })  # fmt: skip
        if answer.status_code != httpx.codes.FOUND:
            raise ServerError(f"sign-in was answered {_told(answer)}")
        returned = parse_qs(urlsplit(answer.headers["location"]).query)
        if returned.get("state") != [state] or "code" not in returned:
            raise ServerError(f"sign-in came back without its state or code: {sorted(returned)}")
        tokens = await self._call("POST", "/oauth2/token", {
            "grant_type": "authorization_code", "code": returned["code"][0], "code_verifier": verifier,
            "redirect_uri": CALLBACK,
        })  # fmt: skip
        self.bring(tokens["access_token"])
        self._signed_in_as = who
        return str(tokens["access_token"])

    async def new_diagram(self) -> str:
        """Its id. It lies in the threat model of this process, which the first one makes."""
        if self._model is None:
            self._has_asked_for_model = True
            self._model = (await self._call("POST", "/threat_models", {"name": self.model_name}))["id"]
        content = {"name": NAME, "type": "DFD-1.0.0"}
        return str((await self._call("POST", f"/threat_models/{self._model}/diagrams", content))["id"])

    async def y_websocket_room(self) -> Room:
        """A new diagram for y-websocket clients."""
        diagram = await self.new_diagram()
        return y_websocket_at(diagram, await self.collab(diagram))

    async def hocuspocus_room(self) -> Room:
        """A new diagram for Hocuspocus clients."""
        diagram = await self.new_diagram()
        return hocuspocus_at(diagram, await self.collab(diagram))

    async def collab(self, diagram: str | None = None) -> dict[str, str]:
        """A token for the sockets of one diagram or of all, and where they are."""
        body = {} if diagram is None else {"diagram_id": diagram}
        answer: dict[str, str] = await self._call("POST", "/collab/tokens", body)
        return answer

    async def clean_up(self) -> None:
        """Deletes the threat model of this process with all its diagrams, if there may be one."""
        if not self._has_asked_for_model:
            return
        newest = await self._call("GET", "/threat_models?limit=100")
        ours = [model["id"] for model in newest["threat_models"] if model["name"] == self.model_name]
        for model in {*ours, self._model} - {None}:
            await self._call("DELETE", f"/threat_models/{model}")
        self._model, self._has_asked_for_model = None, False

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        """The answer's content. An access token that has run out is renewed where that needs nobody."""
        answer = await self._send(method, path, json=body)
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._signed_in_as is not None:
            await self.sign_in(self._signed_in_as)
            answer = await self._send(method, path, json=body)
        if not answer.is_success:
            raise ServerError(f"{method} {path} was answered {_told(answer)}")
        try:
            return answer.json() if answer.content else None
        except ValueError:
            raise ServerError(f"{method} {path} was not answered with JSON") from None

    async def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            kind = Unreachable if isinstance(error, httpx.TransportError) else ServerError
            raise kind(f"{method} {path} on {self._http.base_url} failed: {reason}") from error


def y_websocket_at(diagram: str, collab: Mapping[str, str]) -> Room:
    """Where the answer to `POST /collab/tokens` leads y-websocket clients."""
    return Room(f"{collab['y_websocket_url']}/{diagram}?token={collab['token']}", y_websocket())


def hocuspocus_at(diagram: str, collab: Mapping[str, str]) -> Room:
    """Where the same leads Hocuspocus clients."""
    return Room(collab["hocuspocus_url"], hocuspocus(diagram, collab["token"]))


def _told(answer: httpx.Response) -> str:
    return f"{answer.status_code}: {with_setting(description(answer.content) or answer.text[:500])}"
