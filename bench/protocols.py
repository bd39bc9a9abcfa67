"""The two client protocols, as little of them as a client needs that edits and listens.

Both carry y-protocols messages: `00 00 vb(state vector)` asks, `00 01 vb(update)` answers, `00 02 vb(update)`
tells and `01 vb(...)` is presence. Hocuspocus puts the document's name before each and wants Auth first.
"""

from dataclasses import dataclass

from bench.yjs import EMPTY_STATE_VECTOR, Reader, var_bytes, var_uint

_ASK, _ANSWER, _TELL = b"\x00\x00", b"\x00\x01", b"\x00\x02"


@dataclass(frozen=True)
class Dialect:
    """How one client talks about one document on its socket."""

    prefix: bytes
    opening: bytes | None
    authority: str | None = None
    """Host and port by which the server knows itself, where it is connected to by an address instead. They
    are told in the header `Host`, and the certificate has to be the host's.
    """

    def ask(self, have: bytes = EMPTY_STATE_VECTOR) -> bytes:
        """Asks for everything, or for what lies beyond the state vector `have`."""
        return self.prefix + _ASK + var_bytes(have)

    def answer(self, update: bytes) -> bytes:
        return self.prefix + _ANSWER + var_bytes(update)

    def tell(self, update: bytes) -> bytes:
        return self.prefix + _TELL + var_bytes(update)

    def presence(self, client: int, clock: int, state: bytes = b"{}") -> bytes:
        """The state of `client`, JSON; `{}` is what a stock client sends on open and renews every 15 s."""
        entry = b"\x01" + var_uint(client) + var_uint(clock) + var_bytes(state)
        return self.prefix + b"\x01" + var_bytes(entry)

    @property
    def asked(self) -> bytes:
        """How a frame begins that asks this client for what the server lacks."""
        return self.prefix + _ASK

    @property
    def updates(self) -> tuple[bytes, bytes]:
        """How a frame begins that carries an update."""
        return self.prefix + _ANSWER, self.prefix + _TELL

    def update_in(self, frame: bytes) -> bytes | None:
        """The update that a frame carries, if it is such a frame. Raises `ValueError` where it is cut off."""
        head = next((start for start in self.updates if frame.startswith(start)), None)
        return None if head is None else Reader(frame[len(head) :]).chunk()

    @property
    def present(self) -> bytes:
        """How a frame begins that tells who is present."""
        return self.prefix + b"\x01"

    @property
    def answered(self) -> bytes:
        """How a frame begins that completes the first sync."""
        return self.prefix + _ANSWER


def y_websocket() -> Dialect:
    return Dialect(prefix=b"", opening=None)


def hocuspocus(document: str, token: str) -> Dialect:
    prefix = var_bytes(document.encode())
    auth = prefix + b"\x02\x00" + var_bytes(token.encode()) + var_bytes(b"4.8.0")
    return Dialect(prefix=prefix, opening=auth)
