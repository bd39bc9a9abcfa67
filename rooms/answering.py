"""When those are answered who ask for the document, or for who is here, and what they pay for it.

Everybody is sent the document once; what somebody asks for again counts as their own. What takes more than
moments to find out, or much to send, is answered in turns: those of a session one after the other, and all
sessions and rooms by turns (`Ticker.paced`). Who asks again and again who is here is answered now and then.
"""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from crdt.merging import EMPTY_STATE_VECTOR
from crdt.messages import QueryAwareness, SyncStep1
from rooms import closing
from rooms.audience import Audience
from rooms.effects import Effect, Effects, Send, SendState, SessionNumber
from rooms.session import Session
from rooms.ticker import Ticker
from rooms.wires import LARGE_BYTES

_SLOW_BYTES = 16 * 1024
"""From this size on it takes more than moments to find out what somebody lacks of a document."""
_ASKING_MAX = 16
_QUERIED_S = 0.037
"""For so long one answer is enough for whoever asks who is here: about as often as cursors go out."""


class OpenQuestions(NamedTuple):
    """What a session still waits for."""

    asking: deque[SyncStep1] | None
    has_asked_again: bool
    """Who is here."""


class Answering:
    """The questions of one room's sessions."""

    __slots__ = ("_asking", "_queried", "_room", "_sessions", "_ticker")

    def __init__(self, room: Audience, sessions: Mapping[SessionNumber, Session], ticker: Ticker) -> None:
        self._room = room
        self._sessions = sessions
        self._ticker = ticker
        self._asking: dict[SessionNumber, deque[SyncStep1]] = {}
        """The SyncStep1s that wait for a turn of their session, which waits for one turn at a time."""
        self._queried: dict[SessionNumber, bool] = {}
        """Who was told of late who is here, and whether it has asked again since."""

    def question(self, number: SessionNumber, message: SyncStep1) -> None:
        """Somebody asks what it lacks."""
        session = self._sessions.get(number)
        if session is None:
            return
        asking = self._asking.get(number)
        if asking is None and not self._is_costly(session, message):
            self._answer(session, message)
        elif asking is None:
            self._asking[number] = deque((message,))
            self._wait_for_turn(session)
        elif len(asking) < _ASKING_MAX:
            asking.append(message)
        else:
            self._room.refusals["questions"] += 1
            reason = "too many requests for a large document"
            session.runner.end_session(number, closing.TRY_AGAIN_LATER, reason)

    def _is_costly(self, session: Session, message: SyncStep1) -> bool:
        is_simple = message.state_vector == EMPTY_STATE_VECTOR or session.peer.framing is None
        return self._room.document.bytes_estimate > (LARGE_BYTES if is_simple else _SLOW_BYTES)

    def _wait_for_turn(self, session: Session) -> None:
        # By then another runner may host the session.
        self._ticker.paced(self._room.diagram, lambda: session.runner.take_turn(session))

    def take_turn(self, session: Session) -> int:
        """Answer a session whose turn has come; how much that was, in bytes."""
        number = session.number
        asking = self._asking[number]
        size = sum(map(_size, self._answer(session, asking.popleft())))
        if not asking or number not in self._sessions:
            del self._asking[number]
        else:
            self._wait_for_turn(session)
        return size

    def _answer(self, session: Session, message: SyncStep1 | QueryAwareness) -> Effects:
        effects = session.runner.answer(session, message)
        if session.is_served or isinstance(message, QueryAwareness):
            session.peer.answered(sum(map(_size, effects)))
        else:
            session.is_served = True
        return effects

    def query(self, number: SessionNumber) -> None:
        """Somebody asks who is here."""
        session = self._sessions.get(number)
        if session is None:
            return
        if number in self._queried:
            self._queried[number] = True
            return
        self._remember_query(number, has_asked_again=False)
        self._answer(session, QueryAwareness())

    def _remember_query(self, number: SessionNumber, *, has_asked_again: bool) -> None:
        if not self._queried:
            self._ticker.at(self._ticker.now() + _QUERIED_S, self._answer_queries)
        self._queried[number] = has_asked_again

    def _answer_queries(self) -> None:
        """Answer those who have asked again."""
        queried, self._queried = self._queried, {}
        for number, has_asked_again in queried.items():
            if has_asked_again:
                self.query(number)

    def release(self, number: SessionNumber) -> OpenQuestions:
        """Another room goes on with a session: what it waits for."""
        return OpenQuestions(self._asking.pop(number, None), self._queried.pop(number, False))

    def take_over(self, number: SessionNumber, open_questions: OpenQuestions) -> None:
        """Go on with a session that another room has released. Its turn is waited for already."""
        if open_questions.asking is not None:
            self._asking[number] = open_questions.asking
        if open_questions.has_asked_again:
            self._remember_query(number, has_asked_again=True)


def _size(effect: Effect) -> int:
    if isinstance(effect, Send):
        return len(effect.body)
    return len(effect.base) + len(effect.later) if isinstance(effect, SendState) else 0
