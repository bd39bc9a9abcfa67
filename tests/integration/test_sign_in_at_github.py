"""The whole service with two workers and a provider by settings: any worker finishes what another began."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from httpx_ws import WebSocketDisconnect, WebSocketSession, connect_ws

from tests.harness import identity
from tests.harness.identity import CLIENT_ID, CLIENT_SECRET, GitHubAccount, GitHubSite
from tests.harness.service import Service
from tests.rest import CALLBACK, VERIFIER, challenge_of, user_grant

Json = Any


@pytest.fixture(scope="module")
def github() -> Iterator[GitHubSite]:
    with GitHubSite() as github:
        yield github


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, github: GitHubSite) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("github")
    secret = folder / "secret"
    secret.write_text(CLIENT_SECRET)
    environment = {
        "TMI_WORKERS": "2",
        "TMI_PROVIDER_GITHUB_CLIENT_ID": CLIENT_ID,
        "TMI_PROVIDER_GITHUB_CLIENT_SECRET_FILE": str(secret),
        "TMI_PROVIDER_GITHUB_ISSUER": github.url,
    }
    service = Service(folder / "data", environment)
    service._environment["TMI_PUBLIC_URL"] = service.url
    with pytest.MonkeyPatch.context() as patch, service:
        patch.setattr(identity, "REDIRECT_URI", f"{service.url}/oauth2/callback")
        yield service


def test_any_worker_finishes_a_sign_in_and_none_writes_the_secret_down(service: Service) -> None:
    people = [_asked(service, _token(service, "github"), "GET", "/oauth2/userinfo") for _ in range(4)]
    assert [("octo@example.org", "github")] * 4 == [(one["email"], one["idp"]) for one in people]
    assert CLIENT_SECRET not in service.log.read_text()


def test_who_has_an_address_no_more_leaves_the_rooms_that_it_let_them_into(
    service: Service, github: GitHubSite
) -> None:
    alice = _token(service, "tmi", login_hint="alice")
    named = user_grant("octo", "writer") | {"provider": "github", "provider_id": "octo@example.org"}
    model = _asked(service, alice, "POST", "/threat_models", {"name": "Shop", "authorization": [named]})
    diagrams = f"/threat_models/{model['id']}/diagrams"
    diagram = _asked(service, alice, "POST", diagrams, {"name": "Flow", "type": "DFD-1.0.0"})["id"]
    before = _token(service, "github")
    token = _asked(service, before, "POST", "/collab/tokens", {"diagram_id": diagram})["token"]
    place = f"{service.collab}/{diagram}?token={token}"

    socket: WebSocketSession
    with httpx.Client(trust_env=False) as http, connect_ws(place, http) as socket:
        socket.receive_bytes(timeout=10)
        github.account = GitHubAccount(id=2, login="heir")
        _token(service, "github")
        began = time.monotonic()
        with pytest.raises(WebSocketDisconnect) as closed:
            _read_to_the_end(socket)

    assert 4403 == closed.value.code
    assert time.monotonic() - began < 5


def _read_to_the_end(socket: WebSocketSession) -> None:
    while True:
        socket.receive_bytes(timeout=10)


def _token(service: Service, idp: str, **more: str) -> str:
    """Sign in, with a connection for each step, which the kernel gives to any worker."""
    with httpx.Client(trust_env=False, timeout=30, headers={"Connection": "close"}) as browser:
        answer = browser.get(
            f"{service.url}/oauth2/authorize",
            params={
                "idp": idp,
                "client_callback": CALLBACK,
                "code_challenge": challenge_of(VERIFIER),
                "code_challenge_method": "S256",
                **more,
            },
        )
        while not (address := answer.headers["Location"]).startswith(CALLBACK):
            answer = browser.get(address)
        code = parse_qs(urlsplit(address).query)["code"][0]
        body = {"grant_type": "authorization_code", "code": code, "code_verifier": VERIFIER}
        tokens = browser.post(f"{service.url}/oauth2/token", json=body).json()
    return str(tokens["access_token"])


def _asked(service: Service, token: str, method: str, path: str, body: Json = None) -> Json:
    with httpx.Client(trust_env=False, timeout=30) as http:
        bearer = {"Authorization": f"Bearer {token}"}
        answer = http.request(method, f"{service.url}{path}", headers=bearer, json=body)
        assert answer.is_success, answer.text
        return answer.json()
