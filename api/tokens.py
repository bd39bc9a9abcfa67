"""Signed tokens: short, asymmetric, each good for one purpose.

Three kinds exist, told apart by their type *and* their audience:

- An **access token** (`typ` `at+jwt`, RFC 9068; `aud` `tmi`) is the bearer token of REST. No socket takes it.
- A **collab token** (`typ` `collab+jwt`; `aud` `tmi-collab`) opens live sockets and may stand in a URL, since
  stock Yjs clients can put it nowhere else. REST does not take it. It names a user, a sign-in session and
  perhaps one diagram, never a role: roles are looked up when it is used.
- A **node token** (`typ` `node+jwt`; `aud` the node it is for) proves to another node who dials or answers.

What holds true (RFC 8725, JSON Web Token Best Current Practices):

- The algorithm is ours, EdDSA with Ed25519, and is never read from a token (3.1). So `none` and HMAC with our
  public key as the secret have nothing to confuse.
- A token's header holds exactly `alg`, `kid` and `typ`. Keys and addresses of keys inside it (`jwk`, `jku`,
  `x5u`) are therefore refused and nothing is ever fetched (3.10); `kid` only picks among keys that we hold.
- Issuer, audience, type, times and subject are required and checked (3.8, 3.9, 3.11).
- A token is measured before it is parsed, so that a hostile one costs a comparison of lengths.

A verified token says who signed in, not that the session still stands: callers ask `SignIns` for that.

**Keys change while the service runs** (`use_keys`, see keys.py). A new key is known to every node before it
signs its first token, and an old one verifies until its last token has ended. A token under an id of a key
that is not known here raises `UnknownKey`, after which it is worth to look for new keys, once.
"""

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tmi.domain.errors import Expired, StartupError, Unauthenticated, UnknownKey
from tmi.domain.ids import DiagramId, NodeId, SignInId, UserId
from tmi.domain.model import SigningKey, User
from tmi.domain.ports import SigningKeys

ALGORITHM = "EdDSA"
ACCESS_TOKEN_TTL = timedelta(minutes=15)
COLLAB_TOKEN_TTL = timedelta(minutes=10)
MAX_TOKEN_LENGTH = 4096
"""Characters; the contract's bound for an access token."""

_ACCESS_TYPE = "at+jwt"
_ACCESS_AUDIENCE = "tmi"
_COLLAB_TYPE = "collab+jwt"
_COLLAB_AUDIENCE = "tmi-collab"
_NODE_TYPE = "node+jwt"
_NODE_TTL = timedelta(seconds=30)
_OF_NODES = ["iss", "aud", "sub", "iat", "exp", "jti", "nonce"]
_OF_USERS = ["iss", "aud", "sub", "sid", "iat", "exp", "jti"]
"""What has to be in a token."""
_HEADER_MEMBERS = frozenset({"alg", "kid", "typ"})
_CLOCK_SKEW = timedelta(seconds=5)
"""What nodes' clocks may differ by."""
_REMEMBERED_MAX = 10_000
"""Verified tokens, of about 0.5 KiB each."""
_KID = re.compile(r"[0-9a-f]{32}")
"""How `new_signing_key` names keys: another name is no reason to look for one."""
_COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """Whom a valid access token speaks for."""

    user: UserId
    sign_in: SignInId


@dataclass(frozen=True, slots=True)
class CollabClaims:
    """Whom a valid collab token speaks for, and for which diagram (None: any that they may watch)."""

    user: UserId
    sign_in: SignInId
    diagram: DiagramId | None
    ends_at: float = field(default=0.0, compare=False)
    """When the token expires, in seconds since 1970."""


_Claims = AccessClaims | CollabClaims


def _access_claims(claims: Mapping[str, Any]) -> AccessClaims:
    return AccessClaims(UserId(_uuid(claims["sub"])), SignInId(_uuid(claims["sid"])))


def _collab_claims(claims: Mapping[str, Any]) -> CollabClaims:
    diagram = DiagramId(_uuid(claims["did"])) if "did" in claims else None
    return CollabClaims(UserId(_uuid(claims["sub"])), SignInId(_uuid(claims["sid"])), diagram, claims["exp"])


def new_signing_key() -> SigningKey:
    """A fresh Ed25519 key pair."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey(kid=uuid4().hex, algorithm=ALGORITHM, private_pem=pem, created_at=datetime.now(UTC))


async def shared_signing_keys(store: SigningKeys) -> Sequence[SigningKey]:
    """The keys that all nodes share, made at the very first start. Raises DatabaseUnavailable."""
    return await store.current() or await store.add_first(new_signing_key())


class Tokens:
    """Signs with the newest key whose time has come, and verifies with any of them."""

    def __init__(
        self,
        keys: Sequence[SigningKey],
        issuer: str,
        access_ttl: timedelta = ACCESS_TOKEN_TTL,
        collab_ttl: timedelta = COLLAB_TOKEN_TTL,
    ) -> None:
        """Raises StartupError without a usable key; `keys` come newest first."""
        self._keys: Mapping[str, _Key] = {}
        self._verified: dict[tuple[str, bytes], tuple[float, _Claims]] = {}
        self.use_keys(keys)
        self.issuer = issuer
        self.access_ttl = access_ttl
        self.collab_ttl = collab_ttl
        self.learn: Callable[[], Awaitable[None]] = _nothing_to_learn
        """Looks for keys that are not known here yet. Bounded in how often it asks."""

    def use_keys(self, keys: Sequence[SigningKey]) -> None:
        """Sign and verify with these keys, newest first, from now on. Raises StartupError."""
        if not keys:
            raise StartupError("there is no key to sign tokens with")
        known = {key.kid: self._keys.get(key.kid) or _Key.of(key) for key in keys}
        if self._keys.keys() - known.keys():
            self._verified.clear()  # what a key that is gone has signed is worth nothing
        self._keys = known

    @property
    def longest_ttl(self) -> timedelta:
        """How long any token of this node lives at most."""
        return max(self.access_ttl, self.collab_ttl, _NODE_TTL)

    @property
    def kids(self) -> frozenset[str]:
        """The ids of the keys that verify here."""
        return frozenset(self._keys)

    def jwks(self) -> Sequence[Mapping[str, str]]:
        """The public keys, newest first (RFC 8037, section 2)."""
        return [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": urlsafe_b64encode(key.public.public_bytes_raw()).rstrip(b"=").decode(),
                "use": "sig",
                "alg": ALGORITHM,
                "kid": kid,
            }
            for kid, key in self._keys.items()
        ]

    def access_token(self, user: User, sign_in: SignInId, ttl: timedelta | None = None) -> str:
        """A bearer token for REST; `ttl` where that is shorter than usual."""
        claims = {"sid": str(sign_in), "email": user.email, "idp": user.provider}
        return self._sign(_ACCESS_TYPE, _ACCESS_AUDIENCE, user.id, ttl or self.access_ttl, claims)

    def times_of(self, token: str) -> tuple[int, int]:
        """When a valid access token was issued and when it ends, in Unix seconds. Raises Unauthenticated."""
        claims = self._verify_anew(token, _ACCESS_TYPE, _ACCESS_AUDIENCE, _OF_USERS)
        return int(claims["iat"]), int(claims["exp"])

    def collab_token(self, user: UserId, sign_in: SignInId, diagram: DiagramId | None) -> str:
        """A token for live sockets: of one diagram, or of all that the user may watch."""
        claims = {"sid": str(sign_in)} | ({} if diagram is None else {"did": str(diagram)})
        return self._sign(_COLLAB_TYPE, _COLLAB_AUDIENCE, user, self.collab_ttl, claims)

    def issue(self, sender: NodeId, receiver: NodeId, nonce: str) -> str:
        """A node token (see `rooms.nodes.links.NodeTokens`)."""
        return self._sign(_NODE_TYPE, _node_audience(receiver), sender, _NODE_TTL, {"nonce": nonce})

    def verify(self, token: str, receiver: NodeId) -> tuple[NodeId, str]:
        """The sender of a node token, and its nonce. Raises Unauthenticated."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise Unauthenticated("this is not a token of this service")
        claims = self._verify_anew(token, _NODE_TYPE, _node_audience(receiver), _OF_NODES)
        return NodeId(_uuid(claims["sub"])), str(claims["nonce"])

    def verify_access(self, token: str) -> AccessClaims:
        """Raises Unauthenticated."""
        claims = self._verify(token, _ACCESS_TYPE, _ACCESS_AUDIENCE, _access_claims)
        assert isinstance(claims, AccessClaims)
        return claims

    def verify_collab(self, token: str) -> CollabClaims:
        """Raises Unauthenticated."""
        claims = self._verify(token, _COLLAB_TYPE, _COLLAB_AUDIENCE, _collab_claims)
        assert isinstance(claims, CollabClaims)
        return claims

    def _sign(
        self,
        type_: str,
        audience: str,
        subject: UUID,
        ttl: timedelta,
        claims: Mapping[str, str],
    ) -> str:
        now = datetime.now(UTC)
        payload = {
            "iss": self.issuer,
            "aud": audience,
            "sub": str(subject),
            "iat": now,
            "exp": now + ttl,
            "jti": uuid4().hex,
            **claims,
        }
        kid, key = self._signing(now)
        return jwt.encode(payload, key.private, ALGORITHM, headers={"kid": kid, "typ": type_})

    def _signing(self, now: datetime) -> tuple[str, "_Key"]:
        """The newest key whose time has come; where none has (a clock that is behind), the oldest."""
        for kid, key in self._keys.items():
            if key.signs_from <= now:
                return kid, key
        return kid, key

    def _verify(
        self, token: str, type_: str, audience: str, read: Callable[[Mapping[str, Any]], _Claims]
    ) -> _Claims:
        """The claims of a valid token. One that was verified lately is only looked at for its expiry.

        Verifying takes 450 us, remembering 3: clients reconnect, and REST clients send theirs each time.
        """
        if len(token) > MAX_TOKEN_LENGTH:
            raise Unauthenticated("this is not a token of this service")
        name = type_, sha256(token.encode(errors="surrogatepass")).digest()
        verified = self._verified.get(name)
        if verified is None:
            raw = self._verify_anew(token, type_, audience, _OF_USERS)
            verified = raw["exp"], read(raw)
            if len(self._verified) >= _REMEMBERED_MAX:
                del self._verified[next(iter(self._verified))]
            self._verified[name] = verified
        elif verified[0] <= time.time() - _CLOCK_SKEW.total_seconds():
            del self._verified[name]
            raise Expired("the token has expired")
        return verified[1]

    def _verify_anew(
        self, token: str, type_: str, audience: str, required: list[str]
    ) -> Mapping[str, Any]:
        if not _COMPACT_JWS.fullmatch(token):
            raise Unauthenticated("this is not a token of this service")
        try:
            key = self._key_for(jwt.get_unverified_header(token), type_)
            return jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                audience=audience,
                issuer=self.issuer,
                leeway=_CLOCK_SKEW,
                options={"require": required, "strict_aud": True},
            )
        except UnknownKey:
            raise
        except jwt.ExpiredSignatureError:
            raise Expired("the token has expired") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            # A deeply nested header ends json's parser with a RecursionError.
            raise Unauthenticated("the token is not valid here") from None

    def _key_for(self, header: Mapping[str, Any], type_: str) -> Ed25519PublicKey:
        """The key of ours that a header names. Raises ValueError for a header that we never write."""
        kid = header.get("kid")
        if header.keys() != _HEADER_MEMBERS or header["typ"] != type_ or not isinstance(kid, str):
            raise ValueError("not a header of ours")
        if kid not in self._keys:
            if _KID.fullmatch(kid):
                raise UnknownKey("the token is not valid here")
            raise ValueError("not a key of ours")
        return self._keys[kid].public


@dataclass(frozen=True, slots=True)
class _Key:
    private: Ed25519PrivateKey = field(repr=False)
    public: Ed25519PublicKey
    signs_from: datetime

    @classmethod
    def of(cls, key: SigningKey) -> "_Key":
        private = _private_key(key)
        return cls(private, private.public_key(), key.signs_from or key.created_at)


async def _nothing_to_learn() -> None:
    """There is no store of keys."""


def _node_audience(node: NodeId) -> str:
    return f"tmi-node:{node}"


def _private_key(key: SigningKey) -> Ed25519PrivateKey:
    private = load_pem_private_key(key.private_pem, password=None)
    if key.algorithm != ALGORITHM or not isinstance(private, Ed25519PrivateKey):
        raise StartupError(f"the signing key {key.kid} is not an Ed25519 key")
    return private


def _uuid(claim: object) -> UUID:
    try:
        return UUID(str(claim))
    except ValueError:
        raise Unauthenticated("the token is not valid here") from None
