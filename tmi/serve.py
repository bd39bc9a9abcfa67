"""The life of the service: start, run until told to stop, drain, stop."""

import asyncio
import gc
import logging
import resource
import signal
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from enum import IntEnum

from api.forwarding import TrustedProxies
from tmi.listener import Listener, ListenerOptions
from tmi.settings import Settings
from tmi.starting import answering, open_port
from tmi.tls import Certificate
from tmi.wiring import Service, Worker, build

log = logging.getLogger(__name__)

CLOSE_S = 2.0
"""For closing handshakes, and for REST requests in flight."""


STACK_BYTES = 120 * 1024 * 1024


class Exit(IntEnum):
    """How the process ends."""

    OK = 0
    FAILED = 1
    BAD_SETTING = 2
    UNSAVED = 3


async def serve(settings: Settings, announce: Callable[[str], None], worker: Worker | None = None) -> Exit:
    """Run the service until SIGTERM or SIGINT; `announce` gets its URL when it is ready. A `worker` is one of
    several processes on its port, and signals mean that all of them end.

    Raises StartupError, DatabaseUnavailable or Conflict when it can't start.
    """
    _deepen_stack()
    stop = Stop()
    try:
        return await _serve(settings, stop, announce, worker)
    except asyncio.CancelledError:
        if not stop.came_early:
            raise
        log.info("stopped before it was ready")
        return Exit.OK


async def _serve(
    settings: Settings, stop: "Stop", announce: Callable[[str], None], worker: Worker | None
) -> Exit:
    async with AsyncExitStack() as stack:
        certificate = certificate_of(settings)
        if certificate is not None:
            await stack.enter_async_context(certificate.watched(settings.tls_check_s))
        if worker is None:
            listening = stack.enter_context(closing(open_port(settings.host, settings.port)))
            async with answering(listening, None if certificate is None else certificate.context):
                service = await stack.enter_async_context(build(settings, certificate=certificate))
        else:
            # Whoever comes meanwhile goes to those workers that are ready, or to their parent.
            service = await stack.enter_async_context(build(settings, worker, certificate))
            listening = stack.enter_context(
                closing(open_port(settings.host, settings.port, is_shared=True))
            )
        tls = None if certificate is None else certificate.for_next
        listener = await Listener.start(
            service.app, service.live, listening, listener_options(settings, tls), service.app.short_way
        )
        service.health.started = True
        _spare_the_collector()
        stop.waits_for_drain()
        announce(url_of(settings, listener.port))
        await first_of(stop.requested, service.taken_over, service.drain_requested)
        listener.stop_accepting()
        # Or the kernel would go on taking connections that nobody serves: whoever comes is refused at once.
        listening.close()
        if stop.requested.is_set():  # drained by command, a worker ends alone
            service.end_with_siblings()
        is_saved = await _drain(service, listener, settings)
    if not is_saved:
        return Exit.UNSAVED
    return Exit.FAILED if service.taken_over.is_set() else Exit.OK


def listener_options(settings: Settings, tls: Callable[[], ssl.SSLContext] | None) -> ListenerOptions:
    """What is set about connections. `tls`: see `ListenerOptions`."""
    return ListenerOptions(
        tls=tls,
        heads_max=settings.heads_max,
        handshakes_max=settings.handshakes_max,
        per_address_max=settings.connections_per_address_max,
        proxies=TrustedProxies(settings.trusted_proxies),
    )


async def _drain(service: Service, listener: Listener, settings: Settings) -> bool:
    """Take nobody in, send everybody away, commit everything. False if that could not be done in time.

    Where other nodes live, the rooms go there first, and the clients follow one by one.
    """
    log.info("draining")
    service.health.draining = True
    clock = asyncio.get_running_loop().time
    ends_at = clock() + settings.drain_s
    if service.rooms.successors():
        spread_s = min(settings.drain_spread_s, settings.drain_s)
        await asyncio.gather(
            service.rooms.hand_over_all(settings.drain_s), service.live.drain(CLOSE_S, spread_s)
        )
    left_s = max(ends_at - clock(), 0.0)
    unsaved, _ = await asyncio.gather(service.rooms.drain(left_s), service.live.drain(CLOSE_S))
    await listener.aclose(CLOSE_S)
    for diagram, count in unsaved.items():
        log.error("%d edits of room %s are unsaved", count, diagram)
    return not unsaved


def _deepen_stack() -> None:
    """Let the stack grow as far as the kernel lets it: yrs walks nested types by recursion.

    Measured with pycrdt 0.14.13: at 8 MiB a document of 20,000 nested types ended the process; with this,
    200,000 did not (the kernel keeps about 128 MiB of address space for a stack).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


def _spare_the_collector() -> None:
    """What was imported and built stays for good, so the garbage collector need not look at it again.

    Measured: a full collection stops an idle service for 74 ms before this, and for less than 0.1 ms after.
    """
    gc.collect()
    gc.freeze()
    # A full collection is due when a quarter of what the last one left has come anew: a quarter of nothing
    # now. Otherwise it was one of all that was just taken away, and cycles stayed for most of an hour.
    gc.collect()


def certificate_of(settings: Settings) -> Certificate | None:
    """The certificate of the settings, loaded. Raises StartupError."""
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate.load(settings.tls_cert_file, settings.tls_key_file)


def url_of(settings: Settings, port: int) -> str:
    """Where a port of the settings' host is reached."""
    scheme = "http" if settings.tls_cert_file is None else "https"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{scheme}://{host}:{port}"


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class Stop:
    """SIGTERM and SIGINT: they end a start at once, and a running service by a drain."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.came_early = False
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def waits_for_drain(self) -> None:
        """From now on a signal asks for a drain."""
        self._starting = None

    def _signalled(self) -> None:
        if self._starting is None:
            self.requested.set()
        elif not self.came_early:
            self.came_early = True
            self._starting.cancel()
