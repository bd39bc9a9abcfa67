"""Settings of the service over REST: what clients are told, and what administrators see and change.

A setting's key is the name of its environment variable in lower case without `TMI_`. Secrets are not in it.
"""

import re
from datetime import UTC, datetime

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import audit, bodies, schemas
from api.configuration import Configuration
from api.context import administrator, context, public, services
from api.documented import operation
from api.schemas.base import MAX_KEY, SETTING_KEY
from tmi.domain.configuration import CHANGEABLE, SIGNALED, StoredSetting
from tmi.domain.errors import BadInput, Conflict, NotFound
from tmi.domain.model import AuditEntry

routes = Blueprint("configured", __name__)

MIB = 1024 * 1024
CONFIG_MAX_AGE_S = 60
_KEY = re.compile(SETTING_KEY)
_CONTRACT_MAX = 100
"""More than so many megabytes or participants the contract's clients do not understand."""


@routes.get("/config")
@tag(["Configuration"])
@operation_id("getClientConfig")
@public
@operation(answers={200: schemas.ClientConfig}, errors=(503,))
async def client_config() -> Response:
    """Get what a client should know of this service"""
    config, options = services().configuration, services().options
    told = schemas.ClientConfig(
        features=schemas.ConfigFeatures(
            websocket_enabled=True,
            saml_enabled=False,
            webhooks_enabled=True,
            timmy_enabled=False,
        ),
        operator=schemas.ConfigOperator(
            name=config.value("operator_name") or None,
            contact=config.value("operator_contact") or None,
            jurisdiction=config.value("operator_jurisdiction") or None,
        ),
        limits=schemas.ConfigLimits(
            max_file_upload_mb=min(max(options.max_body_bytes // MIB, 1), _CONTRACT_MAX),
            max_diagram_participants=min(options.participants_max, _CONTRACT_MAX),
        ),
        ui=schemas.ConfigUi.model_validate({"default_theme": config.value("default_theme") or "auto"}),
        content_providers=[],
    )
    return bodies.answer(told, headers={"Cache-Control": f"public, max-age={CONFIG_MAX_AGE_S}"})


@routes.get("/admin/settings")
@tag(["Configuration"])
@operation_id("listSystemSettings")
@operation(answers={200: schemas.Settings}, errors=(401, 403, 503))
async def list_settings() -> Response:
    """List all settings but secrets, and where their values come from"""
    await administrator()
    config = await _fresh()
    return bodies.answer(schemas.Settings([_shown(config, key) for key in sorted(_keys(config))]))


@routes.get("/admin/settings/<key>")
@tag(["Configuration"])
@operation_id("getSystemSetting")
@operation(answers={200: schemas.Setting}, errors=(400, 401, 403, 404, 503))
async def get_setting(key: str) -> Response:
    """Get a setting"""
    await administrator()
    _check_key(key)
    config = await _fresh()
    if key not in _keys(config):
        raise NotFound("There is no such setting, or it is a secret.")
    return bodies.answer(_shown(config, key))


@routes.put("/admin/settings/<key>")
@tag(["Configuration"])
@operation_id("updateSystemSetting")
@operation(
    body=schemas.SettingUpdate,
    answers={200: schemas.Setting},
    errors=(400, 401, 403, 404, 409, 413, 415, 503),
)
async def put_setting(key: str) -> Response:
    """Change a setting while the service runs

    Limits, quotas and what clients are told can be changed; it holds on every node within a second. What the
    environment says cannot: 409.
    """
    admin = await administrator()
    _check_key(key)
    given = await bodies.read_model(schemas.SettingUpdate)
    config = await _fresh()
    if key not in CHANGEABLE:
        if key in config.given:
            raise Conflict("this setting cannot be changed while the service runs")
        raise NotFound("There is no such setting, or it is a secret.")
    if _is_pinned(config, key):
        raise Conflict(f"the environment says what this is: change TMI_{key.upper()} there")
    value = CHANGEABLE[key].check(given.value, given.type)
    setting = StoredSetting(
        key, value, given.type, given.description, datetime.now(UTC), admin.user.id
    )
    made = audit.entry("setting.changed", key, old=config.value(key), new=value)
    await context().to_the_end(_put(setting, made))
    return bodies.answer(_shown(config, key))


@routes.delete("/admin/settings/<key>")
@tag(["Configuration"])
@operation_id("deleteSystemSetting")
@operation(answers={204: None}, errors=(400, 401, 403, 404, 503))
async def delete_setting(key: str) -> Response:
    """Let a setting have its default again"""
    await administrator()
    _check_key(key)
    config = await _fresh()
    await context().to_the_end(_remove(key, audit.entry("setting.removed", key, old=_old(config, key))))
    return bodies.no_content()


@routes.post("/admin/settings/reencrypt")
@tag(["Configuration"])
@operation_id("reencryptSystemSettings")
@operation(answers={}, errors=(401, 403, 409, 503))
async def reencrypt() -> Response:
    """Encrypt stored settings anew

    This service stores no secrets among its settings, and encrypts none: always 409.
    """
    await administrator()
    raise Conflict("settings are not encrypted here: secrets come from the environment and are never stored")


async def _fresh() -> Configuration:
    """The settings as the database has them now: whoever administrates wants to see their own change."""
    config = services().configuration
    await config.reload()
    return config


def _keys(config: Configuration) -> set[str]:
    return set(config.given) | set(CHANGEABLE)


def _check_key(key: str) -> None:
    if len(key) > MAX_KEY or not _KEY.fullmatch(key):
        raise BadInput("a key has small letters, digits, dots and underscores")


def _is_pinned(config: Configuration, key: str) -> bool:
    given = config.given.get(key)
    return given is not None and given.is_from_environment


def _old(config: Configuration, key: str) -> str | None:
    stored = config.stored.get(key)
    return None if stored is None else stored.value


def _shown(config: Configuration, key: str) -> schemas.Setting:
    stored, given, changeable = config.stored.get(key), config.given.get(key), CHANGEABLE.get(key)
    is_pinned = _is_pinned(config, key)
    if changeable is not None and stored is not None and not is_pinned:
        return schemas.Setting(
            key=key,
            value=stored.value,
            type=stored.kind,
            description=stored.description or changeable.description,
            modified_at=stored.modified_at,
            modified_by=stored.modified_by,
            source="database",
            read_only=False,
        )
    described = changeable or given
    assert described is not None
    return schemas.Setting(
        key=key,
        value=config.value(key) if changeable is not None else config.given[key].value,
        type=described.kind,
        description=described.description or None,
        source="environment" if is_pinned else "config",
        read_only=is_pinned or changeable is None,
    )


async def _put(setting: StoredSetting, made: AuditEntry) -> None:
    await services().settings.put(setting, made)
    await _tell(made)


async def _remove(key: str, made: AuditEntry) -> None:
    await services().settings.remove(key, made)
    await _tell(made)


async def _tell(made: AuditEntry) -> None:
    audit.logged(made)
    await services().configuration.reload()
    await services().rooms.rights.settings_changed([SIGNALED])
