"""Sign-in sessions in memory."""

from datetime import timedelta
from uuid import uuid4

from persistence.memory.store import MemoryStore, RefreshToken, Session
from persistence.secrets import digest
from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import AuthorizationCode, SignIn


class MemorySignIns:
    """The port `SignIns`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def issue_code(self, code: str, grant: AuthorizationCode, ttl: timedelta) -> None:
        """Remember an authorization code."""
        self._store.visit()
        self._store.codes[digest(code)] = (grant, self._store.clock() + ttl)

    async def redeem_code(self, code: str) -> AuthorizationCode | None:
        """Take a code out, once: None if unknown, used before or past its time."""
        self._store.visit()
        grant, expires_at = self._store.codes.pop(digest(code), (None, None))
        return grant if expires_at is not None and expires_at > self._store.clock() else None

    async def start(self, user: UserId, refresh_token: str, ttl: timedelta) -> SignIn:
        """Begin a session whose first refresh token is given."""
        self._store.visit()
        sign_in = SignInId(uuid4())
        expires_at = self._store.clock() + ttl
        self._store.sign_ins[sign_in] = Session(user, expires_at)
        self._store.refresh_tokens[digest(refresh_token)] = RefreshToken(sign_in, expires_at)
        return SignIn(sign_in, self._store.users[user], expires_at)

    async def rotate(self, refresh_token: str, successor: str, ttl: timedelta) -> SignIn | None:
        """Exchange a refresh token, once, and prolong its session; a second time ends the session."""
        self._store.visit()
        token = self._store.refresh_tokens.get(digest(refresh_token))
        if token is None or token.expires_at <= self._store.clock() or self._standing(token.sign_in) is None:
            return None
        session = self._store.sign_ins[token.sign_in]
        if token.used:
            session.ended = True
            return None
        token.used = True
        session.expires_at = self._store.clock() + ttl
        self._store.refresh_tokens[digest(successor)] = RefreshToken(token.sign_in, session.expires_at)
        return SignIn(token.sign_in, self._store.users[session.user], session.expires_at)

    async def get(self, sign_in: SignInId) -> SignIn | None:
        """The session if it still stands: None once it ended or expired."""
        self._store.visit()
        return self._standing(sign_in)

    def _standing(self, sign_in: SignInId) -> SignIn | None:
        session = self._store.standing(sign_in)
        if session is None:
            return None
        return SignIn(sign_in, self._store.users[session.user], session.expires_at)
