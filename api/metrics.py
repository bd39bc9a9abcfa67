"""The service's figures for Prometheus: read from where they already are when somebody asks.

Nothing is counted here while clients are served: rooms and sockets keep plain numbers for their own use, and
a scrape adds them up, which visits every room and socket. Labels are bounded: only the largest rooms and the
busiest clients are named.

Who may read is told by `check_reader`: user and diagram ids are nobody else's business.
"""

import asyncio
import contextlib
import hmac
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import datetime
from heapq import nlargest
from ipaddress import ip_address
from itertools import accumulate

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeHistogramMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from werkzeug.datastructures import Headers

from api.live.sockets import Sockets, Swept
from rooms.memory import memory_of
from rooms.runner import RoomRunner
from rooms.service import Rooms
from tmi.domain.errors import Forbidden, Unauthenticated
from tmi.domain.webhooks import Backlog

TOP = 20
"""How many rooms and clients are named."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_KIB = 1024
_SIZES = tuple(_KIB * 4**power for power in range(10))
_LAG_EVERY_S = 0.5
_LAGS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_CODES = frozenset({*range(1000, 1016), *range(4400, 4420)})
_LOOPBACK_HOST = re.compile(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


class Metrics:
    """Everything that `/metrics` tells."""

    def __init__(self, rooms: Rooms, sockets: Sockets, database_connections: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Figures(rooms, sockets, database_connections))
        ProcessCollector(registry=self._registry)
        self._lag = Histogram(
            "tmi_loop_lag_seconds",
            "How late the event loop ran a timer, four times a second.",
            buckets=_LAGS_S,
            registry=self._registry,
        )

    def show_certificate(self, read: Callable[[], tuple[datetime, bool]]) -> None:
        """Tell of the port's TLS certificate: when it ends, and whether its files hold a broken one."""
        self._registry.register(_Certificate(read))

    def show_webhooks(self, read: Callable[[], tuple[Mapping[str, int], Backlog]]) -> None:
        """Tell what comes of webhooks' deliveries here, and what waits in the database."""
        self._registry.register(_Webhooks(read))

    def show_audit(self, left_out: Callable[[], int]) -> None:
        """Tell how many refusals the audit has only as a number."""
        text = "Refusals that came too fast for an audit entry of their own."
        self._registry.register(_Counted("tmi_audit_left_out", text, left_out))

    def show_events(self, read: Callable[[], tuple[int, int, Mapping[str, int]]]) -> None:
        """Tell of event streams: how many are open, how many were cut since their readers were too slow; and
        what became of notices to open editors.
        """
        self._registry.register(_Events(read))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Measure the loop's lag."""
        task = asyncio.create_task(self._measure_lag(), name="loop-lag")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)

    async def _measure_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_EVERY_S
            await asyncio.sleep(_LAG_EVERY_S)
            self._lag.observe(max(loop.time() - due, 0.0))


def together(texts: Mapping[str, str], silent: int) -> bytes:
    """The figures of several workers on one port as one answer, each with the label `worker`.

    A scrape reaches any of them, and has to tell the same whichever that is. `silent` ones are left out.
    """
    merged: dict[str, Metric] = {}
    for worker, text in texts.items():
        for family in text_string_to_metric_families(text):
            whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Read([*merged.values(), _gauge("tmi_workers_silent", "That did not answer.", silent)]))
    return generate_latest(registry)


class _Certificate(Collector):
    def __init__(self, read: Callable[[], tuple[datetime, bool]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        ends_at, is_stale = self._read()
        text = "When the TLS certificate in use ends, in seconds since 1970."
        yield _gauge("tmi_tls_certificate_expires_seconds", text, ends_at.timestamp())
        text = "1 while the files hold a TLS certificate that can't be used, and a former one stays."
        yield _gauge("tmi_tls_certificate_stale", text, is_stale)


class _Webhooks(Collector):
    def __init__(self, read: Callable[[], tuple[Mapping[str, int], Backlog]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        counts, backlog = self._read()
        known = dict.fromkeys(("delivered", "failed", "retried"), 0) | dict(counts)
        text = "Attempts to deliver to webhooks, by what came of them; failed: for good."
        yield _counters("tmi_webhook_attempts", text, "outcome", known)
        yield _gauge("tmi_webhook_pending", "Deliveries that wait, on all nodes, to 10,000.", backlog.pending)
        text = "How long the oldest delivery that waits has."
        yield _gauge("tmi_webhook_oldest_pending_seconds", text, backlog.oldest_s)


class _Events(Collector):
    def __init__(self, read: Callable[[], tuple[int, int, Mapping[str, int]]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        streams, cut, notices = self._read()
        yield _gauge("tmi_event_streams", "Streams of server-sent events that are open.", streams)
        yield _counter("tmi_event_streams_cut", "Streams that ended since their reader was too slow.", cut)
        text = "Events for open editors, each copy; missed: the editor read too slowly."
        yield _counters("tmi_editor_events", text, "outcome", notices)


class _Counted(Collector):
    def __init__(self, name: str, text: str, read: Callable[[], int]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterable[Metric]:
        yield _counter(self._name, self._text, self._read())


class _Read(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def check_reader(address: str | None, headers: Headers, token: str | None) -> None:
    """Raises Unauthenticated without the token where there is one, else Forbidden away from this machine.

    A proxy on this machine has a loopback address too. It is known by what it adds to a request or, where it
    adds nothing, by the Host it passes on; that also keeps pages away that rebind their name to this machine.
    """
    if token is not None:
        expected = f"Bearer {token}".encode()
        if not hmac.compare_digest(headers.get("Authorization", "").encode(), expected):
            raise Unauthenticated("the figures need the metrics token")
        return
    is_forwarded = any(name in headers for name in _FORWARDED)
    if is_forwarded or not _is_loopback(address) or not _LOOPBACK_HOST.fullmatch(headers.get("Host", "")):
        raise Forbidden("the figures are for this machine only; TMI_METRICS_TOKEN opens them to others")


def _is_loopback(address: str | None) -> bool:
    try:
        return ip_address(address or "").is_loopback
    except ValueError:
        return False


class _Figures(Collector):
    """What is read at each scrape."""

    def __init__(self, rooms: Rooms, sockets: Sockets, database_connections: Callable[[], int]) -> None:
        self._rooms = rooms
        self._sockets = sockets
        self._database_connections = database_connections

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's hook."""
        yield from self._of_rooms()
        yield from self._of_journal()
        yield from self._of_sockets()
        yield from self._of_limits()
        yield _gauge("tmi_tasks", "Tasks of the event loop.", len(asyncio.all_tasks()))
        yield _gauge("tmi_database_connections", "Connections to PostgreSQL.", self._database_connections())

    def _of_rooms(self) -> Iterator[Metric]:
        rooms = self._rooms
        runners = list(rooms.runners)
        yield _gauge("tmi_rooms", "Rooms in memory.", len(runners))
        yield _gauge("tmi_replicas", "Rooms of other nodes that are followed here.", rooms.replicas)
        yield _gauge("tmi_rooms_memory_bytes", "What rooms take, by estimate.", rooms.memory_bytes)
        yield _gauge("tmi_sessions", "Sessions in all rooms.", rooms.sessions)
        yield _distribution(
            "tmi_room_document_bytes",
            "Encoded size of the rooms' documents, by estimate.",
            [runner.room.document.bytes_estimate for runner in runners],
        )
        largest = nlargest(TOP, runners, key=memory_of)
        for name, text, figure in _OF_A_ROOM:
            family = GaugeMetricFamily(f"tmi_top_room_{name}", text, labels=["diagram"])
            for runner in largest:
                family.add_metric([str(runner.room.diagram)], figure(runner))
            yield family

    def _of_journal(self) -> Iterator[Metric]:
        rooms, journal = self._rooms, self._rooms.journal
        yield _gauge("tmi_journal_buffered_bytes", "Edits applied and not committed.", journal.buffered_bytes)
        yield _gauge("tmi_journal_commits_in_flight", "Group commits under way.", journal.in_flight)
        yield _gauge("tmi_journal_shedding", "1 while writers are refused.", journal.shedding)
        yield _gauge("tmi_database_away", "1 while the database does not answer.", journal.database_away)
        yield _counter("tmi_journal_commits", "Group commits.", journal.commits)
        yield _counter("tmi_journal_rows", "Updates committed.", journal.rows)
        yield _counter("tmi_snapshots", "Snapshots written.", rooms.snapshots_taken)

    def _of_sockets(self) -> Iterator[Metric]:
        sockets = self._sockets
        everyone = list(sockets)
        queued = [socket.queued_bytes for socket in everyone]
        yield _gauge("tmi_sockets", "Live sockets.", len(everyone))
        yield _gauge("tmi_sockets_queued_bytes", "What waits for clients to read it.", sum(queued))
        stalled = sockets.outboxes
        yield _gauge("tmi_sockets_stalled", "Sockets whose clients do not read.", len(stalled))
        text = "What waits for clients that do not read; what they have in common once."
        yield _gauge("tmi_sockets_stalled_bytes", text, stalled.total_bytes)
        yield _counter("tmi_sockets_accepted", "Live sockets opened.", sockets.accepted)
        yield _counter("tmi_sockets_throttled", "Pauses of sockets over their rate.", sockets.throttles)
        yield _counter("tmi_faults", "Failures in handlers of sockets: bugs of TMI.", sockets.faults)
        for name, text, figure in _OF_A_CLIENT:
            family = GaugeMetricFamily(f"tmi_top_client_{name}", text, labels=["client", "user"])
            for socket in nlargest(TOP, everyone, key=figure):
                family.add_metric([str(socket.serial), str(socket.user or "")], figure(socket))
            yield family

    def _of_limits(self) -> Iterator[Metric]:
        rooms, sockets = self._rooms, self._sockets
        refused = sockets.refusals + rooms.refusals
        yield _counters("tmi_refusals", "What was refused, by limit.", "limit", refused)
        yield _counters("tmi_closes", "Close frames sent, by code.", "code", _by_code(sockets.closes))
        text = "Sessions that their rooms have ended, by code."
        yield _counters("tmi_sessions_ended", text, "code", _by_code(rooms.closes))
        yield _counter("tmi_rooms_evicted", "Idle rooms closed early for their memory.", rooms.evictions)


_OF_A_ROOM: tuple[tuple[str, str, Callable[[RoomRunner], int]], ...] = (
    ("memory_bytes", "What the largest rooms take, by estimate.", memory_of),
    ("document_bytes", "Encoded size, by estimate.", lambda runner: runner.room.document.bytes_estimate),
    ("clients", "Sessions.", lambda runner: runner.room.session_count),
    ("unsaved_edits", "Edits not committed.", lambda runner: runner.room.unsaved),
)
_OF_A_CLIENT: tuple[tuple[str, str, Callable[[Swept], int]], ...] = (
    ("edits", "Frames received from the busiest sockets.", lambda socket: socket.messages_in),
    ("bytes", "Payload received from the busiest sockets.", lambda socket: socket.bytes_in),
    ("queued_bytes", "What waits for the slowest readers.", lambda socket: socket.queued_bytes),
)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _by_code(closes: Mapping[int, int]) -> Mapping[str, int]:
    """By code; those that clients made up, and had echoed, are one."""
    codes: dict[str, int] = {}
    for code, count in closes.items():
        name = str(code) if code in _CODES else "other"
        codes[name] = codes.get(name, 0) + count
    return codes


def _distribution(name: str, text: str, values: Iterable[int]) -> Metric:
    """How many values are at most 1 KiB, 4 KiB and so on."""
    counts, total = [0] * (len(_SIZES) + 1), 0
    for value in values:
        total += value
        counts[next((place for place, size in enumerate(_SIZES) if value <= size), len(_SIZES))] += 1
    bounds = [*map(str, _SIZES), "+Inf"]
    return GaugeHistogramMetricFamily(
        name, text, buckets=list(zip(bounds, accumulate(counts), strict=True)), gsum_value=total
    )
