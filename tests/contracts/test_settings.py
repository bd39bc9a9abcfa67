"""The ports `SystemSettings` and `Preferences`."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tests.contracts.test_accounts import entry
from tmi.domain.configuration import StoredSetting
from tmi.domain.errors import Conflict, NotFound
from tmi.domain.ids import UserId


def setting(key: str, value: str, by: UserId | None = None) -> StoredSetting:
    return StoredSetting(key, value, "int", None, datetime.now(UTC), by)


async def test_settings_are_listed_by_key_each_with_its_last_value(ports: Ports) -> None:
    alice = await ports.user()
    await ports.settings.put(setting("b", "1"), entry())
    await ports.settings.put(setting("a", "1"), entry())
    stored = await ports.settings.put(setting("b", "2", alice.id), entry())

    assert [("a", "1", None), ("b", "2", alice.id)] == [
        (s.key, s.value, s.modified_by) for s in await ports.settings.all()
    ]
    assert stored == (await ports.settings.all())[1]


async def test_a_setting_that_nobody_changed_cannot_be_removed(ports: Ports) -> None:
    await ports.settings.put(setting("a", "1"), entry())
    await ports.settings.remove("a", entry())

    assert [] == list(await ports.settings.all())
    with pytest.raises(NotFound):
        await ports.settings.remove("a", entry())


async def test_preferences_are_created_once_and_replaced_at_will(ports: Ports) -> None:
    alice, bob = await ports.user("alice"), await ports.user("bob")
    assert await ports.preferences.get(alice.id) is None
    await ports.preferences.create(alice.id, '{"ux":{}}')
    with pytest.raises(Conflict):
        await ports.preferences.create(alice.id, "{}")
    assert '{"ux":{}}' == await ports.preferences.get(alice.id)
    await ports.preferences.put(alice.id, '{"ux":{"a":"\\u0000"}}')

    assert '{"ux":{"a":"\\u0000"}}' == await ports.preferences.get(alice.id)
    assert await ports.preferences.get(bob.id) is None


async def test_preferences_go_with_their_user(ports: Ports) -> None:
    alice = await ports.user()
    await ports.preferences.put(alice.id, "{}")
    await ports.accounts.delete(alice.id, entry())

    assert await ports.preferences.get(alice.id) is None
    with pytest.raises(NotFound):
        await ports.preferences.put(UserId(uuid4()), "{}")
