"""Settings: read once from the environment, frozen, strict about names and values."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from pydantic import ValidationError

from tmi.domain.hosts import split_hosts
from tmi.domain.targets import Refused
from tmi.settings import BadSetting, Settings, as_environment, read_settings
from tmi.wiring.webhooks import webhook_targets

URL = "postgresql://tmi:hidden@db/tmi"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"TMI_{field.upper()}", raising=False)


def read(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    """The settings of an environment."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return read_settings({}, environment)


def test_without_any_variable_it_serves_on_loopback_with_an_embedded_database() -> None:
    settings = read_settings({}, {})
    assert ("127.0.0.1", 8080, None, False) == (
        settings.host,
        settings.port,
        settings.database_url,
        settings.dev,
    )


def test_a_variable_is_read_with_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2.5 == read(monkeypatch, TMI_DRAIN_S="2.5").drain_s


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMI_PORT", "1")
    assert 2 == read_settings({"port": 2}, {"TMI_PORT": "1"}).port


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        read_settings({}, {}).port = 1


def test_an_unknown_variable_stops_the_start_and_the_nearest_name_is_suggested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(BadSetting, match=r"^There is no setting TMI_DRAIN\. Did you mean TMI_DRAIN_S\?$"):
        read(monkeypatch, TMI_DRAIN="3")


def test_variables_of_others_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 8080 == read(monkeypatch, PORT="1", TMINUS="1").port


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TMI_PORT", "65536"),
        ("TMI_PORT", "http"),
        ("TMI_DRAIN_S", "-1"),
        ("TMI_DRAIN_S", "nan"),
        ("TMI_JOURNAL_MAX_BYTES", "0"),
        ("TMI_HEADS_MAX", "0"),
        ("TMI_OUTBOX_TOTAL_MAX_BYTES", "1000"),
        ("TMI_HANDSHAKES_MAX", "0"),
        ("TMI_AWARENESS_MAX_BYTES", "1023"),
        ("TMI_AWARENESS_MAX_BYTES", "262145"),
        ("TMI_PRESENCE_MAX_BYTES", "1048575"),
        ("TMI_PRESENCE_MAX_BYTES", "67108865"),
        ("TMI_LOG_LEVEL", "loud"),
        ("TMI_PUBLIC_URL", "tmi.example.org"),
        ("TMI_PUBLIC_URL", "ftp://tmi.example.org"),
        ("TMI_PUBLIC_URL", "https://tmi.example.org/below"),
        ("TMI_PUBLIC_URL", "https://user@tmi.example.org"),
        ("TMI_PUBLIC_URL", "https://tmi.example.org:port"),
        ("TMI_ALLOWED_ORIGINS", "https://a.example,*"),
        ("TMI_ADMINISTRATORS", "alice@example.org"),
        ("TMI_ADMINISTRATORS", "google:"),
        ("TMI_ADMINISTRATORS", "google:alice smith"),
        ("TMI_DATABASE_URL", ""),
        ("TMI_DATABASE_URL", "mysql://db/tmi"),
        ("TMI_DATABASE_URL", "postgresql://[db/tmi"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(BadSetting) as raised:
        read(monkeypatch, **{name: value})
    assert (True, 1) == (str(raised.value).startswith(f"{name}: "), len(str(raised.value).splitlines()))


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match=r"TMI_PORT: .*; TMI_DRAIN_S: "):
        read(monkeypatch, TMI_PORT="x", TMI_DRAIN_S="x")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://TMI.example.org/", "https://tmi.example.org"),
        ("https://tmi.example.org:443", "https://tmi.example.org"),
        ("http://tmi.example.org:8080", "http://tmi.example.org:8080"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_a_public_url_is_kept_as_browsers_write_an_origin(
    monkeypatch: pytest.MonkeyPatch, given: str, kept: str
) -> None:
    assert kept == read(monkeypatch, TMI_PUBLIC_URL=given).public_url


def test_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, TMI_ALLOWED_ORIGINS="https://a.example, http://b.example:8000")
    assert ("https://a.example", "http://b.example:8000") == settings.allowed_origins


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_development_is_for_loopback(host: str) -> None:
    assert read_settings({"dev": True, "host": host}, {}).dev


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "tmi.example.org", "127.0.0.1.example.org"])
def test_development_on_another_host_is_refused_unless_insecurity_is_asked_for(host: str) -> None:
    with pytest.raises(BadSetting, match="--dev-insecure-host"):
        read_settings({"dev": True, "host": host}, {})
    assert read_settings({"dev": True, "host": host, "dev_insecure_host": True}, {}).dev


def test_a_secret_may_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "url"
    file.write_text(f"{URL}\n")
    settings = read(monkeypatch, TMI_DATABASE_URL_FILE=str(file))
    assert settings.database_url is not None
    assert URL == settings.database_url.get_secret_value()


def test_a_secret_from_two_places_or_from_no_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"TMI_DATABASE_URL_FILE": str(tmp_path / "missing")}
    with pytest.raises(BadSetting, match=r"TMI_DATABASE_URL_FILE .* can't be read"):
        read(monkeypatch, **missing)
    with pytest.raises(BadSetting, match="not both"):
        read(monkeypatch, TMI_DATABASE_URL=URL, **missing)


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hidden" not in repr(read(monkeypatch, TMI_DATABASE_URL=URL))
    with pytest.raises(BadSetting) as raised:
        read(monkeypatch, TMI_DATABASE_URL="mysql://tmi:hidden@db/tmi")
    assert "hidden" not in str(raised.value)


def test_a_short_metrics_token_is_refused_and_a_long_one_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(BadSetting, match="TMI_METRICS_TOKEN: give at least 16 characters"):
        read(monkeypatch, TMI_METRICS_TOKEN="short")
    monkeypatch.delenv("TMI_METRICS_TOKEN")
    file = tmp_path / "token"
    file.write_text("a-token-of-some-length\n")
    token = read(monkeypatch, TMI_METRICS_TOKEN_FILE=str(file)).metrics_token
    assert token is not None
    assert "a-token-of-some-length" == token.get_secret_value()


def test_the_hard_limit_of_rooms_is_not_below_the_soft_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadSetting, match="TMI_ROOMS_HARD_MAX_BYTES"):
        read(monkeypatch, TMI_ROOMS_HARD_MAX_BYTES=str(512 * 1024 * 1024))


def test_administrators_are_named_by_provider_and_id_or_email(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, TMI_ADMINISTRATORS="tmi:alice@tmi.local, github:4711")
    assert ("tmi:alice@tmi.local", "github:4711") == settings.administrators


def test_another_process_reads_the_same_settings_from_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://tmi:secret@db/tmi\n")
    given = {
        "TMI_DATABASE_URL_FILE": str(secret), "TMI_ALLOWED_ORIGINS": "https://a.example,https://b.example",
        "TMI_DATA_DIR": "/srv/tmi", "PATH": "/bin",
    }  # fmt: skip
    monkeypatch.setenv("TMI_ALLOWED_ORIGINS", given["TMI_ALLOWED_ORIGINS"])
    monkeypatch.setenv("TMI_DATA_DIR", given["TMI_DATA_DIR"])
    settings = read_settings({"dev": True, "port": 1234}, given)
    told = as_environment(settings, given, node_name="n/worker-1", node_url=None)
    assert "/bin" == told["PATH"]
    assert "TMI_DATABASE_URL_FILE" not in told
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    again = read_settings({}, told)
    assert settings.model_dump() | {"node_name": "n/worker-1"} == again.model_dump()


SEVERAL = {"TMI_WORKERS": "4", "TMI_REDIS_URL": "redis://redis/0"}


@pytest.mark.parametrize(
    ("environment", "what_to_do"),
    [
        ({"TMI_WORKERS": "2", "TMI_NODE_URL": "ws://10.0.0.5:0"}, "set that as well, or leave it out"),
        ({"TMI_WORKERS": "2", "TMI_NODE_LISTEN": "10.0.0.5:0"}, "set that as well, or leave it out"),
        ({**SEVERAL, "TMI_NODE_LISTEN": "unix:/run/tmi.sock"}, "give TMI_NODE_LISTEN a host and a port"),
        ({**SEVERAL, "TMI_NODE_LISTEN": "10.0.0.5:7946"}, "like 10.0.0.5:7946-7949, or port 0"),
        ({**SEVERAL, "TMI_NODE_LISTEN": "10.0.0.5:7946-7948"}, "like 10.0.0.5:7946-7949, or port 0"),
        ({**SEVERAL, "TMI_NODE_URL": "ws://10.0.0.5:7946"}, "give TMI_NODE_URL port 0"),
        ({**SEVERAL, "TMI_NODE_URL": "ws://10.0.0.5"}, "give TMI_NODE_URL port 0"),
        ({"TMI_NODE_LISTEN": "unix:/run/tmi.sock", "TMI_NODE_URL": "ws://10.0.0.5:7946"}, "set one"),
        ({"TMI_NODE_LISTEN": "10.0.0.5:7949-7946"}, "give a host and a port"),
        ({"TMI_NODE_LISTEN": "10.0.0.5:7946-70000"}, "give a host and a port"),
        ({"TMI_NODE_LISTEN": "10.0.0.5:7946-"}, "give a host and a port"),
    ],
)
def test_places_for_nodes_that_contradict_each_other_are_refused_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], what_to_do: str
) -> None:
    with pytest.raises(BadSetting, match=what_to_do):
        read(monkeypatch, **environment)


@pytest.mark.parametrize(
    "environment",
    [
        {**SEVERAL},
        {**SEVERAL, "TMI_NODE_LISTEN": "10.0.0.5:0"},
        {**SEVERAL, "TMI_NODE_LISTEN": "[fd00::5]:7946-7949"},
        {**SEVERAL, "TMI_NODE_LISTEN": "0.0.0.0:7946-7949", "TMI_NODE_URL": "ws://10.0.0.5:0"},
        {"TMI_WORKERS": "2"},
        {"TMI_NODE_LISTEN": "10.0.0.5:7946-7949", "TMI_REDIS_URL": "redis://redis/0"},
    ],
)
def test_places_for_nodes_that_fit_are_taken(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    assert int(environment.get("TMI_WORKERS", "1")) == read(monkeypatch, **environment).workers


@pytest.mark.parametrize(
    ("environment", "what_to_do"),
    [
        ({"TMI_REDIS_CLUSTER": "true"}, "set that too, or leave it out"),
        ({"TMI_REDIS_URL": "redis://a:6379,b:6379/0"}, "set TMI_REDIS_CLUSTER"),
        ({"TMI_REDIS_CLUSTER": "true", "TMI_REDIS_URL": "redis://a/1"}, "database 0 alone"),
        ({"TMI_REDIS_CLUSTER": "true", "TMI_REDIS_URL": "unix:///run/redis.sock"}, "reached by TCP"),
        ({"TMI_REDIS_CLUSTER": "true", "TMI_REDIS_URL": "redis://a,,b"}, "a host is empty"),
    ],
)
def test_a_redis_that_is_neither_one_server_nor_a_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], what_to_do: str
) -> None:
    with pytest.raises(BadSetting, match=what_to_do):
        read(monkeypatch, **environment)


def test_the_servers_of_a_cluster_are_told_apart() -> None:
    assert ("rediss://u:p@a:1/0?ssl_ca_certs=x", [("b", 2), ("::1", 3), ("c", None)]) == split_hosts(
        "rediss://u:p@a:1,b:2,[::1]:3,c/0?ssl_ca_certs=x"
    )
    assert ("redis://u:p%40,q@a", []) == split_hosts("redis://u:p%40,q@a")


def test_webhooks_keys_networks_and_ports_are_read_and_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("a" * 32 + "," + "b" * 32 + "\n")
    settings = read(
        monkeypatch,
        TMI_WEBHOOK_KEY_FILE=str(file),
        TMI_WEBHOOK_NETWORKS="10.1.0.0/16, fd00::/64",
        TMI_WEBHOOK_PORTS="443,9443",
    )
    assert ("a" * 32, "b" * 32) == settings.webhook_keys
    rules = webhook_targets(settings)
    assert (False, [443, 9443], 2) == (rules.allow_http, sorted(rules.ports), len(rules.networks))
    assert "aaaa" not in repr(settings)
    again = as_environment(settings, {})
    assert ("443,9443", "a" * 32 + "," + "b" * 32) == (again["TMI_WEBHOOK_PORTS"], again["TMI_WEBHOOK_KEY"])
    for variable, value in (
        ("TMI_WEBHOOK_KEY", "a" * 31),
        ("TMI_WEBHOOK_KEY", "a" * 32 + ","),
        ("TMI_WEBHOOK_NETWORKS", "10.1.0.1/16"),
        ("TMI_WEBHOOK_PORTS", "0"),
    ):
        monkeypatch.delenv("TMI_WEBHOOK_KEY_FILE", raising=False)
        with pytest.raises(BadSetting, match=variable):
            read(monkeypatch, **{variable: value})
        monkeypatch.delenv(variable)


def test_for_development_webhooks_may_lead_to_http_and_any_port_and_still_not_to_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = webhook_targets(read(monkeypatch, TMI_DEV="true"))
    assert 8080 == rules.target("http://hooks.example.org:8080/").port
    with pytest.raises(Refused):
        rules.target("http://localhost:8080/")
    with pytest.raises(Refused):
        rules.check([ip_address("127.0.0.1")])
