"""Identity providers by settings alone, and what is refused at the start."""

from pathlib import Path

import pytest

from tmi.settings import BadSetting, Settings, as_environment, describe_settings, read_settings

TENANT = "11111111-2222-3333-4444-555555555555"
GOOGLE = {"TMI_PROVIDER_GOOGLE_CLIENT_ID": "id", "TMI_PROVIDER_GOOGLE_CLIENT_SECRET": "hidden"}
MICROSOFT = {
    "TMI_PROVIDER_MICROSOFT_CLIENT_ID": "id",
    "TMI_PROVIDER_MICROSOFT_CLIENT_SECRET": "hidden",
    "TMI_PROVIDER_MICROSOFT_TENANT": TENANT,
}
CORP = {"TMI_PROVIDER_CORP_CLIENT_ID": "id", "TMI_PROVIDER_CORP_ISSUER": "https://login.example.org/realm"}
PUBLIC = {"public_url": "https://tmi.example.org"}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"TMI_{field.upper()}", raising=False)


def read(*given: dict[str, str], **more: object) -> Settings:
    environment: dict[str, str] = {}
    for part in given:
        environment |= part
    return read_settings(PUBLIC | more, environment)


def test_a_kind_needs_no_more_than_what_the_provider_gave_out() -> None:
    corp, google, microsoft = read(GOOGLE, MICROSOFT, CORP).providers
    assert ("corp", "oidc", "https://login.example.org/realm", None) == (
        corp.id, corp.kind, corp.address, corp.client_secret,
    )  # fmt: skip
    assert ("google", "google", "https://accounts.google.com") == (google.id, google.kind, google.address)
    assert google.client_secret is not None
    assert "hidden" == google.client_secret.get_secret_value()
    assert ("https://login.microsoftonline.com", TENANT) == (microsoft.address, microsoft.tenant)


def test_an_id_may_have_underscores_and_lists_take_commas_and_spaces() -> None:
    (provider,) = read({
        "TMI_PROVIDER_MY_OWN_ID_CLIENT_ID": "x", "TMI_PROVIDER_MY_OWN_ID_ISSUER": "https://a.example",
        "TMI_PROVIDER_MY_OWN_ID_SCOPES": "openid, email  groups",
        "TMI_PROVIDER_MY_OWN_ID_ALLOWED_DOMAINS": "Example.org,example.com",
        "TMI_PROVIDER_MY_OWN_ID_NAME": "Ours", "TMI_PROVIDER_MY_OWN_ID_ICON": "fa-key",
    }).providers  # fmt: skip
    assert "my_own_id" == provider.id
    assert ("openid", "email", "groups") == provider.scopes
    assert ("example.org", "example.com") == provider.allowed_domains
    assert ("Ours", "fa-key") == (provider.name, provider.icon)


def test_a_secret_comes_from_a_file_too(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden\n")
    named = {
        "TMI_PROVIDER_GOOGLE_CLIENT_ID": "id",
        "TMI_PROVIDER_GOOGLE_CLIENT_SECRET_FILE": str(secret),
    }
    (google,) = read(named).providers
    assert google.client_secret is not None
    assert "hidden" == google.client_secret.get_secret_value()
    with pytest.raises(BadSetting, match="not both"):
        read(named, GOOGLE)
    with pytest.raises(BadSetting, match="can't be read"):
        read(named | {"TMI_PROVIDER_GOOGLE_CLIENT_SECRET_FILE": str(tmp_path / "none")})


def test_another_process_reads_the_same_providers(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    of_github = {
        "TMI_PROVIDER_GITHUB_CLIENT_ID": "id",
        "TMI_PROVIDER_GITHUB_CLIENT_SECRET_FILE": str(secret),
        "TMI_PROVIDER_GITHUB_ALLOWED_DOMAINS": "example.org,example.com",
    }
    of_corp = CORP | {"TMI_PROVIDER_CORP_TRUST_EMAILS": "true", "TMI_PROVIDER_CORP_NAME": "Our own, dear"}
    settings = read(GOOGLE, MICROSOFT, of_corp, of_github)
    told = as_environment(settings, GOOGLE | {"PATH": "/bin"})
    assert settings.providers == read_settings(PUBLIC, told).providers
    assert "TMI_PROVIDER_GITHUB_CLIENT_SECRET_FILE" not in told
    assert "TMI_PROVIDERS" not in told


def test_a_secret_is_in_no_representation() -> None:
    settings = read(GOOGLE)
    assert "hidden" not in repr(settings) + str(settings.model_dump()) + str(describe_settings())


BAD = [
    ({}, CORP, {"public_url": None}, "TMI_PUBLIC_URL"),
    ({}, CORP, {"public_url": "http://tmi.example.org"}, "TMI_PUBLIC_URL has to be https"),
    ({}, CORP, {"public_url": "http://127.0.0.1:8080"}, "TMI_PUBLIC_URL has to be https"),
    ({"TMI_PROVIDER_CORP_ISSUER": ""}, CORP, {}, "TMI_PROVIDER_CORP_ISSUER"),
    ({"TMI_PROVIDER_CORP_ISSUER": "http://login.example.org"}, CORP, {}, "TMI_PROVIDER_CORP_ISSUER"),
    ({"TMI_PROVIDER_CORP_ISSUER": "http://login.example.org"}, CORP, {"dev": True}, "has to be https"),
    ({"TMI_PROVIDER_CORP_ISSUER": "http://127.0.0.1:1"}, CORP, {}, "has to be https"),
    ({"TMI_PROVIDER_CORP_ISSUER": "login.example.org"}, CORP, {}, "TMI_PROVIDER_CORP_ISSUER"),
    ({"TMI_PROVIDER_CORP_ISSUER": "https://u:p@login.example.org"}, CORP, {}, "TMI_PROVIDER_CORP_ISSUER"),
    (
        {"TMI_PROVIDER_CORP_ISSUER": "https://a.example/.well-known/openid-configuration"}, CORP, {},
        "leave /.well-known/openid-configuration out",
    ),
    ({"TMI_PROVIDER_CORP_CLIENT_ID": ""}, CORP, {}, "TMI_PROVIDER_CORP_CLIENT_ID"),
    ({"TMI_PROVIDER_CORP_CLIENT_SECRET": ""}, CORP, {}, "TMI_PROVIDER_CORP_CLIENT_SECRET"),
    ({"TMI_PROVIDER_CORP_KIND": "saml"}, CORP, {}, "TMI_PROVIDER_CORP_KIND"),
    ({"TMI_PROVIDER_CORP_TENANT": TENANT}, CORP, {}, "TMI_PROVIDER_CORP_TENANT"),
    ({"TMI_PROVIDER_CORP_SCOPES": "email"}, CORP, {}, "openid"),
    ({"TMI_PROVIDER_CORP_ALLOWED_DOMAINS": "@example.org"}, CORP, {}, "TMI_PROVIDER_CORP_ALLOWED_DOMAINS"),
    ({"TMI_PROVIDER_CORP_NAME": "a\nb"}, CORP, {}, "TMI_PROVIDER_CORP_NAME"),
    ({"TMI_PROVIDER_CORP_CLIENTSECRET": "hidden"}, CORP, {}, "TMI_PROVIDER_CORP_CLIENTSECRET"),
    ({"TMI_PROVIDER_CORP_ISSUER": "https://a.example"}, {}, {}, "TMI_PROVIDER_CORP_CLIENT_ID"),
    ({"TMI_PROVIDERS": "[]"}, {}, {}, "There is no setting TMI_PROVIDERS"),
    ({"TMI_PROVIDER_TMI_CLIENT_ID": "x"}, {}, {}, "taken"),
    ({"TMI_PROVIDER_GITHUB_CLIENT_ID": "x"}, {}, {}, "TMI_PROVIDER_GITHUB_CLIENT_SECRET"),
    ({"TMI_PROVIDER_GOOGLE_ISSUER": "https://a.example"}, GOOGLE, {}, "TMI_PROVIDER_GOOGLE_ISSUER"),
    ({"TMI_PROVIDER_GOOGLE_TRUST_EMAILS": "true"}, GOOGLE, {}, "TMI_PROVIDER_GOOGLE_TRUST_EMAILS"),
    ({"TMI_PROVIDER_GOOGLE_HOSTED_DOMAIN": "x"}, GOOGLE, {}, "TMI_PROVIDER_GOOGLE_HOSTED_DOMAIN"),
    ({"TMI_PROVIDER_MICROSOFT_TENANT": ""}, MICROSOFT, {}, "TMI_PROVIDER_MICROSOFT_TENANT"),
    ({"TMI_PROVIDER_MICROSOFT_TENANT": "common"}, MICROSOFT, {}, "TMI_PROVIDER_MICROSOFT_ALLOWED_TENANTS"),
    ({"TMI_PROVIDER_MICROSOFT_ALLOWED_TENANTS": TENANT}, MICROSOFT, {}, "leave"),
    (
        {
            "TMI_PROVIDER_MICROSOFT_TENANT": "organizations",
            "TMI_PROVIDER_MICROSOFT_ALLOWED_TENANTS": "contoso",
        },
        MICROSOFT, {}, "UUID",
    ),
    (
        {
            "TMI_PROVIDER_MICROSOFT_TENANT": "organizations",
            "TMI_PROVIDER_MICROSOFT_ALLOWED_TENANTS": "*",
            "TMI_PROVIDER_MICROSOFT_TRUST_EMAILS": "true",
        },
        MICROSOFT, {}, "TMI_PROVIDER_MICROSOFT_TRUST_EMAILS",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "given", "more", "expected"), BAD)
def test_a_bad_setting_stops_the_start_and_says_which(
    change: dict[str, str], given: dict[str, str], more: dict[str, object], expected: str
) -> None:
    with pytest.raises(BadSetting) as caught:
        read(given, change, **more)
    assert expected in str(caught.value)
    assert "hidden" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_provider_on_this_machine_will_do_in_development() -> None:
    local = CORP | {"TMI_PROVIDER_CORP_ISSUER": "http://127.0.0.1:9000"}
    (provider,) = read(local, dev=True, public_url="http://127.0.0.1:8080").providers
    assert "http://127.0.0.1:9000" == provider.address


@pytest.mark.parametrize(
    "callback",
    [
        "http://editor.example.org/cb", "https://a.example/cb#x", "https://a.example/#", "a.example/cb",
        "https://u@a.example/cb", "https:///cb", "javascript:alert(1)", "https://a.example/a b",
    ],
)  # fmt: skip
def test_a_callback_that_is_none_stops_the_start(monkeypatch: pytest.MonkeyPatch, callback: str) -> None:
    monkeypatch.setenv("TMI_CLIENT_CALLBACKS", callback)
    with pytest.raises(BadSetting, match="TMI_CLIENT_CALLBACKS"):
        read_settings({}, {"TMI_CLIENT_CALLBACKS": callback})


def test_callbacks_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "https://a.example/cb, http://127.0.0.1/cb,http://[::1]/"
    monkeypatch.setenv("TMI_CLIENT_CALLBACKS", text)
    settings = read_settings({}, {"TMI_CLIENT_CALLBACKS": text})
    assert ("https://a.example/cb", "http://127.0.0.1/cb", "http://[::1]/") == settings.client_callbacks
