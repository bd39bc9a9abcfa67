"""The REST application over real adapters, without a server: for tests of what it answers."""

import base64
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from uuid import uuid4

from quart import Quart
from quart.testing.utils import sentinel
from werkzeug.datastructures import Headers

from api.app import create_app
from api.configuration import Configuration
from api.cookies import SessionCookies
from api.diagram_changes import interpret, vet
from api.identity.provider import IdentityProvider
from api.news import News
from api.services import ApiOptions, Health, Services
from api.sessions import SessionCache
from api.storage_quota import StorageBoundAccess
from api.streams import StreamLimits, Streams
from api.tokens import Tokens, shared_signing_keys
from persistence.memory.access import MemoryAccessControl
from persistence.memory.accounts import MemoryAccounts, MemoryChallenges
from persistence.memory.audit import MemoryAudit
from persistence.memory.bin import MemoryBin
from persistence.memory.browser_sessions import MemoryBrowserSessions
from persistence.memory.cell_edits import MemoryCellEdits
from persistence.memory.children import MemoryChildren
from persistence.memory.client_credentials import MemoryClientCredentials
from persistence.memory.collaborations import MemoryCollaborations, MemoryTickets
from persistence.memory.database import MemoryDatabase
from persistence.memory.diagrams import MemoryDiagrams
from persistence.memory.events import MemoryFeed, MemoryTrail
from persistence.memory.groups import MemoryGroups, MemoryMemberships
from persistence.memory.metadata import MemoryMetadata
from persistence.memory.pending_authorizations import MemoryPendingAuthorizations
from persistence.memory.quotas import MemoryQuotas, MemoryStorage
from persistence.memory.rate_limits import MemoryRateLimits
from persistence.memory.reads import MemoryReads
from persistence.memory.settings import MemoryPreferences, MemorySystemSettings
from persistence.memory.sign_ins import MemoryCodes, MemoryRefreshTokens, MemorySignIns, MemorySignInTerms
from persistence.memory.signals import MemorySignals
from persistence.memory.signing_keys import MemorySigningKeys
from persistence.memory.store import MemoryStore
from persistence.memory.threat_models import MemoryThreatModels
from persistence.memory.update_log import MemoryUpdateLog
from persistence.memory.users import MemoryUsers
from persistence.memory.webhooks import MemoryDeliveries, MemoryWebhookQuotas, MemoryWebhooks
from persistence.postgres.access import PostgresAccessControl
from persistence.postgres.accounts import PostgresAccounts, PostgresChallenges
from persistence.postgres.audit import PostgresAudit
from persistence.postgres.bin import PostgresBin
from persistence.postgres.browser_sessions import PostgresBrowserSessions
from persistence.postgres.cell_edits import PostgresCellEdits
from persistence.postgres.children import PostgresChildren
from persistence.postgres.client_credentials import PostgresClientCredentials
from persistence.postgres.collaborations import PostgresCollaborations, PostgresTickets
from persistence.postgres.database import PostgresDatabase
from persistence.postgres.deliveries import PostgresDeliveries
from persistence.postgres.diagrams import PostgresDiagrams
from persistence.postgres.events import PostgresFeed, PostgresTrail
from persistence.postgres.groups import PostgresGroups, PostgresMemberships
from persistence.postgres.metadata import PostgresMetadata
from persistence.postgres.pending_authorizations import PostgresPendingAuthorizations
from persistence.postgres.quotas import PostgresQuotas, PostgresStorage
from persistence.postgres.reads import PostgresReads
from persistence.postgres.settings import PostgresPreferences, PostgresSystemSettings
from persistence.postgres.sign_ins import (
    PostgresCodes,
    PostgresRefreshTokens,
    PostgresSignIns,
    PostgresSignInTerms,
)
from persistence.postgres.signals import PostgresSignals
from persistence.postgres.signing_keys import PostgresSigningKeys
from persistence.postgres.threat_models import PostgresThreatModels
from persistence.postgres.update_log import PostgresUpdateLog
from persistence.postgres.users import PostgresUsers
from persistence.postgres.webhooks import PostgresWebhookQuotas, PostgresWebhooks
from persistence.sealing import Seal
from rooms.administration import Administration, Desk
from rooms.coordination.local import LocalCoordinator
from rooms.editing import Editing
from rooms.service import Rooms
from tmi.domain.configuration import GivenSetting
from tmi.domain.errors import Unavailable
from tmi.domain.ids import NodeId
from tmi.domain.model import Node

Json = Any
BROWSER_IDLE = timedelta(hours=1)
CALLBACK = "http://127.0.0.1:4321/callback"
VERIFIER = "v" * 43
ISSUER = "https://tmi.example.org"
ADMINISTRATOR = "admin"
NODE = Node(NodeId(uuid4()), "node", "")
"""Who signs in under this name is an administrator."""
OPTIONS = ApiOptions(dev=True, administrators=(f"tmi:{ADMINISTRATOR}@tmi.local",))


def given(**numbers: int) -> Sequence[GivenSetting]:
    """Settings of the environment that are numbers."""
    return [GivenSetting(key, str(value), "int", "", True) for key, value in numbers.items()]


def challenge_of(verifier: str) -> str:
    """The S256 challenge of RFC 7636, section 4.2, computed apart from the program."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def user_grant(name: str, role: str) -> dict[str, str]:
    """An authorization entry of a user of the development provider."""
    return {"principal_type": "user", "provider": "tmi", "provider_id": f"{name}@tmi.local", "role": role}


def group_grant(name: str, role: str, provider: str = "tmi") -> dict[str, str]:
    """An authorization entry of a group."""
    return {"principal_type": "group", "provider": provider, "provider_id": name, "role": role}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Headers
    data: bytes

    @property
    def json(self) -> Json:
        return json.loads(self.data)


class RestClient:
    """Calls an application in this process."""

    def __init__(self, app: Quart, services: Services) -> None:
        self.app = app
        self.services = services

    async def call(
        self,
        method: str,
        path: str,
        token: str | None = None,
        *,
        json_body: Json = ...,
        data: bytes | None = None,
        content_type: str | None = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; a body is `json_body` or `data`."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if json_body is not ...:
            data = json.dumps(json_body).encode()
        if data is not None and content_type is not None:
            sent["Content-Type"] = content_type
        answer = await self.app.test_client(use_cookies=False).open(
            path, method=method, headers=sent, data=data, json=sentinel
        )
        received = await answer.get_data(as_text=False)
        assert isinstance(received, bytes)
        return Answer(answer.status_code, answer.headers, received)

    @staticmethod
    def authorize_path(**changes: str | None) -> str:
        """The path of an authorization request; a change to None takes a parameter out."""
        parameters = {
            "idp": "tmi",
            "login_hint": "alice",
            "client_callback": CALLBACK,
            "state": "xyz",
            "scope": "openid",
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
        } | changes
        query = urlencode({name: value for name, value in parameters.items() if value is not None})
        return f"/oauth2/authorize?{query}"

    async def authorize(self, **changes: str | None) -> Answer:
        """An authorization request."""
        return await self.call("GET", self.authorize_path(**changes))

    async def code(self, **changes: str | None) -> str:
        """A fresh authorization code."""
        answer = await self.authorize(**changes)
        assert answer.status == 302, answer.data
        return parse_qs(urlsplit(answer.headers["Location"]).query)["code"][0]

    async def exchange(self, **body: Json) -> Answer:
        """A token request in JSON."""
        return await self.call("POST", "/oauth2/token", json_body=body)

    async def tokens(self, name: str) -> Json:
        """Sign in."""
        verifier = secrets.token_urlsafe(40)
        code = await self.code(login_hint=name, code_challenge=challenge_of(verifier))
        answer = await self.exchange(grant_type="authorization_code", code=code, code_verifier=verifier)
        assert answer.status == 200, answer.data
        return answer.json

    async def sign_in(self, name: str) -> str:
        """An access token."""
        return str((await self.tokens(name))["access_token"])

    async def user_id(self, name: str) -> str:
        """The id of a user, who signs in for it."""
        token = await self.sign_in(name)
        return str(self.services.tokens.verify_access(token).user)

    async def create_model(self, token: str, *grants: Json, **fields: Json) -> Json:
        """A new threat model."""
        body = {"name": "Shop", "authorization": list(grants), **fields}
        answer = await self.call("POST", "/threat_models", token, json_body=body)
        assert answer.status == 201, answer.data
        return answer.json

    async def create_diagram(self, token: str, model: str) -> Json:
        """A new diagram."""
        body = {"name": "Flow", "type": "DFD-1.0.0"}
        answer = await self.call("POST", f"/threat_models/{model}/diagrams", token, json_body=body)
        assert answer.status == 201, answer.data
        return answer.json

    async def patch(
        self, token: str, model: str, *operations: Json, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """A JSON Patch of a threat model."""
        return await self.call(
            "PATCH",
            f"/threat_models/{model}",
            token,
            json_body=list(operations),
            content_type="application/json-patch+json",
            headers=headers,
        )


@asynccontextmanager
async def over_memory(
    options: ApiOptions | None = None,
    store: MemoryStore | None = None,
    tokens: Tokens | None = None,
    limits: StreamLimits | None = None,
    identity_providers: Mapping[str, IdentityProvider] | None = None,
    given: Sequence[GivenSetting] = (),
) -> AsyncIterator[RestClient]:
    """The application over the in-memory adapters."""
    store = store or MemoryStore()
    log, access = MemoryUpdateLog(store), MemoryAccessControl(store)
    keys = await shared_signing_keys(MemorySigningKeys(store))
    configuration = Configuration(MemorySystemSettings(store), MemoryQuotas(store), given)
    sign_ins, signals = MemorySignIns(store), MemorySignals(store)
    sessions = SessionCache(sign_ins)
    feed, health = MemoryFeed(store), Health(started=True)
    async with (
        Rooms(log, LocalCoordinator(log, "test"), access).running() as rooms,
        signals.hearing(sessions.hear) as sessions.hearing,
        signals.hearing(rooms.rights.hear),
        News(feed, access).running() as news,
        Streams(news, feed, MemorySignInTerms(store), lambda: health.draining, limits).running() as streams,
    ):
        rooms.tell_by(signals)
        rooms.rights.on_people = streams.hear
        administration = _administration(rooms)
        services = Services(
            threat_models=MemoryThreatModels(store),
            diagrams=MemoryDiagrams(store),
            users=MemoryUsers(store),
            codes=MemoryCodes(store),
            sign_ins=sign_ins,
            sessions=sessions,
            refresh_tokens=MemoryRefreshTokens(store),
            client_credentials=MemoryClientCredentials(store),
            pending_authorizations=MemoryPendingAuthorizations(store),
            access=access,
            accounts=MemoryAccounts(store),
            challenges=MemoryChallenges(store),
            groups=MemoryGroups(store),
            memberships=MemoryMemberships(store),
            audit=MemoryAudit(store),
            cookies=SessionCookies(MemoryBrowserSessions(store), BROWSER_IDLE),
            trail=MemoryTrail(store),
            cell_edits=MemoryCellEdits(store),
            streams=streams,
            collaborations=MemoryCollaborations(store),
            tickets=MemoryTickets(store),
            children=MemoryChildren(store),
            reads=MemoryReads(store),
            metadata=MemoryMetadata(store),
            bin=MemoryBin(store),
            rooms=rooms,
            tokens=tokens or Tokens(keys, ISSUER),
            database=MemoryDatabase(store),
            administration=administration,
            editing=Editing(rooms, MemoryDiagrams(store), access, interpret, administration.ask, vet),
            rate_limits=MemoryRateLimits(),
            quotas=MemoryQuotas(store),
            storage=MemoryStorage(store),
            settings=MemorySystemSettings(store),
            preferences=MemoryPreferences(store),
            webhooks=MemoryWebhooks(store),
            deliveries=MemoryDeliveries(store),
            webhook_quotas=MemoryWebhookQuotas(store),
            room=StorageBoundAccess(access, MemoryStorage(store), lambda: configuration.limits.stored_bytes),
            configuration=configuration,
            options=options or OPTIONS,
            identity_providers=identity_providers or {},
            health=health,
        )
        async with _running(services) as client:
            yield client


@asynccontextmanager
async def over_postgres(
    database: PostgresDatabase, options: ApiOptions | None = None
) -> AsyncIterator[RestClient]:
    """The application over PostgreSQL."""
    log, access = PostgresUpdateLog(database), PostgresAccessControl(database)
    keys = await shared_signing_keys(PostgresSigningKeys(database))
    configuration = Configuration(PostgresSystemSettings(database), PostgresQuotas(database))
    sign_ins, signals = PostgresSignIns(database), PostgresSignals(database)
    sessions = SessionCache(sign_ins)
    feed, health = PostgresFeed(database), Health(started=True)
    async with (
        Rooms(log, LocalCoordinator(log, "test"), access).running() as rooms,
        signals.hearing(sessions.hear) as sessions.hearing,
        signals.hearing(rooms.rights.hear),
        News(feed, access).running() as news,
        Streams(news, feed, PostgresSignInTerms(database), lambda: health.draining).running() as streams,
    ):
        rooms.tell_by(signals)
        rooms.rights.on_people = streams.hear
        administration = _administration(rooms)
        services = Services(
            threat_models=PostgresThreatModels(database),
            diagrams=PostgresDiagrams(database),
            users=PostgresUsers(database),
            codes=PostgresCodes(database),
            sign_ins=sign_ins,
            sessions=sessions,
            refresh_tokens=PostgresRefreshTokens(database),
            client_credentials=PostgresClientCredentials(database),
            pending_authorizations=PostgresPendingAuthorizations(database),
            access=access,
            accounts=PostgresAccounts(database),
            challenges=PostgresChallenges(database),
            groups=PostgresGroups(database),
            memberships=PostgresMemberships(database),
            audit=PostgresAudit(database),
            cookies=SessionCookies(PostgresBrowserSessions(database), BROWSER_IDLE),
            trail=PostgresTrail(database),
            cell_edits=PostgresCellEdits(database),
            streams=streams,
            collaborations=PostgresCollaborations(database),
            tickets=PostgresTickets(database),
            children=PostgresChildren(database),
            reads=PostgresReads(database),
            metadata=PostgresMetadata(database),
            bin=PostgresBin(database),
            rooms=rooms,
            tokens=Tokens(keys, ISSUER),
            database=database,
            administration=administration,
            editing=Editing(rooms, PostgresDiagrams(database), access, interpret, administration.ask, vet),
            rate_limits=MemoryRateLimits(),
            quotas=PostgresQuotas(database),
            storage=PostgresStorage(database),
            settings=PostgresSystemSettings(database),
            preferences=PostgresPreferences(database),
            webhooks=PostgresWebhooks(database, Seal()),
            deliveries=PostgresDeliveries(database),
            webhook_quotas=PostgresWebhookQuotas(database),
            room=StorageBoundAccess(
                access, PostgresStorage(database), lambda: configuration.limits.stored_bytes
            ),
            configuration=configuration,
            options=options or OPTIONS,
            health=health,
        )
        async with _running(services) as client:
            yield client


def _administration(rooms: Rooms) -> Administration:
    """Of a node that is alone, and does not drain."""

    async def nobody(node: Node, question: Json, patience_s: float) -> Json:
        raise Unavailable("this node is alone")

    return Administration(lambda: (), nobody, Desk(NODE, rooms, lambda: None, "1"))


@asynccontextmanager
async def _running(services: Services) -> AsyncIterator[RestClient]:
    app = create_app(services)
    async with app.test_app():
        yield RestClient(app, services)
