"""What the REST application works with: ports and rooms, given by wiring, and the service's health."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from api.configuration import Configuration
from api.cookies import SessionCookies
from api.forwarding import TrustedProxies
from api.headers import StrictTransport
from api.identity.provider import IdentityProvider
from api.metrics import Metrics
from api.origins import Origins
from api.sessions import SessionCache
from api.storage_quota import StorageBoundAccess
from api.streams import Streams
from api.tokens import Tokens
from rooms.administration import Administration
from rooms.editing import Editing
from rooms.service import Rooms
from tmi.domain.ports import (
    AccessControl,
    Accounts,
    Audit,
    Bin,
    CellEdits,
    Challenges,
    Children,
    ClientCredentials,
    Codes,
    Collaborations,
    Database,
    Deliveries,
    Diagrams,
    Groups,
    Memberships,
    Metadata,
    PendingAuthorizations,
    Preferences,
    Quotas,
    RateLimits,
    Reads,
    RefreshTokens,
    SignIns,
    Storage,
    SystemSettings,
    ThreatModels,
    Tickets,
    Trail,
    Users,
    WebhookQuotas,
    Webhooks,
)
from tmi.domain.targets import TargetRules
from tmi.domain.webhooks import WebhookLimits


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """What an operator may set about REST."""

    dev: bool = False
    """Offer the development provider `tmi`, with which anybody signs in as anybody."""
    public_url: str | None = None
    """Where clients reach this service (`https://tmi.example.org`); None: as each request says."""
    max_body_bytes: int = 1024 * 1024
    body_timeout_s: float = 30.0
    participants_max: int = 5_000
    """Clients of one diagram."""
    refresh_token_ttl_s: float = 7 * 24 * 3600.0
    client_credentials_for_all: bool = False
    """Everybody may make client credentials, not administrators alone."""
    client_credentials_per_user_max: int = 20
    sign_in_max_s: float = 30 * 24 * 3600.0
    """However often its refresh token is exchanged, a sign-in ends so long after it began."""
    ping_timeout_s: float = 1.0
    client_callbacks: tuple[str, ...] = ()
    """Where clients may take their codes, besides here."""
    administrators: tuple[str, ...] = ()
    """The first administrators, each `provider:id` or `provider:e-mail`."""
    if_match_required: bool = False
    """Whether a write has to say which version it has read."""
    trusted_proxies: TrustedProxies = field(default_factory=TrustedProxies)
    origins: Origins = field(default_factory=Origins)
    """Whose pages may use the session cookie, and read answers."""
    browser_session_s: float = 12 * 3600.0
    """How long a browser stays signed in, however busy it is."""
    hsts: StrictTransport = field(default_factory=StrictTransport)
    webhook_targets: TargetRules = field(default_factory=TargetRules)
    """Where webhooks may lead."""
    webhook_limits: WebhookLimits = field(default_factory=WebhookLimits)
    """What users may do with webhooks unless an administrator says something else for one of them."""
    metrics_token: str | None = field(default=None, repr=False)
    """What a reader of `/metrics` has to bring; None: it has to be on this machine."""


@dataclass(slots=True)
class Health:
    """Where the service stands in its life; the program's life cycle writes it, `/readyz` reads it."""

    started: bool = False
    """Migrations are checked and every part runs."""
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that `create_app` needs."""

    threat_models: ThreatModels
    diagrams: Diagrams
    users: Users
    codes: Codes
    sign_ins: SignIns
    refresh_tokens: RefreshTokens
    client_credentials: ClientCredentials
    pending_authorizations: PendingAuthorizations
    access: AccessControl
    accounts: Accounts
    challenges: Challenges
    groups: Groups
    memberships: Memberships
    audit: Audit
    cookies: SessionCookies
    trail: Trail
    cell_edits: CellEdits
    streams: Streams
    collaborations: Collaborations
    tickets: Tickets
    children: Children
    reads: Reads
    metadata: Metadata
    bin: Bin
    rooms: Rooms
    tokens: Tokens
    database: Database
    administration: Administration
    editing: Editing
    rate_limits: RateLimits
    quotas: Quotas
    storage: Storage
    room: StorageBoundAccess
    """Whether who is charged may store more."""
    settings: SystemSettings
    preferences: Preferences
    configuration: Configuration
    webhooks: Webhooks
    deliveries: Deliveries
    webhook_quotas: WebhookQuotas
    wake_webhooks: Callable[[], None] = lambda: None
    """Something is to be delivered that this node can begin with at once."""
    options: ApiOptions = field(default_factory=ApiOptions)
    sessions: SessionCache | None = None
    """None: one that hears no signals, and so asks the database every second."""
    metrics: Metrics | None = None
    identity_providers: Mapping[str, IdentityProvider] = field(default_factory=dict)
    """By their ids; the development provider is not among them."""
    health: Health = field(default_factory=Health)
