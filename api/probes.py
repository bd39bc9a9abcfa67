"""Health and figures, for those who keep the service running."""

import asyncio
import time
from datetime import UTC, datetime
from importlib.metadata import version

from quart import Blueprint, Response, request
from quart_schema import hide, operation_id, tag

from api import bodies, schemas
from api.context import base_url, public, services
from api.documented import operation
from api.headers import VERSION
from api.metrics import CONTENT_TYPE, Metrics, check_reader, together
from tmi.domain.errors import Draining, Unavailable
from tmi.domain.ports import Database

PING_GOOD_FOR_S = 1.0


class DatabasePing:
    """Asks the database at most once a second, however many ask us."""

    def __init__(self, database: Database, timeout_s: float) -> None:
        self._database = database
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._answered = False
        self._asked_at = -PING_GOOD_FOR_S

    async def answered(self) -> bool:
        """Whether the database answers, as of a second ago. Takes at most `timeout_s` or so."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= PING_GOOD_FOR_S:
                self._answered = await self._database.ping(self._timeout_s)
                self._asked_at = time.monotonic()
            return self._answered


def probe_routes(ping: DatabasePing) -> Blueprint:
    """The routes of probes."""
    routes = Blueprint("probes", __name__)

    @routes.get("/livez")
    @public
    @tag(["Health"])
    @operation_id("livez")
    @operation(answers={200: schemas.HealthAnswer})
    async def livez() -> Response:
        """Whether the process answers at all"""
        return bodies.answer(schemas.HealthAnswer(status="ok"))

    @routes.get("/readyz")
    @public
    @tag(["Health"])
    @operation_id("readyz")
    @operation(answers={200: schemas.HealthAnswer}, errors=(503,))
    async def readyz() -> Response:
        """Whether requests should come here

        A database that is away leaves the service ready: rooms in memory go on.
        """
        health = services().health
        if health.draining:
            raise Draining
        if not health.started:
            raise Unavailable("the service is starting")
        status = "ok" if await ping.answered() else "degraded: database"
        return bodies.answer(schemas.HealthAnswer(status=status))

    @routes.get("/")
    @public
    @tag(["General"])
    @operation_id("getApiInfo")
    @operation(answers={200: schemas.ApiInfo}, errors=(400,))
    async def info() -> Response:
        """What runs here, and how it is"""
        health = services().health
        is_well = health.started and await ping.answered()
        status = schemas.ApiStatus(code="ok" if is_well else "degraded", time=datetime.now(UTC))
        service = schemas.ServiceInfo(name="TMI", build=version("tmi"))
        document = schemas.Specification(version=VERSION, specification=f"{base_url()}/openapi.json")
        return bodies.answer(schemas.ApiInfo(status=status, service=service, api=document))

    return routes


def metrics_routes(metrics: Metrics, token: str | None) -> Blueprint:
    """The route of figures."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    @public
    @hide
    async def figures() -> Response:
        """Figures for Prometheus"""
        check_reader(request.remote_addr, request.headers, token)
        administration = services().administration
        text = metrics.text()
        if (name := administration.own_name) is not None:
            others, silent = await administration.figures_of_siblings()
            text = together({name: text.decode(), **others}, silent)
        return Response(text, content_type=CONTENT_TYPE)

    return routes
