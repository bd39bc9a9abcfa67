"""Small documents as a measurement would leave them, with figures chosen by a test."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from bench.document import Document, ServerInfo, described
from bench.machine import Machine, Provenance
from bench.measuring import latency_curve
from bench.model import Run
from bench.report import summarise
from bench.scenarios.fanout import FanoutLoad

MACHINE = Machine("Processor", 2, 8 << 30, "Linux 6", [0.1, 0.2, 0.3])
SERVERS = {
    name: ServerInfo(f"{name} 1", ["/usr/bin/node", f"{name}.js"], "none")
    for name in ("tmi", "hocuspocus", "y-websocket")
}


def load(rate: float = 10, clients: int = 50) -> FanoutLoad:
    return FanoutLoad(clients=clients, writers=10, rate=rate, seconds=8)


def run(
    server: str,
    cpu_us: float,
    figures: Mapping[str, float] = MappingProxyType({}),
    of: FanoutLoad | None = None,
    faults: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Run:
    of = of or load()
    parameters = {
        "clients": of.clients, "writers": of.writers, "rate": of.rate, "edits_per_s": of.writers * of.rate,
        "seconds": of.seconds,
    }  # fmt: skip
    known = {"cpu_us": cpu_us, "p50_ms": 1.0, "p99_ms": 5.0} | dict(figures)
    curve = latency_curve([cpu_us / 1e4 * n for n in range(1, 101)])
    return Run(
        "fanout", of.label, server, parameters, known, {"latency": curve}, list(faults), list(remarks)
    )


def document(
    runs: Sequence[Run], loads: Sequence[FanoutLoad] = (), machine: Machine = MACHINE
) -> Document:
    loads = loads or [load()]
    command = ["fanout", "--json", "/home/somebody/out.json"]
    generator, versions = {"python": "3.11.7"}, {"Node": "20.1.2", "PostgreSQL": "18.3"}
    about = Provenance("2026-01-02T03:04:05+00:00", machine, "abc123", generator, command, versions)
    return Document(about, SERVERS, described(loads), list(runs), summarise(loads, runs))
