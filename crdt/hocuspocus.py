"""The frames of @hocuspocus/provider 3.x and 4.x: `str key`, `varUint type`, payload.

The key is the document's name, or `name NUL session` when the client has several sessions of one document on
one socket; an answer carries the key that was asked with. Bodies here come without the key, so that a room
encodes one once: a frame is `prefix(key) + body`.
"""

from dataclasses import dataclass

from crdt.lib0 import Decoder, var_string
from crdt.messages import Awareness, Message, QueryAwareness
from crdt.y_websocket import read_sync
from tmi.domain.errors import BadFrame

MAX_KEY_BYTES = 512
"""A UUID, NUL and a session id fit many times over; keys are kept per socket."""


@dataclass(frozen=True, slots=True)
class Auth:
    """The client's answer to who it is; sent on connect and again when the server asks."""

    token: str
    version: str | None
    """The provider's version; older providers do not say."""


@dataclass(frozen=True, slots=True)
class Stateless:
    """An application's message to the server."""

    text: str


@dataclass(frozen=True, slots=True)
class BroadcastStateless:
    """A message that only a server may send."""

    text: str


@dataclass(frozen=True, slots=True)
class CloseDocument:
    """The client detaches this document from the socket."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Keepalive of 4.x, without key."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a Ping, without key."""


Payload = Message | Auth | Stateless | BroadcastStateless | CloseDocument | Ping | Pong


@dataclass(frozen=True, slots=True)
class Envelope:
    """One frame of a client."""

    key: str
    """Empty for Ping and Pong."""
    document: str
    """The document's name: the key up to a NUL."""
    message: Payload


PING = b"\x09"
PONG = b"\x0a"

_PING = Envelope("", "", Ping())
_PONG = Envelope("", "", Pong())
_QUERY = QueryAwareness()


def decode(frame: bytes) -> Envelope:
    """A client's frame. Raises BadFrame, also for messages that only a server sends."""
    if len(frame) == 1:
        if frame == PING:
            return _PING
        if frame == PONG:
            return _PONG
    decoder = Decoder(frame)
    key = decoder.read_var_string()
    if decoder.position > MAX_KEY_BYTES:
        raise BadFrame(f"a document key is longer than {MAX_KEY_BYTES} bytes")
    message = _read_message(decoder)
    if decoder.remaining():
        raise BadFrame("bytes follow the message")
    return Envelope(key, key.partition("\0")[0], message)


def _read_message(decoder: Decoder) -> Payload:
    kind = decoder.read_var_uint()
    if kind == 0:
        return read_sync(decoder)
    if kind == 1:
        return Awareness(decoder.read_var_bytes())
    if kind == 2:
        return _read_auth(decoder)
    if kind == 3:
        return _QUERY
    if kind == 5:
        return Stateless(decoder.read_var_string())
    if kind == 6:
        return BroadcastStateless(decoder.read_var_string())
    if kind == 7:
        return CloseDocument(decoder.read_var_string() if decoder.remaining() else "")
    raise BadFrame(f"clients do not send messages of type {kind}")


def _read_auth(decoder: Decoder) -> Auth:
    step = decoder.read_var_uint()
    if step != 0:
        raise BadFrame(f"clients do not send authentication messages {step}")
    token = decoder.read_var_string()
    return Auth(token, decoder.read_var_string() if decoder.remaining() else None)


def prefix(key: str) -> bytes:
    """What every frame about this key begins with."""
    return var_string(key)


def auth_request() -> bytes:
    """'Send your token again.'"""
    return b"\x02\x00"


def auth_denied(reason: str) -> bytes:
    return b"\x02\x01" + var_string(reason)


def authenticated(readonly: bool) -> bytes:
    return b"\x02\x02" + var_string("readonly" if readonly else "read-write")


def sync_status(accepted: bool) -> bytes:
    """Exactly one answers each SyncStep2 and Update: the provider counts them."""
    return b"\x08\x01" if accepted else b"\x08\x00"


def stateless(text: str) -> bytes:
    return b"\x05" + var_string(text)


def close_document(reason: str) -> bytes:
    return b"\x07" + var_string(reason)
