"""The REST side as a client sees it: sign-in, threat models, diagrams, collab tokens."""

import base64
import hashlib
import secrets
import ssl
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx

Json = Any
CALLBACK = "http://127.0.0.1:9/callback"


def user(name: str, role: str) -> dict[str, str]:
    """An authorization entry for a user of the development provider."""
    return {
        "principal_type": "user",
        "provider": "tmi",
        "provider_id": f"{name}@tmi.local",
        "email": f"{name}@tmi.local",
        "role": role,
    }


@dataclass(frozen=True, slots=True)
class Person:
    """A signed-in user."""

    name: str
    access_token: str
    refresh_token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}


@dataclass(frozen=True, slots=True)
class Place:
    """A diagram in a threat model."""

    model: str
    diagram: str


class Rest:
    """Calls a service; every answer that is no success raises httpx.HTTPStatusError."""

    def __init__(self, url: str, timeout_s: float = 30, tls: ssl.SSLContext | None = None) -> None:
        self.http = httpx.AsyncClient(base_url=url, timeout=timeout_s, trust_env=False, verify=tls or True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.http.aclose()

    async def sign_in(self, name: str) -> Person:
        """The authorization code flow with PKCE, as the contract has it."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        answer = await self.http.get(
            "/oauth2/authorize",
            params={
                "idp": "tmi",
                "login_hint": name,
                "client_callback": CALLBACK,
                "state": "s",
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            },
        )
        assert 302 == answer.status_code, answer.text
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        tokens = await self._json(
            "POST",
            "/oauth2/token",
            json={
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": CALLBACK,
                "code_verifier": verifier,
            },
        )
        return Person(name, tokens["access_token"], tokens["refresh_token"])

    async def create_model(self, owner: Person, *grants: dict[str, str]) -> str:
        model = await self._json(
            "POST", "/threat_models", owner, json={"name": "Interop", "authorization": list(grants)}
        )
        return str(model["id"])

    async def create_diagram(self, owner: Person, model: str) -> Place:
        diagram = await self._json(
            "POST",
            f"/threat_models/{model}/diagrams",
            owner,
            json={"name": "Flow", "type": "DFD-1.0.0"},
        )
        return Place(model, str(diagram["id"]))

    async def create_place(self, owner: Person, *grants: dict[str, str]) -> Place:
        """A new threat model with one diagram."""
        return await self.create_diagram(owner, await self.create_model(owner, *grants))

    async def diagram(self, person: Person, place: Place) -> Json:
        return await self._json("GET", f"/threat_models/{place.model}/diagrams/{place.diagram}", person)

    async def delete_diagram(self, person: Person, place: Place) -> None:
        answer = await self.http.delete(
            f"/threat_models/{place.model}/diagrams/{place.diagram}", headers=person.headers
        )
        answer.raise_for_status()

    async def authorization(self, person: Person, model: str) -> list[dict[str, Json]]:
        found: list[dict[str, Json]] = (await self._json("GET", f"/threat_models/{model}", person))[
            "authorization"
        ]
        return found

    async def set_role(self, owner: Person, model: str, name: str, role: str | None) -> None:
        """Give a user of the authorization list another role, or take them off it."""
        index = [entry["provider_id"] for entry in await self.authorization(owner, model)].index(
            f"{name}@tmi.local"
        )
        operation = (
            {"op": "remove", "path": f"/authorization/{index}"}
            if role is None
            else {"op": "replace", "path": f"/authorization/{index}", "value": user(name, role)}
        )
        await self._json(
            "PATCH",
            f"/threat_models/{model}",
            owner,
            json=[operation],
            headers={"Content-Type": "application/json-patch+json"},
        )

    async def grant(self, owner: Person, model: str, entry: dict[str, str]) -> None:
        """Put a user on the authorization list."""
        await self._json(
            "PATCH",
            f"/threat_models/{model}",
            owner,
            json=[{"op": "add", "path": "/authorization/-", "value": entry}],
            headers={"Content-Type": "application/json-patch+json"},
        )

    async def collab_token(self, person: Person, diagram: str | None = None) -> str:
        body = {} if diagram is None else {"diagram_id": diagram}
        return str((await self._json("POST", "/collab/tokens", person, json=body))["token"])

    async def ready(self) -> tuple[int, str]:
        """Status and body of /readyz."""
        answer = await self.http.get("/readyz")
        return answer.status_code, answer.text

    async def _json(
        self,
        method: str,
        path: str,
        person: Person | None = None,
        *,
        json: Json = None,
        headers: dict[str, str] | None = None,
    ) -> Json:
        answer = await self.http.request(
            method, path, json=json, headers={**(headers or {}), **(person.headers if person else {})}
        )
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {answer.status_code} {answer.text}",
                request=answer.request,
                response=answer,
            )
        return answer.json()
