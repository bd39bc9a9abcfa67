"""Any OpenID Connect issuer, by discovery.

What holds true (OpenID Connect Core and Discovery, RFC 9700, RFC 9207):

- The issuer in the discovery document is the one that the operator named, letter by letter; addresses in it
  are `https`. It is asked for again after an hour; while that fails the old one is good for a day.
- A browser goes there with a state, a nonce and a PKCE challenge that are its own, and comes back to the one
  registered address. If the issuer says that it names itself in its answer, it has to.
- The ID token comes from the token endpoint, and is checked all the same: signed with one of the issuer's
  keys by an asymmetric algorithm, of which we have a list; issuer, audience, authorized party, nonce and
  times; the access token's hash where it is there. Clocks may differ by a minute.
- Keys are asked for again when a token names one that is not known, so that a rotation costs nobody a
  sign-in, and else after an hour. A key that is gone from there is good for an hour at most, or for a day
  while the issuer does not answer.
"""

import asyncio
import base64
import json
import logging
import re
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwk, jwt
from joserfc.errors import JoseError, SecurityWarning

from api.errors import OAuthError
from api.identity.provider import Attempt, Identity, ProviderOptions, checked_identity, refused_by
from api.identity.web import Unreachable, Web

log = logging.getLogger(__name__)

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""By the first letters of algorithms."""
SCOPES = ("openid", "email", "profile")
FRESH_S = 3600.0
STALE_S = 24 * 3600.0
RETRY_S = 5.0
"""After a failure nothing is asked for so long."""
CLOCK_SKEW_S = 60
MAX_KEYS = 100
MAX_TOKEN_LENGTH = 64 * 1024
WELL_KNOWN = "/.well-known/openid-configuration"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a discovery document says."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None
    names_itself: bool
    """It puts `iss` into its answers (RFC 9207)."""
    takes_post: bool
    """The client's secret may come in the form."""


class Cached(Generic[Value]):
    """Something that is asked for once an hour, by one of those who want it."""

    def __init__(self, ask: Callable[[], Awaitable[Value]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._clock = clock
        self._lock = asyncio.Lock()
        self._value: Value | None = None
        self._asked_at = float("-inf")
        self._failed_at = float("-inf")
        self._failure = Unreachable("it was not asked yet")

    async def get(self, *, newer_than: float = float("-inf")) -> tuple[Value, float]:
        """The value, and when it was asked for. Raises Unreachable.

        `newer_than`: one of that age will not do, unless it failed a moment ago.
        """
        async with self._lock:
            now = self._clock()
            is_fresh = now - self._asked_at < FRESH_S and self._asked_at > newer_than
            if self._value is not None and is_fresh:
                return self._value, self._asked_at
            if now - self._failed_at >= RETRY_S:
                try:
                    self._value, self._asked_at = await self._ask(), now
                except Unreachable as failure:
                    self._failed_at, self._failure = self._clock(), failure
            if self._value is None or now - self._asked_at > STALE_S:
                raise Unreachable(str(self._failure))
            return self._value, self._asked_at


class OpenIdProvider:
    """An `IdentityProvider` by OpenID Connect."""

    default_name = "Single sign-on"

    def __init__(
        self,
        options: ProviderOptions,
        redirect_uri: str,
        web: Web,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.name = options.name or self.default_name
        self.icon = options.icon or options.kind
        self._redirect_uri = redirect_uri
        self._web = web
        self._metadata = Cached(self._discovered, clock)
        self._keys = Cached(self._published, clock)

    async def address(self, attempt: Attempt) -> str:
        """Where to send the browser. Raises OAuthError."""
        metadata = await self._reached(self._metadata.get())
        url: str = prepare_grant_uri(
            metadata[0].authorization_endpoint,
            self.options.client_id,
            "code",
            redirect_uri=self._redirect_uri,
            scope=list(self.options.scopes or SCOPES),
            state=attempt.state,
            nonce=attempt.nonce,
            code_challenge=create_s256_code_challenge(attempt.verifier),  # type: ignore[no-untyped-call]
            code_challenge_method="S256",
            **self._parameters(),
        )
        return url

    async def identity(self, answer: Mapping[str, str], attempt: Attempt) -> Identity:
        """Who came back. Raises OAuthError."""
        return await self._reached(self._identity(answer, attempt))

    async def _identity(self, answer: Mapping[str, str], attempt: Attempt) -> Identity:
        metadata, _ = await self._metadata.get()
        self._check_sender(metadata, answer)
        if "code" not in answer:
            log.warning("%s refused a sign-in: %s", self.options.id, _word(answer.get("error")))
            raise refused_by(self.name, answer)
        tokens = await self._tokens(metadata, answer["code"], attempt)
        claims = await self._claims(tokens, attempt)
        self._check(claims)
        if self._wants_more(claims) and metadata.userinfo_endpoint is not None:
            more = await self._userinfo(metadata.userinfo_endpoint, tokens, claims)
            claims = {**more, **{name: value for name, value in claims.items() if name != "email_verified"}}
        email, verified = self._address_of(claims)
        name = claims.get("name") or claims.get("preferred_username") or ""
        return checked_identity(
            self.options, self.name, Identity(str(claims["sub"]), email, verified, str(name))
        )

    # --- what kinds do in their own way ---------------------------------------------------------

    def _parameters(self) -> Mapping[str, str]:
        """Further parameters of the authorization request."""
        return {}

    def _is_issuer(self, issuer: object, claims: Mapping[str, Any] | None = None) -> bool:  # noqa: ARG002
        """Whether this is what the provider calls itself: in its documents, or in a token with `claims`."""
        return issuer == self.options.issuer

    def _check(self, claims: Mapping[str, Any]) -> None:
        """Raises OAuthError for somebody who may not come."""

    def _address_of(self, claims: Mapping[str, Any]) -> tuple[str, bool]:
        """The e-mail address, and whether the provider vouches for it."""
        said = claims.get("email_verified")
        # Some send the word and not the value; anything else is no.
        verified = said is True or said == "true" or (said is None and self.options.trust_emails)
        return str(claims.get("email") or ""), verified

    def _wants_more(self, claims: Mapping[str, Any]) -> bool:
        """Whether the ID token leaves out what the user info endpoint may tell."""
        return "email" not in claims

    # --- the steps ------------------------------------------------------------------------------

    def _check_sender(self, metadata: Metadata, answer: Mapping[str, str]) -> None:
        issuer = answer.get("iss")
        if issuer == metadata.issuer or (issuer is None and not metadata.names_itself):
            return
        log.warning("an answer for %s came from another issuer, or from none", self.options.id)
        raise OAuthError("server_error", f"the answer did not come from {self.name}")

    async def _tokens(self, metadata: Metadata, code: str, attempt: Attempt) -> Mapping[str, Any]:
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=attempt.verifier
        )
        authentication = self._authenticated(metadata)
        url, headers, form = authentication.prepare(  # type: ignore[no-untyped-call]
            "POST", metadata.token_endpoint, {}, body
        )
        answer = await self._web.post(url, form, headers)
        if answer.status == 200 and isinstance(answer.members.get("id_token"), str):
            return answer.members
        error = _word(answer.members.get("error"))
        log.warning("%s gave no tokens: status %d, %s", self.options.id, answer.status, error)
        if answer.status >= 500:
            raise Unreachable(f"its token endpoint answered {answer.status}")
        raise OAuthError("server_error", f"{self.name} did not take its code back")

    def _authenticated(self, metadata: Metadata) -> ClientAuth:
        secret = self.options.client_secret
        if secret is None:
            return ClientAuth(self.options.client_id, None, "none")
        if metadata.takes_post:
            return ClientAuth(self.options.client_id, secret, "client_secret_post")
        # RFC 6749, section 2.3.1: both are encoded as in a form.
        return ClientAuth(quote_plus(self.options.client_id), quote_plus(secret), "client_secret_basic")

    async def _claims(self, tokens: Mapping[str, Any], attempt: Attempt) -> Mapping[str, Any]:
        """The claims of the ID token, which hold."""
        try:
            token = str(tokens["id_token"])
            header = _header(token)
            key = await self._key(header)
            with warnings.catch_warnings():
                # RFC 9864 has other names for EdDSA, but providers use this one.
                warnings.simplefilter("ignore", SecurityWarning)
                decoded = jwt.decode(token, key, algorithms=[header["alg"]])
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                options={"aud": {"essential": True, "value": self.options.client_id}},
                params={
                    "nonce": attempt.nonce,
                    "client_id": self.options.client_id,
                    "access_token": tokens.get("access_token"),
                },
            )
            claims.validate(leeway=CLOCK_SKEW_S)
            if not self._is_issuer(claims["iss"], claims):
                raise ValueError("iss is another")
            return dict(claims)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            what = str(error)[:100] if isinstance(error, (JoseError, ValueError)) else type(error).__name__
            log.warning("the ID token of %s does not hold: %r", self.options.id, what)
            raise OAuthError("server_error", f"what {self.name} said does not hold") from None

    async def _key(self, header: Mapping[str, Any]) -> jwk.Key:
        """The issuer's key that a header names. Raises ValueError and Unreachable."""
        keys, asked_at = await self._keys.get()
        found = _among(keys, header)
        if found is None:
            keys, _ = await self._keys.get(newer_than=asked_at)
            found = _among(keys, header)
        if found is None:
            raise ValueError("the key is not the issuer's")
        return found

    async def _userinfo(
        self, url: str, tokens: Mapping[str, Any], claims: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        answer = await self._web.get(url, {"Authorization": f"Bearer {tokens.get('access_token')}"})
        if answer.status != 200 or answer.members.get("sub") != claims["sub"]:
            log.warning("%s did not tell of whom it signed in: status %d", self.options.id, answer.status)
            raise OAuthError("server_error", f"{self.name} did not tell who you are")
        return answer.members

    # --- what is asked for seldom ---------------------------------------------------------------

    def _discovery_url(self) -> str:
        return self.options.issuer.rstrip("/") + WELL_KNOWN

    async def _discovered(self) -> Metadata:
        answer = await self._web.get(self._discovery_url())
        said = answer.members
        if answer.status != 200 or not said:
            raise Unreachable(f"its discovery document is not there: status {answer.status}")
        if not self._is_issuer(said.get("issuer")):
            raise Unreachable(f"its discovery document calls the issuer {str(said.get('issuer'))[:200]!r}")
        needed = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        bad = [name for name in needed if not self._web.is_safe(said.get(name))]
        if bad:
            raise Unreachable(f"in its discovery document there is no usable {' and '.join(bad)}")
        userinfo = said.get("userinfo_endpoint")
        return Metadata(
            issuer=str(said["issuer"]),
            authorization_endpoint=str(said["authorization_endpoint"]),
            token_endpoint=str(said["token_endpoint"]),
            jwks_uri=str(said["jwks_uri"]),
            userinfo_endpoint=str(userinfo) if self._web.is_safe(userinfo) else None,
            names_itself=said.get("authorization_response_iss_parameter_supported") is True,
            takes_post="client_secret_post" in _texts(said.get("token_endpoint_auth_methods_supported")),
        )

    async def _published(self) -> Sequence[jwk.Key]:
        metadata, _ = await self._metadata.get()
        answer = await self._web.get(metadata.jwks_uri)
        published = answer.members.get("keys")
        if answer.status != 200 or not isinstance(published, list):
            raise Unreachable(f"its keys are not there: status {answer.status}")
        return [key for entry in published[:MAX_KEYS] if (key := _usable(entry)) is not None]

    async def _reached(self, work: Awaitable[Value]) -> Value:
        try:
            return await work
        except Unreachable as error:
            log.warning("the provider %s can't be used: %s", self.options.id, error)
            raise OAuthError("temporarily_unavailable", f"{self.name} can't be reached") from None


def _header(token: str) -> Mapping[str, Any]:
    """The header of a token that is not verified yet. Raises ValueError unless we take its algorithm."""
    if len(token) > MAX_TOKEN_LENGTH or token.count(".") != 2:
        raise ValueError("it is no signed token")
    encoded = token.partition(".")[0]
    header = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    if not isinstance(header, dict) or header.get("alg") not in ALGORITHMS:
        raise ValueError("its algorithm is none that we take")
    return header


def _usable(entry: object) -> jwk.Key | None:
    """A published key, if it is one for checking signatures."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    if entry.get("kty") not in KEY_TYPES.values():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SecurityWarning)
            return jwk.import_key(entry)
    except (JoseError, ValueError, TypeError, SecurityWarning):
        # What is short enough for a warning is too short.
        return None


def _among(keys: Sequence[jwk.Key], header: Mapping[str, Any]) -> jwk.Key | None:
    """The key that a header names; without a name the one that there is."""
    algorithm = header["alg"]
    fitting = [
        key
        for key in keys
        if key.key_type == KEY_TYPES[algorithm[:2]] and key.get("alg", algorithm) == algorithm
    ]
    if "kid" in header:
        return next((key for key in fitting if key.get("kid") == header["kid"]), None)
    return fitting[0] if len(fitting) == 1 else None


def _texts(value: object) -> Sequence[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _word(value: object) -> str:
    """An error code as it may be logged."""
    return value if isinstance(value, str) and re.fullmatch(r"[a-z_]{1,64}", value) else "no error code"
