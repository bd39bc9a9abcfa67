"""GitHub: OAuth 2 without OpenID Connect. Who somebody is, its API says.

There is no ID token, so the access token is used at once, for two questions, and forgotten. The account's
number is the id: names change hands. An address counts if GitHub has it as primary and verified.
"""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from api.errors import OAuthError
from api.identity.provider import Attempt, Identity, ProviderOptions, checked_identity, refused_by
from api.identity.web import Unreachable, Web

log = logging.getLogger(__name__)

SCOPES = ("read:user", "user:email")
API_VERSION = "2022-11-28"
MAX_ADDRESSES = 1000


class GitHub:
    """An `IdentityProvider` by github.com, or a GitHub Enterprise Server."""

    def __init__(self, options: ProviderOptions, redirect_uri: str, web: Web) -> None:
        self.options = options
        self.name = options.name or "GitHub"
        self.icon = options.icon or "github"
        self._site = options.issuer.rstrip("/")
        self._api = _api_of(self._site)
        self._redirect_uri = redirect_uri
        self._web = web

    async def address(self, attempt: Attempt) -> str:
        """Where to send the browser."""
        url: str = prepare_grant_uri(
            f"{self._site}/login/oauth/authorize",
            self.options.client_id,
            "code",
            redirect_uri=self._redirect_uri,
            scope=list(self.options.scopes or SCOPES),
            state=attempt.state,
            code_challenge=create_s256_code_challenge(attempt.verifier),  # type: ignore[no-untyped-call]
            code_challenge_method="S256",
        )
        return url

    async def identity(self, answer: Mapping[str, str], attempt: Attempt) -> Identity:
        """Who came back. Raises OAuthError."""
        if "code" not in answer:
            raise refused_by(self.name, answer)
        try:
            token = await self._token(answer["code"], attempt)
            user = await self._asked("/user", token)
            addresses = await self._asked("/user/emails", token)
        except Unreachable as error:
            log.warning("the provider %s can't be used: %s", self.options.id, error)
            raise OAuthError("temporarily_unavailable", f"{self.name} can't be reached") from None
        return checked_identity(self.options, self.name, self._identity(user, addresses))

    def _identity(self, user: Any, addresses: Any) -> Identity:
        number = user.get("id") if isinstance(user, dict) else None
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(addresses, list):
            log.warning("%s did not tell of whom it signed in", self.options.id)
            raise OAuthError("server_error", f"{self.name} did not tell who you are")
        known = [address for address in addresses[:MAX_ADDRESSES] if isinstance(address, dict)]
        mine = [
            str(address.get("email"))
            for address in known
            if address.get("primary") is True and address.get("verified") is True
        ]
        if not mine:
            raise OAuthError("access_denied", f"verify your primary e-mail address at {self.name} first")
        return Identity(str(number), mine[0], True, str(user.get("name") or user.get("login") or ""))

    async def _token(self, code: str, attempt: Attempt) -> str:
        form = prepare_token_request(
            "authorization_code",
            redirect_uri=self._redirect_uri,
            code=code,
            code_verifier=attempt.verifier,
            client_id=self.options.client_id,
            client_secret=self.options.client_secret,
        )
        answer = await self._web.post(f"{self._site}/login/oauth/access_token", form, {})
        token = answer.members.get("access_token")
        # Errors come with the status 200.
        if answer.status == 200 and isinstance(token, str) and token.isascii() and token.isprintable():
            return token
        if answer.status >= 500:
            raise Unreachable(f"its token endpoint answered {answer.status}")
        log.warning("%s gave no token: status %d", self.options.id, answer.status)
        raise OAuthError("server_error", f"{self.name} did not take its code back")

    async def _asked(self, path: str, token: str) -> Any:
        headers = {
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": API_VERSION,
        }
        answer = await self._web.get(f"{self._api}{path}", headers)
        if answer.status != 200:
            raise Unreachable(f"its API answered {answer.status} to {path}")
        return answer.json


def _api_of(site: str) -> str:
    """Where the API of a site is: github.com, a company's own at ghe.com, or an Enterprise Server."""
    host = urlsplit(site).netloc
    if host == "github.com" or host.endswith(".ghe.com"):
        return f"https://api.{host}"
    return f"{site}/api/v3"
