"""The whole service with two workers and a provider by settings: any worker finishes what another began."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.harness import identity
from tests.harness.identity import CLIENT_ID, CLIENT_SECRET, GitHubSite
from tests.harness.service import Service
from tests.rest import CALLBACK, VERIFIER, challenge_of


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubSite]:
    with GitHubSite() as github:
        yield github


def test_somebody_signs_in_at_a_service_with_workers(
    tmp_path_factory: pytest.TempPathFactory, github: GitHubSite, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(identity, "REDIRECT_URI", f"{service.url}/oauth2/callback")
    with service:
        people = [_signed_in(service.url) for _ in range(4)]
    assert [("octo@example.org", "github")] * 4 == people
    assert CLIENT_SECRET not in service.log.read_text()


def _signed_in(url: str) -> tuple[str, str]:
    # A connection each, which the kernel gives to any worker.
    with httpx.Client(trust_env=False, timeout=30, headers={"Connection": "close"}) as browser:
        answer = browser.get(
            f"{url}/oauth2/authorize",
            params={
                "idp": "github",
                "client_callback": CALLBACK,
                "code_challenge": challenge_of(VERIFIER),
                "code_challenge_method": "S256",
            },
        )
        while not (address := answer.headers["Location"]).startswith(CALLBACK):
            answer = browser.get(address)
        code = parse_qs(urlsplit(address).query)["code"][0]
        tokens = browser.post(
            f"{url}/oauth2/token",
            json={"grant_type": "authorization_code", "code": code, "code_verifier": VERIFIER},
        ).json()
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        me = browser.get(f"{url}/oauth2/userinfo", headers=bearer).json()
    return me["email"], me["idp"]
