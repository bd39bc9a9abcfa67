"""Who wants in at the same moment is looked up together, each of them once."""

import asyncio
from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest

from api.live.admission import Admission
from api.tokens import Tokens, new_signing_key
from persistence.memory.access import MemoryAccessControl
from persistence.memory.collaborations import MemoryTickets
from persistence.memory.store import MemoryStore
from tmi.domain.errors import Unauthenticated
from tmi.domain.ids import DiagramId, SignInId, UserId
from tmi.domain.ports import Entrant, Standing

ONE, TWO = UserId(UUID(int=1)), UserId(UUID(int=2))


class Counted(MemoryAccessControl):
    """Keeps what it was asked for."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.asked: list[list[Entrant]] = []

    async def standings(self, entrants: Sequence[Entrant]) -> Sequence[Standing]:
        self.asked.append(list(entrants))
        return await super().standings(entrants)


@pytest.mark.parametrize("users", [(ONE,), (ONE, ONE, TWO, ONE)])
async def test_each_is_asked_for_once_in_one_query(users: Sequence[UserId]) -> None:
    store = MemoryStore()
    access = Counted(store)
    admission = Admission(Tokens([new_signing_key()], "http://tmi.test"), access, MemoryTickets(store))
    sign_in, diagram = SignInId(uuid4()), DiagramId(uuid4())
    answers = await asyncio.gather(
        *(admission.member_and_model(user, sign_in, diagram) for user in users), return_exceptions=True
    )
    assert all(isinstance(answer, Unauthenticated) for answer in answers), answers
    distinct = [Entrant(user, sign_in, diagram) for user in dict.fromkeys(users)]
    assert [distinct] == access.asked


async def test_it_is_asked_as_long_as_somebody_waits() -> None:
    store = MemoryStore()
    access = MemoryAccessControl(store)
    admission = Admission(Tokens([new_signing_key()], "http://tmi.test"), access, MemoryTickets(store))
    were_asked = [admission.is_asked]
    asking = asyncio.create_task(admission.member_and_model(ONE, SignInId(uuid4()), DiagramId(uuid4())))
    await asyncio.sleep(0)
    were_asked.append(admission.is_asked)
    with pytest.raises(Unauthenticated):
        await asking
    await asyncio.sleep(0)
    assert [False, True, False] == [*were_asked, admission.is_asked]


@pytest.mark.parametrize("many", [2, 100])
async def test_who_comes_right_after_a_query_shares_the_next_one(many: int) -> None:
    store = MemoryStore()
    access = Counted(store)
    admission = Admission(Tokens([new_signing_key()], "http://tmi.test"), access, MemoryTickets(store))
    sign_in, diagram = SignInId(uuid4()), DiagramId(uuid4())

    async def come(number: int) -> None:
        with pytest.raises(Unauthenticated):
            await admission.member_and_model(UserId(UUID(int=number)), sign_in, diagram)

    await come(0)
    await asyncio.gather(*map(come, range(1, many + 1)))
    assert [1, many] == list(map(len, access.asked))
