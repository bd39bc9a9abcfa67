"""What a service says when a client meets one of its limits, and which setting of TMI that is."""

import json
from contextlib import suppress

from picows import WSHandshakeError

LIMITS = {
    "this address has too many connections": "TMI_SOCKETS_PER_ADDRESS_MAX",
    "this user has too many open documents": "TMI_DOCUMENTS_PER_USER_MAX",
    "this diagram has as many clients as it may": "TMI_CLIENTS_PER_ROOM_MAX",
    "this node has as many sockets as it may": "TMI_SOCKETS_MAX",
    "the open diagrams take all the memory they may": "TMI_ROOMS_HARD_MAX_BYTES",
    "too many edits wait for the database": "TMI_JOURNAL_MAX_BYTES",
    "too many edits; come back": "TMI_CLIENT_EDITS_PER_S or TMI_CLIENT_BYTES_PER_S",
    "this client does not read": "TMI_OUTBOX_MAX_BYTES",
    "too much waits for clients that do not read": "TMI_OUTBOX_TOTAL_MAX_BYTES",
    "this diagram has reached its size limit": "TMI_DOCUMENT_MAX_BYTES",
    "the message is too large": "TMI_FRAME_MAX_BYTES",
    "too many large messages are on their way": "TMI_PARTIAL_TOTAL_MAX_BYTES",
    "too many connections of this address": "TMI_CONNECTIONS_PER_ADDRESS_MAX",
    "sign-in requests of this address": "TMI_SIGN_IN_REQUESTS_PER_MIN",
    "requests of this address": "TMI_ADDRESS_REQUESTS_PER_MIN",
    "requests of this user": "TMI_USER_REQUESTS_PER_MIN or TMI_USER_REQUESTS_PER_HOUR",
}
"""TMI's words, and the setting that raises the limit. Of those that hold others the longer come first."""

ANY_OF = {
    429: "TMI_SOCKETS_PER_ADDRESS_MAX, TMI_DOCUMENTS_PER_USER_MAX or TMI_CLIENTS_PER_ROOM_MAX",
    503: "TMI_SOCKETS_MAX or TMI_ROOMS_HARD_MAX_BYTES, unless it is starting",
}
"""What it can be where the answer came without TMI's words."""


class Refused(ConnectionError):
    """A server did not let a client in; the text says why."""

    @classmethod
    def by(cls, handshake: WSHandshakeError) -> "Refused":
        """The status of the answer, and what TMI says in its body."""
        if handshake.response is None:
            return cls(str(handshake))
        status = handshake.response.status
        return cls._of(status.value, status.phrase, handshake.raw_body or b"")

    @classmethod
    def with_answer(cls, status_line: str, body: bytes) -> "Refused":
        """What the status line of an HTTP answer says, and TMI in the body."""
        _version, _, told = status_line.partition(" ")
        status, _, phrase = told.partition(" ")
        return cls._of(int(status), phrase, body) if status.isdecimal() else cls(f"no HTTP: {status_line!r}")

    @classmethod
    def _of(cls, status: int, phrase: str, body: bytes) -> "Refused":
        told = f"{phrase} (the service's limit {ANY_OF[status]})" if status in ANY_OF else phrase
        described = description(body)
        return cls(f"refused with {status}: {told if described is None else with_setting(described)}")


def description(body: bytes) -> str | None:
    """What an answer of TMI that is an error says."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["error_description"])
    return None


def with_setting(told: str) -> str:
    """What was said, and the setting to raise where it names a limit of TMI."""
    for words, setting in LIMITS.items():
        if words in told.lower():
            return f"{told} (the service's limit {setting})"
    return told
