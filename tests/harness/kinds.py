"""Every kind of client that must work unmodified, as specifications for the Node driver."""

from tests.harness.node import Spec

KINDS = (
    "y-websocket-2.1",
    "y-websocket-3.1",
    "hocuspocus-3.4",
    "hocuspocus-4.8",
    "hocuspocus-3.4-shared",
    "hocuspocus-4.8-shared",
    "hocuspocus-4.8-session",
)
"""`shared`: many documents on one socket; `session`: with session awareness, so one may be there twice."""


def spec_of(
    kind: str, name: str, collab: str, room: str, token: str, *, seed: int = 1, socket: str = "shared"
) -> Spec:
    """The specification of a client. y-websocket 3.1 asks for `saved` frames."""
    spec: Spec = {
        "client": name,
        "kind": kind.removesuffix("-shared").removesuffix("-session"),
        "url": collab,
        "room": room,
        "token": token,
        "seed": seed,
        "retry_ms": 100,
        "saved": kind == "y-websocket-3.1",
    }
    if kind.endswith("-shared"):
        spec["socket"] = f"{socket}-{kind}"
    if kind.endswith("-session"):
        spec["socket"] = f"{socket}-session"
        spec["session_awareness"] = True
    return spec
