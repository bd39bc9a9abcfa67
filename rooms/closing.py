"""Close codes of live sockets (RFC 6455, section 7.4; 4400 to 4499 are final for y-websocket 3.1)."""

SERVICE_RESTART = 1012
"""Come back: this node is draining or no longer owns the room."""
TRY_AGAIN_LATER = 1013
"""Come back: a part is away, or the writer was over a limit."""
BAD_FRAME = 4400
"""The client does not follow the protocol."""
SIGN_IN_ENDED = 4401
NO_LONGER_ALLOWED = 4403
DIAGRAM_DELETED = 4404
COLLABORATION_ENDED = 4410
"""The collaboration session whose ticket let the socket in is over."""
DOCUMENT_TOO_LARGE = 4413
INTERNAL_ERROR = 1011
