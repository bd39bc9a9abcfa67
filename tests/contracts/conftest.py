"""Every port, in memory and on PostgreSQL; a test that asks for `ports` runs on both."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

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
from persistence.memory.outbox import MemoryOutbox
from persistence.memory.ownership import MemoryOwnership
from persistence.memory.pending_authorizations import MemoryPendingAuthorizations
from persistence.memory.quotas import MemoryQuotas, MemoryStorage
from persistence.memory.reads import MemoryReads
from persistence.memory.settings import MemoryPreferences, MemorySystemSettings
from persistence.memory.sign_ins import (
    MemoryCodes,
    MemoryRefreshTokens,
    MemorySignIns,
    MemorySignInTerms,
)
from persistence.memory.signals import MemorySignals
from persistence.memory.signing_keys import MemoryKeyRotation, MemorySigningKeys
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
from persistence.postgres.outbox import PostgresOutbox
from persistence.postgres.ownership import PostgresOwnership
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
from persistence.postgres.signing_keys import PostgresKeyRotation, PostgresSigningKeys
from persistence.postgres.threat_models import PostgresThreatModels
from persistence.postgres.update_log import PostgresUpdateLog
from persistence.postgres.users import PostgresUsers
from persistence.postgres.webhooks import PostgresWebhookQuotas, PostgresWebhooks
from persistence.sealing import Seal
from tmi.domain.ids import UserId
from tmi.domain.model import Diagram, NewThreatModel, ThreatModel, User
from tmi.domain.ports import (
    AccessControl,
    Accounts,
    Audit,
    Bin,
    BrowserSessions,
    CellEdits,
    Challenges,
    Children,
    ClientCredentials,
    Codes,
    Collaborations,
    Database,
    Deliveries,
    Diagrams,
    Feed,
    Groups,
    KeyRotation,
    Memberships,
    Metadata,
    Outbox,
    Ownership,
    PendingAuthorizations,
    Preferences,
    Quotas,
    Reads,
    RefreshTokens,
    Signals,
    SigningKeys,
    SignIns,
    SignInTerms,
    Storage,
    SystemSettings,
    ThreatModels,
    Tickets,
    Trail,
    UpdateLog,
    Users,
    WebhookQuotas,
    Webhooks,
)
from tmi.domain.roles import Grant

SEAL = Seal(("a key of the settings, long and random",))

AddToGroup = Callable[[str, str, UserId], Awaitable[None]]
"""Make a user a member of the group of (provider, provider_id)."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All ports of one store."""

    log: UpdateLog
    ownership: Ownership
    access: AccessControl
    threat_models: ThreatModels
    diagrams: Diagrams
    users: Users
    accounts: Accounts
    challenges: Challenges
    groups: Groups
    memberships: Memberships
    audit: Audit
    browser_sessions: BrowserSessions
    trail: Trail
    feed: Feed
    cell_edits: CellEdits
    collaborations: Collaborations
    tickets: Tickets
    codes: Codes
    sign_ins: SignIns
    sign_in_terms: SignInTerms
    refresh_tokens: RefreshTokens
    client_credentials: ClientCredentials
    children: Children
    reads: Reads
    metadata: Metadata
    bin: Bin
    pending_authorizations: PendingAuthorizations
    signing_keys: SigningKeys
    key_rotation: KeyRotation
    database: Database
    signals: Signals
    quotas: Quotas
    storage: Storage
    settings: SystemSettings
    preferences: Preferences
    webhooks: Webhooks
    deliveries: Deliveries
    webhook_quotas: WebhookQuotas
    outbox: Outbox
    add_to_group: AddToGroup

    async def user(self, name: str = "alice") -> User:
        """A user of the provider `tmi`."""
        email = f"{name}@tmi.local"
        return await self.users.sign_in("tmi", email, email, name.title(), email_verified=True)

    async def purge(self) -> None:
        """Delete what has expired, where anything does."""
        if isinstance(self.database, PostgresDatabase):
            await self.database.purge_expired()

    async def model(self, creator: User, *grants: Grant, name: str = "Shop") -> ThreatModel:
        """A threat model."""
        return await self.threat_models.create(
            creator, NewThreatModel(name, None, "STRIDE", None, False, grants)
        )

    async def diagram(self) -> Diagram:
        """A diagram in a threat model of its own."""
        model = await self.model(await self.user())
        return await self.diagrams.create(model.id, "Flow", "DFD-1.0.0", None)


def memory_ports(store: MemoryStore) -> Ports:
    """The ports of a MemoryStore."""

    async def add_to_group(provider: str, provider_id: str, user: UserId) -> None:
        store.groups.setdefault((provider, provider_id), set()).add(user)

    return Ports(
        log=MemoryUpdateLog(store),
        ownership=MemoryOwnership(store),
        access=MemoryAccessControl(store),
        threat_models=MemoryThreatModels(store),
        diagrams=MemoryDiagrams(store),
        users=MemoryUsers(store),
        accounts=MemoryAccounts(store),
        challenges=MemoryChallenges(store),
        groups=MemoryGroups(store),
        memberships=MemoryMemberships(store),
        audit=MemoryAudit(store),
        browser_sessions=MemoryBrowserSessions(store),
        trail=MemoryTrail(store),
        feed=MemoryFeed(store),
        cell_edits=MemoryCellEdits(store),
        collaborations=MemoryCollaborations(store),
        tickets=MemoryTickets(store),
        codes=MemoryCodes(store),
        sign_ins=MemorySignIns(store),
        sign_in_terms=MemorySignInTerms(store),
        refresh_tokens=MemoryRefreshTokens(store),
        client_credentials=MemoryClientCredentials(store),
        children=MemoryChildren(store),
        reads=MemoryReads(store),
        metadata=MemoryMetadata(store),
        bin=MemoryBin(store),
        pending_authorizations=MemoryPendingAuthorizations(store),
        signing_keys=MemorySigningKeys(store),
        key_rotation=MemoryKeyRotation(store),
        database=MemoryDatabase(store),
        signals=MemorySignals(store),
        quotas=MemoryQuotas(store),
        storage=MemoryStorage(store),
        settings=MemorySystemSettings(store),
        preferences=MemoryPreferences(store),
        webhooks=MemoryWebhooks(store),
        deliveries=MemoryDeliveries(store),
        webhook_quotas=MemoryWebhookQuotas(store),
        outbox=MemoryOutbox(store),
        add_to_group=add_to_group,
    )


def postgres_ports(database: PostgresDatabase) -> Ports:
    """The ports of a PostgreSQL database."""

    async def add_to_group(provider: str, provider_id: str, user: UserId) -> None:
        await database.fetch(
            """
            WITH made AS (
                INSERT INTO groups (id, provider, provider_id, name) VALUES ($1, $2, $3, $3)
                ON CONFLICT (provider, provider_id) DO UPDATE SET name = excluded.name RETURNING id
            )
            INSERT INTO group_members (group_id, user_id) SELECT id, $4 FROM made
            """,
            uuid4(),
            provider,
            provider_id,
            user,
        )

    return Ports(
        log=PostgresUpdateLog(database),
        ownership=PostgresOwnership(database),
        access=PostgresAccessControl(database),
        threat_models=PostgresThreatModels(database),
        diagrams=PostgresDiagrams(database),
        users=PostgresUsers(database),
        accounts=PostgresAccounts(database),
        challenges=PostgresChallenges(database),
        groups=PostgresGroups(database),
        memberships=PostgresMemberships(database),
        audit=PostgresAudit(database),
        browser_sessions=PostgresBrowserSessions(database),
        trail=PostgresTrail(database),
        feed=PostgresFeed(database),
        cell_edits=PostgresCellEdits(database),
        collaborations=PostgresCollaborations(database),
        tickets=PostgresTickets(database),
        codes=PostgresCodes(database),
        sign_ins=PostgresSignIns(database),
        sign_in_terms=PostgresSignInTerms(database),
        refresh_tokens=PostgresRefreshTokens(database),
        client_credentials=PostgresClientCredentials(database),
        children=PostgresChildren(database),
        reads=PostgresReads(database),
        metadata=PostgresMetadata(database),
        bin=PostgresBin(database),
        pending_authorizations=PostgresPendingAuthorizations(database),
        signing_keys=PostgresSigningKeys(database),
        key_rotation=PostgresKeyRotation(database),
        database=database,
        signals=PostgresSignals(database),
        quotas=PostgresQuotas(database),
        storage=PostgresStorage(database),
        settings=PostgresSystemSettings(database),
        preferences=PostgresPreferences(database),
        webhooks=PostgresWebhooks(database, SEAL),
        deliveries=PostgresDeliveries(database),
        webhook_quotas=PostgresWebhookQuotas(database),
        outbox=PostgresOutbox(database, SEAL),
        add_to_group=add_to_group,
    )


@pytest.fixture(params=["memory", "postgres"])
def store_url(request: pytest.FixtureRequest) -> str | None:
    """The URL of a migrated database, None for a store in memory."""
    if request.param == "memory":
        return None
    url: str = request.getfixturevalue("database_url")
    return url


@pytest.fixture
async def ports(store_url: str | None) -> AsyncIterator[Ports]:
    """The ports of a store of the test's own."""
    if store_url is None:
        yield memory_ports(MemoryStore())
        return
    database = await PostgresDatabase.connect(store_url)
    yield postgres_ports(database)
    await database.close()
