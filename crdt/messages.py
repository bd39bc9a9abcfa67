"""What clients and rooms say to each other, whatever the protocol around it.

The bytes of an encoded message are the y-protocols encoding (`00 00 vb(sv)`, `00 01 vb(update)`,
`00 02 vb(update)`, `01 vb(awareness)`, `03`): a y-websocket frame is exactly such a body, and a Hocuspocus
frame is the same body behind a key. A room encodes a body once for all its clients.
"""

from tmi.domain.values import value


@value
class SyncStep1:
    """The sender's state vector: 'tell me what I lack'."""

    state_vector: bytes


@value
class SyncStep2:
    """The answer to a SyncStep1: an update that may carry anybody's edits."""

    update: bytes


@value
class Update:
    """An edit that the sender made (Yjs v1 encoding)."""

    update: bytes


@value
class Awareness:
    """Encoded awareness entries, not parsed yet."""

    data: bytes


@value
class QueryAwareness:
    """'Send me everybody's awareness.'"""


Message = SyncStep1 | SyncStep2 | Update | Awareness | QueryAwareness
