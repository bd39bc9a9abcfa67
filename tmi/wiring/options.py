"""What the settings say to each part of the service."""


from api.forwarding import TrustedProxies
from api.headers import StrictTransport
from api.identity.provider import ProviderOptions
from api.live.options import LiveOptions
from api.origins import Origins
from api.services import ApiOptions
from rooms.edits import RoomLimits
from rooms.journal import JournalLimits
from rooms.limits import RoomsLimits
from tmi.provider_settings import ProviderSettings
from tmi.settings import Settings
from tmi.wiring.webhooks import webhook_limits, webhook_targets


def provider_options(provider: ProviderSettings) -> ProviderOptions:
    """What is set about one identity provider."""
    secret = provider.client_secret
    return ProviderOptions(
        id=provider.id,
        kind=provider.kind,
        client_id=provider.client_id,
        client_secret=None if secret is None else secret.get_secret_value(),
        issuer=provider.address,
        tenant=provider.tenant,
        allowed_tenants=provider.allowed_tenants,
        hosted_domain=provider.hosted_domain,
        allowed_domains=provider.allowed_domains,
        trust_emails=provider.trust_emails,
        scopes=provider.scopes,
        name=provider.name,
        icon=provider.icon,
    )


def rooms_limits(settings: Settings) -> RoomsLimits:
    """Bounds of all rooms."""
    return RoomsLimits(
        room=RoomLimits(
            document_max_bytes=settings.document_max_bytes,
            sessions_max=settings.clients_per_room_max,
            awareness_max_bytes=settings.awareness_max_bytes,
            presence_max_bytes=settings.presence_max_bytes,
        ),
        journal=JournalLimits(max_bytes=settings.journal_max_bytes),
        idle_s=settings.room_idle_s,
        memory_max_bytes=settings.rooms_max_bytes,
        memory_hard_max_bytes=settings.rooms_hard_max_bytes,
    )


def api_options(settings: Settings) -> ApiOptions:
    """What is set about REST."""
    return ApiOptions(
        dev=settings.dev,
        public_url=settings.public_url,
        trusted_proxies=TrustedProxies(settings.trusted_proxies),
        hsts=_strict_transport(settings),
        participants_max=settings.clients_per_room_max,
        max_body_bytes=settings.body_max_bytes,
        if_match_required=settings.if_match_required,
        refresh_token_ttl_s=settings.refresh_token_ttl_s,
        origins=_origins(settings),
        browser_session_s=settings.browser_session_s,
        sign_in_max_s=settings.sign_in_max_s,
        client_credentials_for_all=settings.client_credentials_for_all,
        client_credentials_per_user_max=settings.client_credentials_per_user_max,
        administrators=settings.administrators,
        client_callbacks=settings.client_callbacks,
        webhook_targets=webhook_targets(settings),
        webhook_limits=webhook_limits(settings),
        metrics_token=settings.metrics_token.get_secret_value() if settings.metrics_token else None,
    )


def _origins(settings: Settings) -> Origins:
    return Origins(settings.public_url, frozenset(settings.allowed_origins))


def _strict_transport(settings: Settings) -> StrictTransport:
    """Never in development: browsers would apply it to all else that runs on localhost."""
    max_age_s = 0 if settings.dev else settings.hsts_max_age_s
    return StrictTransport(max_age_s, settings.hsts_include_subdomains)


def live_options(settings: Settings) -> LiveOptions:
    """What is set about live sockets."""
    return LiveOptions(
        public_origin=settings.public_url,
        allowed_origins=frozenset(settings.allowed_origins),
        dev=settings.dev,
        trusted_proxies=TrustedProxies(settings.trusted_proxies),
        hsts=_strict_transport(settings),
        sockets_max=settings.sockets_max,
        documents_per_user_max=settings.documents_per_user_max,
        frame_max_bytes=settings.frame_max_bytes,
        partial_total_max_bytes=settings.partial_total_max_bytes,
        outbox_max_bytes=settings.outbox_max_bytes,
        outbox_total_max_bytes=settings.outbox_total_max_bytes,
        sockets_per_address_max=settings.sockets_per_address_max,
        edits_per_s=settings.client_edits_per_s,
        edits_burst=settings.client_edits_burst,
        bytes_per_s=settings.client_bytes_per_s,
        bytes_burst=settings.client_bytes_burst,
        rate_patience_s=settings.rate_patience_s,
    )
