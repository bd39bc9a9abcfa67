"""Questions of one node, or of an operator's tool, to another one: on the link's channel 0, beside all rooms.

A question has a number, of the asker's choice, and a time after which nobody waits for its answer any more.
Both ends are bounded: so many questions at once, so many bytes each. What is asked and answered is JSON.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import orjson

from rooms.nodes.messages import CONTROL, Channel, Message, Question, Reply
from tmi.domain.errors import (
    BadFrame,
    BadInput,
    Conflict,
    DatabaseUnavailable,
    Draining,
    NotFound,
    TmiError,
    Unavailable,
)

log = logging.getLogger(__name__)

Json = Any
Answer = Callable[[Json], Awaitable[Json]]
"""Answers a question. A TmiError that it raises is raised at the asker's."""
Send = Callable[[Channel, Message], None]

AT_ONCE_MAX = 64
QUESTION_MAX_BYTES = 272 * 1024 * 1024
"""The body of the largest REST request that a setting allows, with what is around it: an edit may be that."""
REPLY_MAX_BYTES = 512 * 1024 * 1024
"""A whole diagram as JSON."""
PATIENCE_MAX_S = 60.0

_ERRORS: dict[str, type[TmiError]] = {
    kind.__name__: kind for kind in (BadInput, Conflict, DatabaseUnavailable, Draining, NotFound, Unavailable)
}


class Unanswered(Unavailable):
    """The node was asked, and nobody knows what it did."""


class Asking:
    """The asker's end."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._is_closed = False

    async def ask(self, question: Json, patience_s: float) -> Json:
        """The answer. Raises Unanswered when there is none in time, and whatever the other one raised;
        Unavailable where it was not asked.
        """
        if self._is_closed:
            raise Unavailable("the link to the node is gone")
        if len(self._waiting) >= AT_ONCE_MAX:
            raise Unavailable("too many questions to that node are open")
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(CONTROL, Question(number, round(patience_s * 1000), orjson.dumps(question)))
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError:
            raise Unanswered("the node does not answer in time") from None
        finally:
            del self._waiting[number]

    def receive(self, reply: Reply) -> None:
        """An answer has come. Raises BadFrame."""
        answer = self._waiting.get(reply.number)
        if answer is None or answer.done():
            return  # too late
        told = _decoded(reply.body)
        if reply.is_ok:
            answer.set_result(told)
        else:
            answer.set_exception(_error(told))

    def close(self) -> None:
        """The link is gone."""
        self._is_closed = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(Unanswered("the link to the node is gone"))


class Answering:
    """The other end. What a question has set off goes on when its link is gone, within the asker's time."""

    def __init__(self, answer: Answer, send: Send) -> None:
        self._answer = answer
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, question: Question) -> None:
        """Begin to answer. Raises BadFrame."""
        if len(question.body) > QUESTION_MAX_BYTES:
            raise BadFrame("a question is too large")
        asked = _decoded(question.body)
        if len(self._tasks) >= AT_ONCE_MAX:
            self._refuse(question, Unavailable("the node is asked too much at once"))
            return
        task = asyncio.create_task(self._work(question, asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, question: Question, asked: Json) -> None:
        try:
            async with asyncio.timeout(min(question.patience_ms / 1000, PATIENCE_MAX_S)):
                body = orjson.dumps(await self._answer(asked))
            if len(body) > REPLY_MAX_BYTES:
                raise Unavailable("the answer is too large: ask for less")
        except TimeoutError:
            return  # nobody waits any more
        except TmiError as error:
            self._refuse(question, error)
        except Exception:
            log.exception("a question of another node could not be answered")
            self._refuse(question, Unavailable("the node could not answer: its log says why"))
        else:
            self._send(CONTROL, Reply(question.number, True, body))

    def _refuse(self, question: Question, error: TmiError) -> None:
        known = next((kind for kind in type(error).__mro__ if kind.__name__ in _ERRORS), Unavailable)
        told = {"error": known.__name__, "detail": error.detail[:500]}
        self._send(CONTROL, Reply(question.number, False, orjson.dumps(told)))


def _decoded(body: bytes) -> Json:
    try:
        return orjson.loads(body)
    except ValueError:
        raise BadFrame("a control message is no JSON") from None


def _error(told: Json) -> TmiError:
    if not isinstance(told, dict):
        return Unavailable("the node's answer is not understood")
    return _ERRORS.get(str(told.get("error")), Unavailable)(str(told.get("detail", "")))
