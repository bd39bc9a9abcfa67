"""What is set reaches the part that it is about: one that is left out would quietly have its default."""

import ssl
from dataclasses import MISSING, fields
from typing import Any

import pytest
from pydantic import SecretStr

from api.headers import StrictTransport
from api.identity.provider import ProviderOptions
from tmi.provider_settings import ProviderSettings
from tmi.serve import listener_options
from tmi.settings import Settings
from tmi.wiring.options import api_options, live_options, provider_options, rooms_limits

FIXED = {
    "auth_timeout_s",
    "body_timeout_s",
    "close_timeout_s",
    "denials_max",
    "dev",
    "documents_per_socket_max",
    "handshake_timeout_s",
    "ping_after_s",
    "ping_timeout_s",
    "handshakes_max",
    "read_buffer_bytes",
    "silence_max_s",
    "stall_max_s",
    "write_high_bytes",
    "sweep_s",
    "unused_max_s",
    "waiting_max_bytes",
    "waiting_max_frames",
}
"""What is not set by anybody, and `dev`, with which browsers are told nothing of https."""


def another(name: str, default: Any) -> Any:
    """A value that is not the default."""
    if name in ("trusted_proxies", "allowed_origins", "administrators", "client_callbacks"):
        return ("10.0.0.0/8",) if name == "trusted_proxies" else ("https://other.example",)
    if name == "metrics_token":
        return SecretStr("other")
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    return "https://other.example"


@pytest.fixture
def settings() -> Settings:
    """Everything is set to something else, but for `dev`."""
    values = {
        name: another(name, field.default) for name, field in Settings.model_fields.items() if name != "dev"
    }
    return Settings.model_construct(**values, dev=False)


def left_alone(made: Any) -> set[str]:
    """The fields that have their defaults."""
    left = set()
    for one in fields(made):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if default is not MISSING and getattr(made, one.name) == default:
            left.add(one.name)
    return left


def test_each_setting_of_rest_arrives(settings: Settings) -> None:
    assert not left_alone(api_options(settings)) - FIXED


def test_each_setting_of_live_sockets_arrives(settings: Settings) -> None:
    assert not left_alone(live_options(settings)) - FIXED


def test_what_a_client_may_send_is_not_mixed_up(settings: Settings) -> None:
    made = live_options(settings)
    rates = settings.client_edits_per_s, settings.client_edits_burst
    assert rates == (made.edits_per_s, made.edits_burst)
    assert (settings.client_bytes_per_s, settings.client_bytes_burst) == (made.bytes_per_s, made.bytes_burst)
    assert 4 == len({made.edits_per_s, made.edits_burst, made.bytes_per_s, made.bytes_burst})


def test_each_setting_of_rooms_arrives(settings: Settings) -> None:
    made = rooms_limits(settings)
    expected = {
        "idle_s": settings.room_idle_s,
        "memory_max_bytes": settings.rooms_max_bytes,
        "memory_hard_max_bytes": settings.rooms_hard_max_bytes,
    }
    assert expected == {name: getattr(made, name) for name in expected}
    assert settings.document_max_bytes == made.room.document_max_bytes
    assert settings.clients_per_room_max == made.room.sessions_max
    assert settings.awareness_max_bytes == made.room.awareness_max_bytes
    assert settings.presence_max_bytes == made.room.presence_max_bytes
    assert settings.journal_max_bytes == made.journal.max_bytes
    assert not left_alone(made) & {*expected, "room", "journal"}


def test_each_setting_of_the_listener_arrives(settings: Settings) -> None:
    made = listener_options(settings, ssl.create_default_context)
    assert {
        "backlog",
        "handshake_timeout_s",
        "head_max_bytes",
        "head_timeout_s",
        "keep_alive_s",
        "rest_connections_max",
        "startup_timeout_s",
        "write_timeout_s",
    } == left_alone(made)


def test_heads_and_handshakes_are_not_mixed_up() -> None:
    made = listener_options(Settings.model_construct(heads_max=3, handshakes_max=5), None)
    assert (3, 5) == (made.heads_max, made.handshakes_max)


def test_each_setting_of_an_identity_provider_arrives() -> None:
    given = ProviderSettings(
        id="corp",
        kind="google",
        client_id="tmi",
        client_secret=SecretStr("hidden"),
        hosted_domain="example.org",
        allowed_domains=("example.org",),
        scopes=("openid", "email"),
        name="Corp",
        icon="corp",
    ).model_copy(update={"tenant": "t", "allowed_tenants": ("t",), "trust_emails": True})
    made = provider_options(given)
    assert not left_alone(made)
    assert "hidden" == made.client_secret
    same = {one.name for one in fields(ProviderOptions)} - {"client_secret", "issuer"}
    assert {name: getattr(given, name) for name in same} == {name: getattr(made, name) for name in same}


@pytest.mark.parametrize(("dev", "age_s"), [(False, 60), (True, 0)])
def test_browsers_are_told_of_https_as_set_and_never_in_development(dev: bool, age_s: int) -> None:
    told = Settings.model_construct(hsts_max_age_s=60, hsts_include_subdomains=True, dev=dev)

    expected = StrictTransport(age_s, subdomains=True)
    assert (expected, expected) == (api_options(told).hsts, live_options(told).hsts)
    assert not Settings.model_fields["hsts_include_subdomains"].default
