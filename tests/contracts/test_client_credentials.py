"""The port `ClientCredentials`, and sign-ins that a credential began."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from tests.contracts.conftest import Ports
from tests.contracts.test_accounts import entry
from tmi.domain.errors import Forbidden, NotFound, Unauthenticated
from tmi.domain.ids import CredentialId, UserId
from tmi.domain.model import User
from tmi.domain.ports import AuditFilter, Page
from tmi.domain.sign_ins import Begun, ClientCredential, NewCredential, Refusal, Refused

HOUR = timedelta(hours=1)


async def made(
    ports: Ports, user: User, name: str = "ci", expires_at: datetime | None = None
) -> ClientCredential:
    new = NewCredential(f"tmi_cc_{name}", f"secret of {name}", name, None, expires_at)
    return await ports.client_credentials.create(user.id, new, None, entry())


async def test_a_client_that_knows_its_secret_is_its_user_and_any_other_is_nobody(ports: Ports) -> None:
    alice = await ports.user()
    credential = await made(ports, alice)
    authenticate = ports.client_credentials.authenticate

    found = await authenticate("tmi_cc_ci", "secret of ci")

    assert isinstance(found, ClientCredential)
    assert (credential.id, alice, True) == (found.id, found.user, found.is_active)
    assert Refused(Refusal.UNKNOWN, alice.id) == await authenticate("tmi_cc_ci", "secret of CI")
    assert Refused(Refusal.UNKNOWN) == await authenticate("tmi_cc_other", "secret of ci")


async def test_its_last_use_is_known(ports: Ports) -> None:
    alice = await ports.user()
    assert None is (await made(ports, alice)).last_used_at
    await ports.client_credentials.authenticate("tmi_cc_ci", "wrong")
    assert [None] == [c.last_used_at for c in (await ports.client_credentials.of_user(alice.id, PAGE))[0]]
    await ports.client_credentials.authenticate("tmi_cc_ci", "secret of ci")
    found, _ = await ports.client_credentials.of_user(alice.id, PAGE)
    assert found[0].last_used_at is not None
    assert timedelta(0) <= datetime.now(UTC) - found[0].last_used_at < timedelta(minutes=1)


PAGE = Page(10, 0)


async def test_an_expired_and_a_deactivated_one_are_refused_and_told_apart(ports: Ports) -> None:
    alice = await ports.user()
    soon = datetime.now(UTC) + timedelta(seconds=0.1)
    await made(ports, alice, "old", soon)
    off = await made(ports, alice, "off")
    changed, _ = await ports.client_credentials.set_active(alice.id, off.id, entry(), active=False)
    await asyncio.sleep(0.15)
    authenticate = ports.client_credentials.authenticate

    assert not changed.is_active
    assert Refused(Refusal.EXPIRED, alice.id) == await authenticate("tmi_cc_old", "secret of old")
    assert Refused(Refusal.ENDED, alice.id) == await authenticate("tmi_cc_off", "secret of off")

    changed, ended = await ports.client_credentials.set_active(alice.id, off.id, entry(), active=True)
    assert (True, []) == (changed.is_active, list(ended))
    assert isinstance(await authenticate("tmi_cc_off", "secret of off"), ClientCredential)


@pytest.mark.parametrize("how", ["delete", "deactivate"])
async def test_the_end_of_a_credential_is_that_of_what_it_began_and_of_nothing_else(
    ports: Ports, how: str
) -> None:
    alice = await ports.user()
    lost, kept = await made(ports, alice, "lost"), await made(ports, alice, "kept")
    begun = [
        await ports.sign_ins.start(alice.id, None, HOUR, Begun("job", credential=one.id))
        for one in (lost, lost, kept)
    ]
    person = await ports.sign_ins.start(alice.id, "token", HOUR)
    assert lost.id == begun[0].credential

    if how == "delete":
        ended = await ports.client_credentials.delete(alice.id, lost.id, entry())
    else:
        _, ended = await ports.client_credentials.set_active(alice.id, lost.id, entry(), active=False)

    assert {begun[0].id, begun[1].id} == set(ended)
    assert [None, None, begun[2], person] == [
        await ports.sign_ins.get(one.id) for one in (*begun, person)
    ]
    with pytest.raises(Unauthenticated):
        await ports.sign_ins.start(alice.id, None, HOUR, Begun(credential=lost.id))


async def test_none_begins_while_its_credential_goes(ports: Ports) -> None:
    alice = await ports.user()
    for n in range(5):
        credential = await made(ports, alice, f"c{n}")
        begun = Begun(credential=credential.id)
        starts = [ports.sign_ins.start(alice.id, None, HOUR, begun) for _ in range(3)]
        deletion = ports.client_credentials.delete(alice.id, credential.id, entry())
        await asyncio.gather(*starts, deletion, return_exceptions=True)
    assert ([], 0) == await ports.sign_ins.of_user(alice.id, PAGE)


async def test_a_sign_in_does_not_outlive_the_credential_that_began_it(ports: Ports) -> None:
    alice = await ports.user()
    soon = datetime.now(UTC) + timedelta(minutes=5)
    credential = await made(ports, alice, expires_at=soon)
    started = await ports.sign_ins.start(alice.id, None, HOUR, Begun(credential=credential.id))
    assert soon == started.expires_at


async def test_a_credential_of_one_user_begins_nothing_for_another(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    credential = await made(ports, alice)
    with pytest.raises(Unauthenticated):
        await ports.sign_ins.start(bob.id, None, HOUR, Begun(credential=credential.id))


async def test_a_user_has_so_many_and_no_more_also_at_once(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")

    async def create(n: int) -> ClientCredential:
        new = NewCredential(f"tmi_cc_{n}", "s", "n", None, None)
        return await ports.client_credentials.create(alice.id, new, 3, entry())

    answers = await asyncio.gather(*map(create, range(6)), return_exceptions=True)

    assert 3 == sum(isinstance(answer, Forbidden) for answer in answers)
    assert 3 == (await ports.client_credentials.of_user(alice.id, PAGE))[1]
    await made(ports, bob)


async def test_a_list_is_a_page_oldest_first(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    for name in ("a", "b", "c"):
        await made(ports, alice, name)
    await made(ports, bob, "d")
    found, total = await ports.client_credentials.of_user(alice.id, Page(2, 1))
    assert (["b", "c"], 3) == ([one.name for one in found], total)
    assert ([], 3) == await ports.client_credentials.of_user(alice.id, Page(2, 9))


async def test_of_another_user_and_of_nobody_nothing_is_found(ports: Ports) -> None:
    alice, bob = await ports.user(), await ports.user("bob")
    credential = await made(ports, alice)
    port = ports.client_credentials
    for user, key in ((bob.id, credential.id), (alice.id, CredentialId(uuid4()))):
        with pytest.raises(NotFound):
            await port.delete(user, key, entry())
        with pytest.raises(NotFound):
            await port.set_active(user, key, entry(), active=False)
    with pytest.raises(NotFound):
        await port.create(UserId(uuid4()), NewCredential("tmi_cc_x", "s", "n", None, None), None, entry())


async def test_each_change_is_in_the_audit_with_it(ports: Ports) -> None:
    alice = await ports.user()
    credential = await made(ports, alice)
    await ports.client_credentials.set_active(alice.id, credential.id, entry(), active=False)
    await ports.client_credentials.delete(alice.id, credential.id, entry())
    page = await ports.audit.page(AuditFilter(), 10, None, newer=False)
    assert 3 == page.total


async def test_an_account_takes_its_credentials_with_it(ports: Ports) -> None:
    alice = await ports.user()
    credential = await made(ports, alice)
    started = await ports.sign_ins.start(alice.id, None, HOUR, Begun(credential=credential.id))
    await ports.accounts.delete(alice.id, entry())
    assert None is await ports.sign_ins.get(started.id)
    assert Refused(Refusal.UNKNOWN) == await ports.client_credentials.authenticate(
        "tmi_cc_ci", "secret of ci"
    )
