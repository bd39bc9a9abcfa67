"""What the port is like before the service is ready."""

import socket
from contextlib import closing

from tmi.starting import UNSENT_MAX_BYTES, open_port


def test_the_kernel_takes_little_of_what_a_connection_is_sent() -> None:
    with closing(open_port("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listening.getsockname())
        listening.setblocking(True)
        accepted, _ = listening.accept()
        with accepted:
            accepted.setblocking(False)
            assert accepted.send(bytes(4 * UNSENT_MAX_BYTES)) <= 2 * UNSENT_MAX_BYTES
