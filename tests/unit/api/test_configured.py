"""Settings over REST: what is shown of them, what may be changed, and what clients are told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.rest import ADMINISTRATOR, RestClient, over_memory
from tmi.domain.configuration import CHANGEABLE, GivenSetting
from tmi.settings import SECRETS, read_settings, shown_settings

GIVEN = (
    GivenSetting("port", "8080", "int", "Where it listens.", False),
    GivenSetting("user_diagrams_max", "9", "int", "", True),
    GivenSetting("user_requests_per_min", "100", "int", "", False),
)


@pytest.fixture
async def rest() -> AsyncIterator[RestClient]:
    async with over_memory(given=GIVEN) as client:
        yield client


@pytest.fixture
async def admin(rest: RestClient) -> str:
    return await rest.sign_in(ADMINISTRATOR)


async def put(rest: RestClient, admin: str, key: str, value: str, kind: str = "int", **more: str) -> Any:
    body = {"value": value, "type": kind} | more
    return await rest.call("PUT", f"/admin/settings/{key}", admin, json_body=body)


async def shown(rest: RestClient, admin: str, key: str) -> Any:
    return (await rest.call("GET", f"/admin/settings/{key}", admin)).json


async def test_a_setting_says_where_its_value_comes_from(rest: RestClient, admin: str) -> None:
    def told(setting: Any) -> tuple[str, str, bool]:
        return setting["value"], setting["source"], setting["read_only"]

    assert ("8080", "config", True) == told(await shown(rest, admin, "port"))
    assert ("9", "environment", True) == told(await shown(rest, admin, "user_diagrams_max"))
    assert ("100", "config", False) == told(await shown(rest, admin, "user_requests_per_min"))
    assert ("0", "config", False) == told(await shown(rest, admin, "user_threat_models_max"))
    await put(rest, admin, "user_requests_per_min", "200", description="More")
    stored = await shown(rest, admin, "user_requests_per_min")
    assert ("200", "database", False) == told(stored)
    assert ("More", await rest.user_id(ADMINISTRATOR)) == (stored["description"], stored["modified_by"])
    listed = (await rest.call("GET", "/admin/settings", admin)).json
    assert sorted({*CHANGEABLE, "port"}) == [setting["key"] for setting in listed]
    assert stored in listed


async def test_a_changed_limit_holds_at_once_and_its_default_again_afterwards(
    rest: RestClient, admin: str
) -> None:
    alice = await rest.sign_in("alice")
    assert 200 == (await put(rest, admin, "user_threat_models_max", "1")).status
    body = {"name": "Shop"}
    made = [(await rest.call("POST", "/threat_models", alice, json_body=body)).status for _ in range(2)]
    assert [201, 403] == made
    path = "/admin/settings/user_threat_models_max"
    assert [204, 404] == [(await rest.call("DELETE", path, admin)).status for _ in range(2)]
    assert 201 == (await rest.call("POST", "/threat_models", alice, json_body=body)).status


async def test_what_the_environment_says_and_what_needs_a_restart_is_not_changed(
    rest: RestClient, admin: str
) -> None:
    pinned = await put(rest, admin, "user_diagrams_max", "1")
    assert (409, "TMI_USER_DIAGRAMS_MAX") == (
        pinned.status, pinned.json["error_description"].split("change ")[1].split()[0],
    )  # fmt: skip
    assert 409 == (await put(rest, admin, "port", "1")).status
    assert 404 == (await put(rest, admin, "made_up", "1")).status
    assert "9" == (await shown(rest, admin, "user_diagrams_max"))["value"]


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("user_requests_per_min", "-1", "int"),
        ("user_requests_per_min", "1.5", "int"),
        ("user_requests_per_min", "", "int"),
        ("user_requests_per_min", "\u0661", "int"),
        ("user_requests_per_min", "9007199254740992", "int"),
        ("user_requests_per_min", "5", "string"),
        ("user_requests_per_min", "5", "number"),
        ("default_theme", "pink", "string"),
        ("operator_name", "x" * 257, "string"),
        ("operator_name", "a\u0000b", "string"),
        ("Operator_name", "x", "string"),
        ("a" * 257, "x", "string"),
    ],
)
async def test_a_value_that_is_not_valid_is_refused(
    rest: RestClient, admin: str, key: str, value: str, kind: str
) -> None:
    assert 400 == (await put(rest, admin, key, value, kind)).status


async def test_a_change_is_in_the_audit_with_both_values(rest: RestClient, admin: str) -> None:
    await put(rest, admin, "user_requests_per_min", "200")
    entry = (await rest.call("GET", "/admin/audit/system", admin)).json["entries"][0]
    assert ("setting.changed", "user_requests_per_min", "100", "200") == (
        entry["field_path"],
        entry["change_summary"],
        entry["old_value_redacted"],
        entry["new_value_redacted"],
    )


async def test_there_is_nothing_to_encrypt_anew(rest: RestClient, admin: str) -> None:
    answer = await rest.call("POST", "/admin/settings/reencrypt", admin)
    assert (409, "conflict") == (answer.status, answer.json["error"])


async def test_clients_are_told_what_they_should_know_and_may_keep_it(rest: RestClient, admin: str) -> None:
    await put(rest, admin, "operator_name", "Example Ltd", "string")
    await put(rest, admin, "default_theme", "dark", "string")
    answer = await rest.call("GET", "/config")
    assert {
        "features": {
            "websocket_enabled": True,
            "saml_enabled": False,
            "webhooks_enabled": True,
            "timmy_enabled": False,
        },
        "operator": {"name": "Example Ltd"},
        "limits": {"max_file_upload_mb": 1, "max_diagram_participants": 100},
        "ui": {"default_theme": "dark"},
        "content_providers": [],
    } == answer.json
    assert "public, max-age=60" == answer.headers["Cache-Control"]


def test_no_secret_is_among_the_settings_that_are_shown(tmp_path: Path) -> None:
    secret = "s3cret-" + "x" * 20
    environment = {
        "TMI_DATABASE_URL": f"postgresql://u:{secret}@h/d",
        "TMI_METRICS_TOKEN": secret,
        "TMI_REDIS_URL": f"redis://u:{secret}@h",
        "TMI_WEBHOOK_KEY": secret * 2,
    }
    settings = read_settings({}, environment)
    listed = shown_settings(settings)
    assert set(SECRETS) == {name.removeprefix("TMI_").lower() for name in environment}
    assert not any(secret in repr(setting) or "***" in setting.value for setting in listed)
    assert not {*SECRETS} & {setting.key for setting in listed}
    shown = {setting.key: setting for setting in listed}
    assert ("8080", False) == (shown["port"].value, shown["port"].is_from_environment)
    assert {"true", "false"} >= {setting.value for setting in listed if setting.kind == "bool"}


def test_every_setting_that_can_be_changed_is_one_of_the_environment_with_its_default() -> None:
    shown = {setting.key: setting for setting in shown_settings(read_settings({}, {}))}
    for key, changeable in CHANGEABLE.items():
        assert changeable.check(shown[key].value, changeable.kind) == shown[key].value
        assert changeable.kind == shown[key].kind
