"""Questions between nodes: their bounds, their deadlines, and what goes wrong."""

import asyncio

import pytest

from rooms.nodes import control
from rooms.nodes.control import AT_ONCE_MAX, Answering, Asking, Json
from rooms.nodes.messages import CONTROL, Channel, Message, Question, Reply, decode, encode
from tmi.domain.errors import BadFrame, Conflict, DatabaseUnavailable, NotFound, TmiError, Unavailable


class Line:
    """An asker and an answerer, with the real encoding between them."""

    def __init__(self) -> None:
        self.asking = Asking(self._to_answerer)
        self.answering = Answering(self.answer, self._to_asker)
        self.error: BaseException | None = None
        self.wait_s = 0.0
        self.answered = 0
        self.told: Json = None

    async def answer(self, question: Json) -> Json:
        await asyncio.sleep(self.wait_s)
        self.answered += 1
        if self.error is not None:
            raise self.error
        return question if self.told is None else self.told

    def _to_answerer(self, channel: Channel, message: Message) -> None:
        ((number, question),) = decode(encode(channel, message))
        assert number == CONTROL
        assert isinstance(question, Question)
        self.answering.receive(question)

    def _to_asker(self, channel: Channel, message: Message) -> None:
        ((number, reply),) = decode(encode(channel, message))
        assert number == CONTROL
        assert isinstance(reply, Reply)
        self.asking.receive(reply)


async def test_many_questions_are_answered_each_with_its_own() -> None:
    line = Line()
    assert [*range(AT_ONCE_MAX)] == await asyncio.gather(
        *(line.asking.ask(n, 5) for n in range(AT_ONCE_MAX))
    )


@pytest.mark.parametrize("error", [NotFound("no"), Conflict("no"), DatabaseUnavailable("no")])
async def test_what_the_answerer_raises_is_raised_at_the_asker(error: TmiError) -> None:
    line = Line()
    line.error = error
    with pytest.raises(type(error), match="no"):
        await line.asking.ask({}, 5)


async def test_a_bug_of_the_answerer_is_told_without_particulars(caplog: pytest.LogCaptureFixture) -> None:
    line = Line()
    line.error = KeyError("secret")
    with pytest.raises(Unavailable) as raised:
        await line.asking.ask({}, 5)
    assert "secret" not in str(raised.value)
    assert "secret" in caplog.text


async def test_nobody_waits_longer_than_asked_and_late_answers_are_dropped() -> None:
    line = Line()
    line.wait_s = 0.05
    with pytest.raises(Unavailable, match="in time"):
        await line.asking.ask({}, 0.01)
    line.wait_s = 0
    assert {"a": 1} == await line.asking.ask({"a": 1}, 5)
    line.asking.receive(Reply(1, True, b"{}"))


async def test_more_questions_than_may_be_open_are_refused_at_both_ends() -> None:
    line = Line()
    line.wait_s = 0.05
    open_ = [asyncio.create_task(line.asking.ask(n, 5)) for n in range(AT_ONCE_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="too many"):
        await line.asking.ask({}, 5)
    refused: list[Message] = []
    line.answering._send = lambda _, message: refused.append(message)
    line.answering.receive(Question(1000, 5000, b"{}"))
    assert [False] == [reply.is_ok for reply in refused if isinstance(reply, Reply)]
    line.answering._send = line._to_asker
    await asyncio.gather(*open_)


async def test_a_lost_link_ends_every_question() -> None:
    line = Line()
    line.wait_s = 1
    asked = asyncio.create_task(line.asking.ask({}, 5))
    await asyncio.sleep(0.01)
    line.asking.close()
    with pytest.raises(Unavailable, match="gone"):
        await asked
    with pytest.raises(Unavailable, match="gone"):
        await line.asking.ask({}, 5)


async def test_what_is_too_large_or_no_json_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "QUESTION_MAX_BYTES", 1000)
    monkeypatch.setattr(control, "REPLY_MAX_BYTES", 1000)
    line = Line()
    with pytest.raises(BadFrame):
        line.answering.receive(Question(1, 1000, b" " * 1001))
    with pytest.raises(BadFrame):
        line.answering.receive(Question(1, 1000, b"{"))
    line.told = "x" * 1000
    with pytest.raises(Unavailable, match="too large"):
        await line.asking.ask({}, 5)
