"""TMI from this checkout, with embedded Postgres and its own data directory; clients sign in as usual."""

import asyncio
import base64
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx

from bench.machine import ROOT, revision
from bench.protocols import hocuspocus, y_websocket
from bench.servers.base import HOST, Account, Room, Server, ServerError, free_port

START_TIMEOUT_S = 90.0
SETTINGS = {
    "TMI_ACCESS_TOKEN_TTL_S": "14400",
    "TMI_ROOM_IDLE_S": "1",
    "TMI_SOCKETS_PER_ADDRESS_MAX": "20000",
    "TMI_DOCUMENTS_PER_USER_MAX": "20000",
    "TMI_CLIENT_EDITS_PER_S": "1000000",
}
"""Other than the defaults: no sign-in ends in mid-measurement, an empty room is soon evicted, all clients may
be one user at one address, and each may write as fast as it can.
"""
EVICTED_AFTER_S = 3.0
"""After the last one left, a room is gone by then."""
CALLBACK = "http://127.0.0.1:9/callback"
MAIL_DOMAIN = "tmi.local"
"""Of everybody whom the development provider signs in."""


class Rest:
    """The few REST calls that a load test needs: sign in, make a diagram, get a collab token."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=30, trust_env=False)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def sign_in(self, who: str) -> str:
        """The access token of the development provider's flow with PKCE (RFC 7636, S256).

        Raises `ServerError`.
        """
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(16)
        digest = hashlib.sha256(verifier.encode()).digest()
        answer = await self._http.get("/oauth2/authorize", params={
            "idp": "tmi", "login_hint": who, "client_callback": CALLBACK, "state": state, "scope": "openid",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        })  # fmt: skip
        if answer.status_code != httpx.codes.FOUND:
            raise ServerError(f"sign-in was answered {answer.status_code}: {answer.text[:500]}")
        returned = parse_qs(urlsplit(answer.headers["location"]).query)
        if returned.get("state") != [state] or "code" not in returned:
            raise ServerError(f"sign-in came back without its state or code: {sorted(returned)}")
        tokens = await self._post("/oauth2/token", {
            "grant_type": "authorization_code", "code": returned["code"][0], "code_verifier": verifier,
            "redirect_uri": CALLBACK,
        })  # fmt: skip
        self._http.headers["Authorization"] = f"Bearer {tokens['access_token']}"
        return tokens["access_token"]

    async def new_diagram(self) -> str:
        model = await self._post("/threat_models", {"name": "load test"})
        content = {"name": "load test", "type": "DFD-1.0.0"}
        diagram = await self._post(f"/threat_models/{model['id']}/diagrams", content)
        return str(diagram["id"])

    async def collab(self, diagram: str) -> dict[str, str]:
        return await self._post("/collab/tokens", {"diagram_id": diagram})

    async def ready(self) -> bool:
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def _post(self, path: str, body: dict[str, str]) -> dict[str, str]:
        answer = await self._http.post(path, json=body)
        if answer.is_error:
            raise ServerError(f"POST {path} was answered {answer.status_code}: {answer.text[:500]}")
        content: dict[str, str] = answer.json()
        return content


class Tmi(Server):
    """`tmi serve --dev` and its y-websocket endpoint. Its rooms keep their journal in Postgres, as always."""

    name = "tmi"
    persistence = "Postgres, embedded"
    offers = frozenset({"rest", "acknowledgements", "durable"})

    def __init__(self) -> None:
        super().__init__()
        self._rest: Rest | None = None
        self._folder: Path | None = None

    async def start(self, core: int) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="tmi-bench-"))
        # The database runs as another user when we are root, and has to reach its files.
        self._folder.chmod(0o755)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TMI_")}
        clean |= SETTINGS
        await self._spawn([
            sys.executable, "-m", "tmi.cli", "serve", "--dev", "--host", HOST, "--port", str(self.port),
            "--data-dir", str(self._folder / "data"),
        ], core, clean, ROOT)  # fmt: skip
        self._rest = Rest(self._url)
        await self._until_ready()
        await self._rest.sign_in("load")

    async def stop(self) -> None:
        if self._rest is not None:
            await self._rest.aclose()
        await super().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    async def room(self) -> Room:
        assert self._rest is not None
        diagram = await self._rest.new_diagram()
        collab = await self._rest.collab(diagram)
        return Room(f"{collab['y_websocket_url']}/{diagram}?token={collab['token']}", y_websocket())

    async def account(self, who: str) -> Account:
        rest = Rest(self._url)
        try:
            return Account(self._url, await rest.sign_in(who), f"{who}@{MAIL_DOMAIN}")
        finally:
            await rest.aclose()

    @property
    def _url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def database_pid(self) -> int | None:
        assert self._folder is not None
        for file in self._folder.glob("data/**/postmaster.pid"):
            return int(file.read_text(encoding="ascii").splitlines()[0])
        return None

    def version(self) -> str:
        return f"tmi {revision()}"

    async def _until_ready(self) -> None:
        assert self._rest is not None
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while asyncio.get_running_loop().time() < deadline:
            assert self.pid
            if await self._rest.ready():
                return
            await asyncio.sleep(0.1)
        raise ServerError(f"tmi is not ready after {START_TIMEOUT_S:.0f} s.{self._last_words()}")


class TmiHocuspocus(Tmi):
    """The same service, with Hocuspocus clients, whose every edit is acknowledged after its commit."""

    name = "tmi-hocuspocus"

    async def room(self) -> Room:
        assert self._rest is not None
        diagram = await self._rest.new_diagram()
        collab = await self._rest.collab(diagram)
        return Room(collab["hocuspocus_url"], hocuspocus(diagram, collab["token"]))
