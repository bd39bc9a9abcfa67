"""Every setting of the service: environment variables `TMI_*`, read once, frozen, with units in their names.

A secret may be given in a file instead: `TMI_DATABASE_URL_FILE` names one that holds the value. A variable
that TMI does not know stops the start, since a misspelt one would silently change nothing.
"""

import difflib
import os
import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from rooms.nodes.unix import SCHEME as UNIX_SCHEME
from tmi.domain.configuration import GivenSetting, Kind
from tmi.domain.errors import StartupError
from tmi.domain.hosts import split_hosts
from tmi.provider_settings import (
    FIELDS,
    KINDS,
    MAX_PROVIDERS,
    RESERVED,
    SECRET,
    ProviderSettings,
    as_variables,
    describe_provider_settings,
    fields_of,
    is_of_a_provider,
    variable_of,
)
from tmi.provider_settings import PREFIX as PROVIDER_PREFIX

PREFIX = "TMI_"
FILE_SUFFIX = "_file"
PROVIDERS = "providers"
"""A field that no single variable sets."""
SECRETS = ("database_url", "metrics_token", "redis_url", "webhook_key")
CLIENT_ID, CLIENT_SECRET = "TMI_CLIENT_ID", "TMI_CLIENT_SECRET"
OF_CLIENTS = frozenset({CLIENT_ID, CLIENT_SECRET, f"{CLIENT_SECRET}_FILE"})
"""What `tmi token` reads, and no service."""
METRICS_TOKEN_MIN = 16
WEBHOOK_KEY_MIN = 32
SECRET_FILE_MAX_BYTES = 64 * 1024
PORT_MAX = 65535
KIB = 1024
MIB = 1024 * KIB
DEFAULT_PORTS = {"http": ":80", "https": ":443"}

_PRINCIPAL = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,99}:[^\s:,<>\"'&][^\s,<>\"'&]{0,499}")
_CALLBACK = re.compile(r"https?://[\x21\x22\x24-\x5B\x5D-\x7E]{1,1000}")
_HOST = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?")


class BadSetting(StartupError):
    """A setting is not valid."""


def _origin(url: str) -> str:
    """`https://host[:port]`, as browsers send it in Origin."""
    parts = urlsplit(url)
    has_more = parts.path.strip("/") or parts.query or parts.fragment
    host = _HOST.fullmatch(parts.netloc.lower())
    if parts.scheme not in DEFAULT_PORTS or host is None or has_more:
        raise ValueError("give scheme, host and perhaps port, like https://tmi.example.org")
    port = host[2] if host[2] != DEFAULT_PORTS[parts.scheme] else None
    return f"{parts.scheme}://{host[1]}{port or ''}"


def _callback(url: str) -> str:
    """Where a client takes its code: `https`, or `http` on this machine, without fragment."""
    parts = urlsplit(url)
    host = _HOST.fullmatch(parts.netloc)
    if not _CALLBACK.fullmatch(url) or host is None:
        raise ValueError("give addresses like https://editor.example.org/callback, without fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("give https: addresses; http: is for 127.0.0.1, localhost and [::1] alone")
    return url


def _principal(text: str) -> str:
    """`provider:id`, where the id may be an e-mail address."""
    if not _PRINCIPAL.fullmatch(text):
        raise ValueError("give provider:id or provider:e-mail, like tmi:alice@tmi.local")
    return text


Callback = Annotated[str, AfterValidator(_callback)]
Origin = Annotated[str, AfterValidator(_origin)]
UserName = Annotated[str, AfterValidator(_principal)]
Network = IPv4Network | IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=365 * 24 * 3600)]


class Settings(BaseSettings):
    """What an operator may set."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    # where it listens, and what it is called
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0 takes a free one."""
    public_url: Origin | None = None
    """Where clients reach the service; None: as each request says."""
    allowed_origins: Annotated[tuple[Origin, ...], NoDecode] = ()
    """Further origins of pages that may open live sockets, ask over REST and use the session cookie,
    separated by commas.
    """

    tls_cert_file: Path | None = None
    """A certificate with its chain, PEM, for TLS 1.3. Read again at SIGHUP and when it changes."""
    tls_key_file: Path | None = None
    """Its key, PEM, without a password."""
    tls_check_s: Annotated[float, Field(ge=0.1, le=24 * 3600)] = 10.0
    """How often these files are looked at."""
    hsts_max_age_s: Annotated[int, Field(ge=0, le=10 * 365 * 24 * 3600)] = 365 * 24 * 3600
    """How long browsers are to speak https alone with this host (Strict-Transport-Security); 0: not told.
    Told over https only, and not with `dev`.
    """
    hsts_include_subdomains: bool = False
    """Whether they are to do so with all hosts below this one, too: only where each of them has https."""

    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that share the port and the rooms; without `redis_url` they have an embedded Valkey."""
    worker_start_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """How long a worker may take to start before it is killed and tried again."""

    # where it keeps its data
    database_url: SecretStr | None = None
    """None: an embedded PostgreSQL in `data_dir`."""
    database_max_connections: Annotated[int, Field(ge=2, le=30)] = 10
    data_dir: Path = Path("data")

    # several nodes
    redis_url: SecretStr | None = None
    """Redis or Valkey, by which several nodes share one database; None: this one is alone."""
    redis_cluster: bool = False
    """`redis_url` leads to a Redis Cluster: to one of its servers, or to some, like redis://a:6379,b:6379."""
    node_listen: str = "127.0.0.1:0"
    """Host and port where other nodes reach this one, and nobody else should. Port 0 takes a free one, and
    of a range like 10.0.0.5:7946-7953 each worker takes one. Or unix:/path, for nodes of this machine.
    """
    node_url: str | None = None
    """What other nodes call this place, like ws://10.0.0.5:7946, where port 0 stands for the one that is
    listened on; None: as `node_listen` says.
    """
    node_name: str | None = None
    """For logs and people; None: the machine's name and the process."""
    room_lease_s: Annotated[float, Field(ge=1, le=3600)] = 30.0
    """Without Redis, rooms are taken from a node that does not answer and was not seen for twice this."""

    # development
    dev: bool = False
    """Offer the development provider, with which anybody signs in as anybody. Loopback hosts only."""
    dev_insecure_host: bool = False
    """Let `dev` listen elsewhere."""

    # limits of requests, counted by all nodes together
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    """Networks of proxies whose X-Forwarded-For and -Proto are believed, separated by commas: 10.0.0.0/8."""
    user_requests_per_min: Annotated[int, Field(ge=0)] = 12_000
    """What one user may ask over REST in a minute; 0 for no limit."""
    user_requests_per_hour: Annotated[int, Field(ge=0)] = 0
    """The same in an hour; 0 for no limit."""
    address_requests_per_min: Annotated[int, Field(ge=0)] = 60_000
    """From one IPv4 address or IPv6 /64, of all its users together, upgrades to sockets included."""
    sign_in_requests_per_min: Annotated[int, Field(ge=0)] = 600
    """From one address, of what signs in (/oauth2)."""

    # quotas of users, unless an administrator says something else for one of them
    user_threat_models_max: Annotated[int, Field(ge=0)] = 0
    """Threat models that one user may have; 0 for no limit."""
    user_diagrams_max: Annotated[int, Field(ge=0)] = 0
    """Diagrams in all threat models of one user; 0 for no limit."""
    user_stored_max_bytes: Annotated[int, Field(ge=0)] = 0
    """What one user's diagrams may take in the database; 0 for no limit. Past it they can only be read
    live.
    """

    # webhooks
    webhook_key: SecretStr | None = None
    """What the secrets of webhooks are sealed with in the database, at least 32 random characters; several,
    separated by commas, to replace one: the first seals, all open. None: they are stored as they are.
    """
    webhook_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    """Networks that webhooks may lead to though they are not public, separated by commas: 10.1.0.0/16."""
    webhook_ports: Annotated[tuple[Port, ...], NoDecode] = (443, 8443)
    """Ports that webhooks may lead to, separated by commas; with `dev` any."""
    webhook_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 10.0
    """For a whole answer of an endpoint."""
    webhook_attempts_max: Annotated[int, Field(ge=1, le=20)] = 8
    """How often a delivery is tried."""
    webhook_backoff_s: Annotated[float, Field(ge=0.01, le=3600)] = 10.0
    """The pause after the first attempt that fails; each is twice the one before, to an hour."""
    webhook_calls_max: Annotated[int, Field(ge=1, le=1000)] = 32
    """Calls of webhooks that one process makes at once; four of them of one subscription."""
    webhook_log_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    """Deliveries are deleted after this long, those that were never made included."""
    webhook_subscriptions_max: Annotated[int, Field(ge=1, le=1000)] = 10
    """Of one user, unless an administrator says something else for them; likewise the three that follow."""
    webhook_events_per_min: Annotated[int, Field(ge=1)] = 600
    """Attempts to deliver to one user's subscriptions; what is beyond waits for the next minute."""
    webhook_requests_per_min: Annotated[int, Field(ge=1)] = 10
    """Subscriptions that one user may make or test in a minute."""
    webhook_requests_per_day: Annotated[int, Field(ge=1)] = 100

    # what clients are told
    operator_name: Annotated[str, Field(max_length=256)] = ""
    """Who runs this service."""
    operator_contact: Annotated[str, Field(max_length=1024)] = ""
    operator_jurisdiction: Annotated[str, Field(max_length=256)] = ""
    default_theme: Literal["auto", "light", "dark"] = "auto"

    # its life
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """How long a stopping service tries to commit what is unsaved."""
    drain_spread_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    """Over so long the clients of a stopping node are sent to the others; where there are none, at once."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """`auto`: for people in a terminal, else JSON."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    # bounds of rooms
    journal_max_bytes: Annotated[int, Field(ge=64 * KIB)] = 32 * MIB
    """Edits that may wait for their commit, all rooms together."""
    room_idle_s: Seconds = 30.0
    """A room without anybody is closed after this long."""
    rooms_max_bytes: Annotated[int, Field(ge=MIB)] = 1024 * MIB
    """Estimated memory of all rooms above which rooms without anybody are closed early, least recently used
    first.
    """
    rooms_hard_max_bytes: Annotated[int, Field(ge=MIB)] = 2048 * MIB
    """Estimated memory of all rooms above which no further one is opened, and open ones may grow by an eighth
    of it together: after that writers of those that have grown most are closed with 1013.
    """
    document_max_bytes: Annotated[int, Field(ge=64 * KIB, le=1024 * MIB)] = 64 * MIB
    """A diagram's encoded size, from which on edits may only delete: others are refused with 4413."""
    clients_per_room_max: Annotated[int, Field(ge=1)] = 5_000
    """Clients of a room on all nodes together, each tab counted."""
    awareness_max_bytes: Annotated[int, Field(ge=KIB, le=256 * KIB)] = 64 * KIB
    """What a client may say of itself (its awareness state); who says more is closed with 4400."""
    presence_max_bytes: Annotated[int, Field(ge=MIB, le=64 * MIB)] = 8 * MIB
    """What a room keeps of everybody's awareness: twice each state, and 512 bytes. More is not taken."""

    # bounds of clients
    frame_max_bytes: Annotated[int, Field(ge=KIB, le=256 * MIB)] = 16 * MIB
    partial_total_max_bytes: Annotated[int, Field(ge=MIB)] = 256 * MIB
    """What may be kept of messages that are not whole yet, of all sockets together."""
    outbox_max_bytes: Annotated[int, Field(ge=512 * KIB, le=256 * MIB)] = MIB
    """What may be queued for a client that does not read."""
    outbox_total_max_bytes: Annotated[int, Field(ge=MIB)] = 512 * MIB
    """What may be queued for all clients of the process together that do not read; those that have been
    stalled longest are closed with 1013.
    """
    body_max_bytes: Annotated[int, Field(ge=KIB, le=256 * MIB)] = MIB
    """A REST request's body."""
    if_match_required: bool = False
    """Whether a REST write has to say by If-Match which version it has read: 428 without."""
    sockets_max: Annotated[int, Field(ge=1)] = 20_000
    """Live sockets in all, on each node and worker."""
    sockets_per_address_max: Annotated[int, Field(ge=1)] = 10_000
    """Live sockets from one IPv4 address or IPv6 /64, on all nodes; behind a proxy that
    TMI_TRUSTED_PROXIES does not name, all of them come from the proxy's.
    """
    connections_per_address_max: Annotated[int, Field(ge=1)] = 2_000
    """Connections from one address to one process that serve REST or are at their TLS handshake or first
    request. More are answered with 503, before TLS by an end; trusted proxies are not bounded.
    """
    heads_max: Annotated[int, Field(ge=1)] = 2_000
    """Connections that have not sent their first request's head; more are answered with 503."""
    handshakes_max: Annotated[int, Field(ge=1)] = 2_000
    """Connections at their TLS handshake; more are dropped."""
    documents_per_user_max: Annotated[int, Field(ge=1)] = 1000
    """Diagrams that one user may have open at once on all nodes, each tab counted."""
    client_edits_per_s: Annotated[float, Field(gt=0)] = 1_000.0
    """Frames that one live socket may send in the long run, cursors included; past that it is read later."""
    client_edits_burst: Annotated[int, Field(ge=1)] = 5_000
    client_bytes_per_s: Annotated[float, Field(ge=KIB)] = 8.0 * MIB
    client_bytes_burst: Annotated[int, Field(ge=KIB)] = 64 * MIB
    rate_patience_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    """How long, in a minute, a socket over its rate is read late before it is closed with 1013."""

    # watching it
    metrics_token: SecretStr | None = None
    """Who asks for /metrics has to bring it as a bearer token; None: only this machine may ask."""

    # sign-in
    access_token_ttl_s: Annotated[float, Field(ge=1, le=24 * 3600)] = 900.0
    collab_token_ttl_s: Annotated[float, Field(ge=1, le=24 * 3600)] = 600.0
    refresh_token_ttl_s: Seconds = 7 * 24 * 3600.0
    browser_session_s: Seconds = 12 * 3600.0
    """How long a browser stays signed in by its cookie, however busy it is."""
    browser_idle_s: Seconds = 2 * 3600.0
    """A browser that asks nothing over REST and edits nothing for so long has to sign in again; its sockets
    are closed 4401.
    """
    client_credentials_for_all: bool = False
    """Let everybody make client credentials for programs, not administrators alone."""
    client_credentials_per_user_max: Annotated[int, Field(ge=0, le=1000)] = 20
    sign_in_max_s: Seconds = 30 * 24 * 3600.0
    """However often its refresh token is exchanged, a sign-in ends so long after it began."""

    client_callbacks: Annotated[tuple[Callback, ...], NoDecode] = ()
    """Where clients may take their codes, compared exactly, separated by commas. On 127.0.0.1, localhost and
    [::1] any port will do. With `dev` every address there is allowed.
    """
    providers: Annotated[tuple[ProviderSettings, ...], NoDecode] = ()
    """Identity providers, from variables of their own."""

    # who runs it, and what is kept of it
    audit_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    """Entries of the system audit are deleted after this long."""
    event_streams_max: Annotated[int, Field(ge=1, le=100_000)] = 2_000
    """Readers of server-sent events of one process."""
    event_streams_per_user_max: Annotated[int, Field(ge=1, le=10_000)] = 20
    """Readers of server-sent events of one user, in one process."""
    deleted_keep_days: Annotated[int, Field(ge=1, le=36_500)] = 30
    """What was deleted can be restored for this long, and is then deleted for good."""
    trail_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    """Entries of the audit trails of threat models are deleted after this long."""
    trail_states_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    """What is needed to roll back to an entry, and to show what it changed, is deleted after this long; with
    the entry at the latest.
    """
    administrators: Annotated[tuple[UserName, ...], NoDecode] = ()
    """The first administrators, as provider:id or provider:e-mail, separated by commas."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line, then the environment; nothing else is read."""
        return init_settings, env_settings

    @field_validator(
        "allowed_origins",
        "administrators",
        "trusted_proxies",
        "client_callbacks",
        "webhook_networks",
        "webhook_ports",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in ("postgresql", "postgres"):
            raise ValueError("give a URL like postgresql://user:password@host/database")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and urlsplit(value.get_secret_value()).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("give a URL like redis://user:password@host:6379/0, rediss:// or unix://")
        return value

    @field_validator("node_listen")
    @classmethod
    def _is_place(cls, value: str) -> str:
        if value.startswith(UNIX_SCHEME):
            return value
        host, ports = split_ports(value)
        if not host or not ports or ports[-1] > PORT_MAX:
            raise ValueError("give a host and a port, like 10.0.0.5:7946, [fd00::5]:7946 or h:7946-7953")
        return value

    @field_validator("node_url")
    @classmethod
    def _is_websocket(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.path.strip("/") or parts.query:
            raise ValueError("give a URL like ws://10.0.0.5:7946")
        return value.rstrip("/")

    @field_validator("webhook_key")
    @classmethod
    def _are_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and min(map(len, _keys_in(value))) < WEBHOOK_KEY_MIN:
            raise ValueError(f"give at least {WEBHOOK_KEY_MIN} characters")
        return value

    @property
    def webhook_keys(self) -> tuple[str, ...]:
        """What secrets of webhooks are sealed with, the newest first."""
        return () if self.webhook_key is None else _keys_in(self.webhook_key)

    @field_validator("metrics_token")
    @classmethod
    def _is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < METRICS_TOKEN_MIN:
            raise ValueError(f"give at least {METRICS_TOKEN_MIN} characters")
        return value

    @model_validator(mode="after")
    def _redis_is_one_or_a_cluster(self) -> Self:
        if self.redis_url is None:
            if self.redis_cluster:
                raise ValueError("TMI_REDIS_CLUSTER is about TMI_REDIS_URL: set that too, or leave it out")
            return self
        url = self.redis_url.get_secret_value()
        is_local = url.startswith("unix:")
        others = [] if is_local else split_hosts(url)[1]
        if not self.redis_cluster:
            if others:
                raise ValueError("TMI_REDIS_URL names several servers: set TMI_REDIS_CLUSTER if they are one")
        elif is_local or urlsplit(url).path.strip("/") not in ("", "0"):
            raise ValueError("a Redis Cluster is reached by TCP and has database 0 alone: mend TMI_REDIS_URL")
        return self

    @model_validator(mode="after")
    def _node_can_be_reached(self) -> Self:
        if self.node_listen.startswith(UNIX_SCHEME):
            if self.node_url is not None:
                raise ValueError("TMI_NODE_URL does not lead to the Unix socket of TMI_NODE_LISTEN: set one")
            return self
        host, _ = split_place(self.node_listen)
        if self.redis_url is not None and self.node_url is None and host in ("0.0.0.0", "::"):  # noqa: S104
            raise ValueError("TMI_NODE_LISTEN is everywhere: say in TMI_NODE_URL where other nodes reach it")
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("TMI_TLS_CERT_FILE and TMI_TLS_KEY_FILE belong together: give both, or none")
        if self.tls_cert_file is not None and (self.public_url or "https:").startswith("http:"):
            raise ValueError("TMI_PUBLIC_URL has to begin with https:// where TMI_TLS_CERT_FILE is given")
        return self

    @model_validator(mode="after")
    def _workers_can_be_reached(self) -> Self:
        """Each worker has a place of its own, by which nodes of other machines reach it."""
        if self.workers == 1:
            return self
        if self.redis_url is None:
            for name in ("node_listen", "node_url"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{PREFIX}{name.upper()} is for nodes of other machines, which need TMI_REDIS_URL: "
                        "set that as well, or leave it out"
                    )
            return self
        if self.node_listen.startswith(UNIX_SCHEME):
            raise ValueError(
                "workers have Unix sockets of their own: give TMI_NODE_LISTEN a host and a port for nodes of "
                "other machines, or leave it out"
            )
        ports = split_ports(self.node_listen)[1]
        if ports[0] != 0 and len(ports) < self.workers:
            raise ValueError(
                f"each worker listens on a port of its own: give TMI_NODE_LISTEN {self.workers} ports, like "
                f"10.0.0.5:7946-{7945 + self.workers}, or port 0"
            )
        if self.node_url is not None and urlsplit(self.node_url).port != 0:
            raise ValueError(
                "each worker listens on a port of its own: give TMI_NODE_URL port 0, which stands for it"
            )
        return self

    @model_validator(mode="after")
    def _rooms_fit(self) -> Self:
        if self.rooms_hard_max_bytes < self.rooms_max_bytes:
            raise ValueError("TMI_ROOMS_HARD_MAX_BYTES may not be less than TMI_ROOMS_MAX_BYTES")
        return self

    @model_validator(mode="after")
    def _providers_can_work(self) -> Self:
        if len(self.providers) > MAX_PROVIDERS:
            raise ValueError(f"there may be {MAX_PROVIDERS} providers at most")
        for provider in self.providers:
            if self.public_url is None:
                raise ValueError(
                    f"set TMI_PUBLIC_URL: the provider {provider.id} sends people back to "
                    "<TMI_PUBLIC_URL>/oauth2/callback, which has to be registered there"
                )
            self._is_safe(provider.variable("issuer"), provider.address)
        if self.providers and self.public_url is not None:
            self._is_safe("TMI_PUBLIC_URL", self.public_url)
        return self

    def _is_safe(self, variable: str, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "https" or (self.dev and is_loopback(parts.hostname or "")):
            return
        raise ValueError(f"{variable} has to be https: for sign-in (with TMI_DEV also http: on loopback)")

    @model_validator(mode="after")
    def _dev_is_local(self) -> Self:
        if self.dev and not self.dev_insecure_host and not is_loopback(self.host):
            raise ValueError(
                f"--dev lets anybody sign in as anybody, so it listens on loopback and not on {self.host}; "
                "--dev-insecure-host allows it all the same"
            )
        return self


def read_settings(overrides: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process; `overrides` come from the command line. Raises BadSetting."""
    environment = os.environ if environment is None else environment
    _refuse_unknown(environment)
    try:
        found = {**_secrets_in_files(environment), **_providers(environment), **overrides}
        return Settings(**found)
    except ValidationError as error:
        raise BadSetting("; ".join(map(_sentence, error.errors()))) from None


def _keys_in(value: SecretStr) -> tuple[str, ...]:
    return tuple(key.strip() for key in value.get_secret_value().split(","))


def as_environment(settings: Settings, environment: Mapping[str, str], **changes: object) -> dict[str, str]:
    """An environment from which another process reads these settings, with changes; secrets included."""
    kept = {name: value for name, value in environment.items() if not name.upper().startswith(PREFIX)}
    given = {name: getattr(settings, name) for name in settings.model_fields_set} | changes
    ours = {PREFIX + name: value for name, value in given.items() if name != PROVIDERS}
    for provider in settings.providers:
        ours |= as_variables(provider)
    return kept | {name.upper(): _as_text(value) for name, value in ours.items() if value is not None}


def _as_text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def describe_settings() -> list[tuple[str, str, str]]:
    """Each setting's variable, its default and what it means."""
    return [
        ((PREFIX + name).upper(), str(field.get_default()), " ".join((field.description or "").split()))
        for name, field in Settings.model_fields.items()
        if name != PROVIDERS
    ] + describe_provider_settings()


def shown_settings(settings: Settings) -> list[GivenSetting]:
    """What administrators may see of the settings: plain values, and nothing that is, or holds, a secret."""
    return [
        GivenSetting(
            key=name,
            value=("true" if value else "false") if value is True or value is False else _as_text(value),
            kind=_kind_of(value),
            description=" ".join((field.description or "").split()),
            is_from_environment=name in settings.model_fields_set,
        )
        for name, field in Settings.model_fields.items()
        if name not in SECRETS and _is_plain(value := getattr(settings, name))
    ]


def _is_plain(value: object) -> bool:
    """Whether a value can be shown. A type that is not known here may hold anything."""
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is not None and isinstance(value, (bool, int, float, str, Path, IPv4Network, IPv6Network))


def _kind_of(value: object) -> Kind:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    return "float" if isinstance(value, float) else "string"


def split_place(place: str) -> tuple[str, str]:
    """Host and port of `host:port`; an IPv6 address stands in brackets."""
    host, _, port = place.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), port


def split_ports(place: str) -> tuple[str, range]:
    """Host and ports of `host:port` or `host:first-last`; no ports if they are not understood."""
    host, ports = split_place(place)
    first, dash, last = ports.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        return host, range(0)
    return host, range(int(first), int(last if dash else first) + 1)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    fields = (*Settings.model_fields, *(secret + FILE_SUFFIX for secret in SECRETS))
    known = {(PREFIX + field).upper() for field in fields if field != PROVIDERS} | OF_CLIENTS
    for name in sorted(environment):
        is_ours = name.upper().startswith(PREFIX)
        if is_ours and name.upper() not in known and not is_of_a_provider(name):
            raise BadSetting(f"There is no setting {name}.{_hint(name.upper(), known)}")


def _hint(name: str, known: set[str]) -> str:
    if name.startswith(PROVIDER_PREFIX):
        fields = ", ".join(field.upper() for field in FIELDS)
        return f" Those of a provider are {PROVIDER_PREFIX}<ID>_ and one of {fields}."
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _secrets_in_files(environment: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for secret in SECRETS:
        variable = (PREFIX + secret).upper()
        path = environment.get(variable + FILE_SUFFIX.upper())
        if path is None:
            continue
        if variable in environment:
            raise BadSetting(f"Set {variable} or {variable}_FILE, not both.")
        found[secret] = _first_line(Path(path), variable)
    return found


def _providers(environment: Mapping[str, str]) -> dict[str, Any]:
    """The identity providers, if there are any. Raises BadSetting."""
    found = [_provider(provider, fields) for provider, fields in fields_of(environment).items()]
    return {PROVIDERS: tuple(found)} if found else {}


def _provider(provider: str, fields: dict[str, str]) -> ProviderSettings:
    path = fields.pop(SECRET + FILE_SUFFIX, None)
    if path is not None:
        variable = variable_of(provider, SECRET)
        if SECRET in fields:
            raise BadSetting(f"Set {variable} or {variable}_FILE, not both.")
        fields[SECRET] = _first_line(Path(path), variable)
    if provider in RESERVED:
        raise BadSetting(f"The name {provider} is taken: call the provider something else.")
    if provider in KINDS:
        fields.setdefault("kind", provider)
    try:
        return ProviderSettings.model_validate({"id": provider, **fields})
    except ValidationError as error:
        problems = error.errors()
    raise BadSetting("; ".join(_provider_sentence(provider, problem) for problem in problems))


def _provider_sentence(provider: str, problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return f"Provider {provider}: {message}"
    return f"{variable_of(provider, str(problem['loc'][0]))}: {message}"


def _first_line(path: Path, variable: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(SECRET_FILE_MAX_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{variable}_FILE {path} can't be read: {error}.") from None


def _sentence(problem: Any) -> str:
    """One problem in one line, without the value, which may be a secret."""
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    return f"{PREFIX}{str(problem['loc'][0]).upper()}: {message}"
