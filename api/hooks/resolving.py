"""Names looked up by the system's resolver, which blocks: in threads of its own, and bounded.

A name whose servers do not answer keeps a thread for as long as the resolver likes, whoever has given up
waiting for it. So who asks for a name that is being looked up gets that answer, one name has one thread, and
a process that ends waits for none of them.
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a host, which may take a while; raises OSError."""

AT_ONCE = 64


def by_the_system(host: str, port: int) -> Sequence[str]:
    """The addresses of a host, as this machine resolves it."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class Resolver:
    """Looks names up."""

    def __init__(self, resolve: Resolve = by_the_system) -> None:
        self._resolve = resolve
        self._looking: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}

    async def addresses(self, host: str, port: int) -> Sequence[str]:
        """Raises OSError, also while too many names are being looked up; ValueError for what is no name."""
        answer = self._looking.get((host, port))
        if answer is None:
            if len(self._looking) >= AT_ONCE:
                raise OSError("too many names are being looked up")
            answer = self._look(host, port)
        return await asyncio.shield(answer)

    def _look(self, host: str, port: int) -> "asyncio.Future[Sequence[str]]":
        loop = asyncio.get_running_loop()
        answer = self._looking[host, port] = loop.create_future()

        def told(found: Sequence[str] | Exception) -> None:
            del self._looking[host, port]
            if isinstance(found, Exception):
                answer.set_exception(found)
                answer.exception()  # nobody may be waiting any more
            else:
                answer.set_result(found)

        def look() -> None:
            found: Sequence[str] | Exception
            try:
                found = self._resolve(host, port)
            except (OSError, ValueError) as error:
                found = error
            try:
                loop.call_soon_threadsafe(told, found)
            except RuntimeError:
                return  # the loop is closed, and nobody waits

        threading.Thread(target=look, name=f"resolving {host}", daemon=True).start()
        return answer
