"""Codes, sign-in sessions and refresh tokens in memory."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import uuid4

from persistence.memory.store import MemoryStore, Session, StoredRefreshToken
from persistence.secrets import digest
from tmi.domain.errors import Unauthenticated
from tmi.domain.ids import SignInId, UserId
from tmi.domain.model import AuthorizationCode, SignIn
from tmi.domain.ports import Page
from tmi.domain.sign_ins import Begun, RefreshToken, Refusal, Refused, StandingSignIn


class MemoryCodes:
    """The port `Codes`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def issue(self, code: str, grant: AuthorizationCode, ttl: timedelta) -> None:
        """Remember a code, unless the user is gone."""
        self._store.visit()
        if grant.user.id in self._store.users:
            self._store.codes[digest(code)] = (grant, self._store.clock() + ttl)

    async def redeem(self, code: str) -> AuthorizationCode | Refused:
        """Take a code out, once. One that comes back ends the sign-in that was begun with it."""
        self._store.visit()
        key = digest(code)
        if key not in self._store.codes:
            return self._replayed(key)
        grant, expires_at = self._store.codes.pop(key)
        self._store.used_codes[key] = None
        return grant if expires_at > self._store.clock() else Refused(Refusal.EXPIRED, grant.user.id)

    def _replayed(self, key: bytes) -> Refused:
        if key not in self._store.used_codes:
            return Refused(Refusal.UNKNOWN)
        self._store.replayed_codes.add(key)
        sign_in = self._store.used_codes[key]
        session = None if sign_in is None else self._store.standing(sign_in)
        if session is None:
            return Refused(Refusal.REUSED, sign_in=sign_in)
        session.ended = True
        return Refused(Refusal.REUSED, session.user, sign_in, has_ended_it=True)


class MemorySignIns:
    """The port `SignIns`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def start(
        self, user: UserId, refresh_token: str | None, ttl: timedelta, begun: Begun | None = None
    ) -> SignIn:
        """Begin a session. Raises Unauthenticated when what it comes from is no longer good."""
        self._store.visit()
        begun = begun or Begun()
        now = self._store.clock()
        sign_in, expires_at = SignInId(uuid4()), now + ttl
        if user not in self._store.users:
            raise Unauthenticated("what this sign-in comes from is no longer good")
        if begun.code is not None:
            key = digest(begun.code)
            if key not in self._store.used_codes or key in self._store.replayed_codes:
                raise Unauthenticated("what this sign-in comes from is no longer good")
            self._store.used_codes[key] = sign_in
        if begun.credential is not None:
            stored = self._store.credentials.get(begun.credential)
            if stored is None or stored.user != user or not stored.is_good(now):
                raise Unauthenticated("what this sign-in comes from is no longer good")
            expires_at = min(expires_at, stored.expires_at or expires_at)
        self._store.sign_ins[sign_in] = Session(
            user, expires_at, started_at=now, client=begun.client, credential=begun.credential
        )
        if refresh_token is not None:
            self._store.refresh_tokens[digest(refresh_token)] = StoredRefreshToken(sign_in, expires_at)
        return SignIn(sign_in, self._store.users[user], expires_at, begun.credential)

    async def get(self, sign_in: SignInId) -> SignIn | None:
        """The session if it still stands: None once it ended or expired."""
        self._store.visit()
        session = self._store.standing(sign_in)
        return None if session is None else _shown(self._store, sign_in, session)

    async def of_user(self, user: UserId, page: Page) -> tuple[Sequence[StandingSignIn], int]:
        """A page of the sessions of a user that stand, newest first, and their total."""
        self._store.visit()
        found = [
            StandingSignIn(
                key, session.started_at, session.refreshed_at, session.expires_at, session.client,
                session.credential,
            )
            for key, session in self._store.sign_ins.items()
            if session.user == user and self._store.standing(key) is not None
        ]  # fmt: skip
        found.sort(key=lambda one: one.started_at, reverse=True)
        return found[page.offset : page.offset + page.limit], len(found)

    async def end(self, user: UserId, sign_in: SignInId) -> bool:
        """End a session; False if the user has none of this id that stands."""
        self._store.visit()
        session = self._store.standing(sign_in)
        if session is None or session.user != user:
            return False
        session.ended = True
        return True

    async def end_all(self, user: UserId, besides: SignInId | None = None) -> Sequence[SignInId]:
        """End all sessions of a user but one; returns those that it ended."""
        self._store.visit()
        return self._store.end_sessions(lambda key, session: session.user == user and key != besides)


class MemorySignInTerms:
    """The port `SignInTerms`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def ends(self, sign_ins: Sequence[SignInId]) -> Mapping[SignInId, datetime]:
        """When those of these sessions that stand will end."""
        self._store.visit()
        found = {key: self._store.standing(key) for key in sign_ins}
        return {key: session.expires_at for key, session in found.items() if session is not None}


class MemoryRefreshTokens:
    """The port `RefreshTokens`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def rotate(
        self, refresh_token: str, successor: str, ttl: timedelta, longest: timedelta | None = None
    ) -> SignIn | Refused:
        """Exchange a refresh token, once, and prolong its session; a second time ends the session."""
        self._store.visit()
        token = self._store.refresh_tokens.get(digest(refresh_token))
        if token is None:
            return Refused(Refusal.UNKNOWN)
        now, session = self._store.clock(), self._store.sign_ins[token.sign_in]
        stands = self._store.standing(token.sign_in) is not None
        refusal = None
        if token.used:
            refusal, session.ended = Refusal.REUSED, True
        elif session.ended:
            refusal = Refusal.ENDED
        elif min(token.expires_at, session.expires_at) <= now:
            refusal = Refusal.EXPIRED
        if refusal is not None:
            return Refused(refusal, session.user, token.sign_in, stands and token.used)
        token.used = True
        session.expires_at, session.refreshed_at = now + ttl, now
        if longest is not None:
            session.expires_at = min(session.expires_at, session.started_at + longest)
        self._store.refresh_tokens[digest(successor)] = StoredRefreshToken(token.sign_in, session.expires_at)
        return _shown(self._store, token.sign_in, session)

    async def find(self, refresh_token: str) -> RefreshToken | None:
        """A refresh token of a session that stands. Does not use it."""
        self._store.visit()
        token = self._store.refresh_tokens.get(digest(refresh_token))
        session = None if token is None else self._store.standing(token.sign_in)
        if token is None or session is None:
            return None
        return RefreshToken(_shown(self._store, token.sign_in, session), token.expires_at, token.used)


def _shown(store: MemoryStore, sign_in: SignInId, session: Session) -> SignIn:
    return SignIn(sign_in, store.users[session.user], session.expires_at, session.credential)
