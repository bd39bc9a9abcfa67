"""The REST application: routes, sign-in check, one shape of errors, headers."""

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import orjson
from quart import Quart, Response, request
from quart.routing import QuartRule
from quart.wrappers.base import BaseRequestWebsocket
from quart_schema import QuartSchema, hide
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter

from api import (
    admin,
    administration,
    authorization,
    browser,
    children,
    client_credentials,
    collab_tokens,
    collaboration,
    configured,
    cors,
    diagrams,
    discovery,
    docs,
    edge,
    event_stream,
    headers,
    me,
    metadata,
    oauth,
    preferences,
    providers,
    quotas,
    rates,
    revocation,
    rollback,
    sign_ins,
    threat_models,
    trail,
    webhook_quotas,
    webhooks,
)
from api.audit import Refusals
from api.bodies import JSON, problem_answer
from api.context import EXTENSION, HOST, Context, context, public, require_sign_in, scheme
from api.errors import INTERNAL, OAuthError, Problem, problem_of
from api.probes import DatabasePing, metrics_routes, probe_routes
from api.services import Services
from api.short_way import ShortWay
from tmi.domain.errors import BadInput, Expired, Forbidden, TmiError, TooManyRequests, Unauthenticated

log = logging.getLogger(__name__)

_STEPS_OF_SIGN_IN = frozenset({"/oauth2/authorize", browser.CALLBACK})
FINISH_WITHIN_S = 5.0
"""How long a stopping application waits for changes whose client has gone."""

_HTTP_PROBLEMS = {
    400: ("invalid_input", "The request is not valid."),
    404: ("not_found", "There is no such path."),
    405: ("method_not_allowed", "This path does not take that method."),
    408: ("request_timeout", "The request's body took too long to arrive."),
    413: ("payload_too_large", "The payload is larger than this service accepts."),
    415: ("unsupported_media_type", "This operation does not take that media type."),
}


class _Route(QuartRule):
    """A rule that requests are matched with, and no URL is made of.

    Werkzeug compiles two functions for making URLs of each rule: 60 of the 70 ms of CPU that it took to put
    the application with its 200 rules together. Where a later version compiles them elsewhere, this does
    nothing.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:  # noqa: ARG002
        def no_url(*_: object, **__: object) -> tuple[str, str]:
            raise NotImplementedError("no URL is made of a route here")

        return no_url


class RestApp(Quart):
    """Quart, except that no route depends on the Host header, or on bytes of a query that are no UTF-8.

    Quart looks at both before any handler runs, and would answer an odd one with 500. A path may say which
    version of the API it means, the only one.
    """

    url_rule_class = _Route

    @property
    def short_way(self) -> ShortWay:
        """Which answers what is read most, beside this application."""
        return ShortWay(self.extensions[EXTENSION])

    @property
    def refusals(self) -> Refusals:
        """Where refusals of this application are noted."""
        remembered: Context = self.extensions[EXTENSION]
        return remembered.refusals

    def is_offered(self, provider: str) -> bool:
        """Whether people who came by an identity provider are still let in."""
        remembered: Context = self.extensions[EXTENSION]
        return remembered.is_offered(provider)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        await super().__call__(edge.scope_without_version(scope), receive, send)

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Match the path and the method alone."""
        if request is None:
            return super().create_url_adapter(request)
        return self.url_map.bind(
            "localhost", url_scheme=request.scheme, default_method=request.method, path_info=request.path
        )


def create_app(services: Services) -> RestApp:
    """The ASGI application. Connects to nothing by itself."""
    app = RestApp("tmi", static_folder=None)
    app.config.update(
        MAX_CONTENT_LENGTH=services.options.max_body_bytes,
        BODY_TIMEOUT=services.options.body_timeout_s,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    # Redirects to tidier paths would only hide clients' mistakes.
    app.url_map.merge_slashes = False
    remembered = Context(services)
    app.extensions[EXTENSION] = remembered
    _add_documents(app)
    ping = DatabasePing(services.database, services.options.ping_timeout_s)
    for routes in (
        authorization.routes,
        providers.routes,
        oauth.routes,
        browser.routes,
        me.routes,
        sign_ins.routes,
        client_credentials.routes,
        revocation.routes,
        discovery.routes,
        admin.routes,
        threat_models.routes,
        diagrams.routes,
        children.child_routes(),
        metadata.metadata_routes(),
        trail.routes,
        rollback.routes,
        event_stream.routes,
        collab_tokens.routes,
        administration.routes,
        collaboration.routes,
        quotas.routes,
        webhook_quotas.routes,
        webhooks.routes,
        configured.routes,
        preferences.routes,
        docs.routes,
        probe_routes(ping),
    ):
        app.register_blueprint(routes)
    if services.metrics is not None:
        app.register_blueprint(metrics_routes(services.metrics, services.options.metrics_token))
    app.before_request(_require_a_host)
    app.before_request(rates.limit_address)
    app.before_request(cors.answer_preflight)
    app.before_request(require_sign_in)
    app.before_request(rates.limit_user)
    app.before_request(edge.check_media_types)
    # These run from the last to the first.
    app.after_request(edge.without_body_for_head)
    app.after_request(edge.with_request_id)
    app.after_request(rates.with_rate_headers)
    app.after_request(cors.with_cors_headers)
    app.after_request(_with_security_headers)
    app.register_error_handler(TmiError, _refused)
    app.register_error_handler(HTTPException, _http_refused)
    app.register_error_handler(Exception, _failed)

    @app.after_serving
    async def finish() -> None:
        await remembered.finish(FINISH_WITHIN_S)

    return app


def _add_documents(app: Quart) -> None:
    extension: QuartSchema = docs.openapi()
    extension.init_app(app)

    @functools.cache
    def document() -> bytes:
        return orjson.dumps(extension.openapi_provider.schema())

    making = asyncio.Lock()

    @app.get("/openapi.json")
    @public
    @hide
    async def openapi() -> Response:
        """This API in OpenAPI 3.1."""
        # It takes a second to make: elsewhere, and once.
        async with making:
            made = await asyncio.to_thread(document)
        return Response(made, 200, {"Content-Type": JSON})


async def _require_a_host() -> None:
    """Raises BadInput for a Host header that is none (RFC 9112, section 3.2)."""
    if any(host and not HOST.fullmatch(host) for host in request.headers.getlist("Host")):
        raise BadInput("the Host header is not valid")


async def _with_security_headers(response: Response) -> Response:
    hsts = context().services.options.hsts.headers(scheme())
    for name, value in {**headers.ALWAYS, **hsts}.items():
        response.headers.setdefault(name, value)
    return response


async def _refused(error: TmiError) -> Response:
    problem = problem_of(error)
    if problem is INTERNAL:
        return await _failed(error)
    if isinstance(error, Forbidden):
        context().refusals.refused("access.refused", error.summary)
    elif _is_failed_sign_in(error):
        context().refusals.refused("sign_in.refused", error.detail)
    return problem_answer(problem)


def _is_failed_sign_in(error: TmiError) -> bool:
    """Whether somebody tried to be let in, and was not. A token that has expired is the way of all tokens."""
    if isinstance(error, OAuthError):
        return error.code == "invalid_grant" or request.path in _STEPS_OF_SIGN_IN
    if isinstance(error, TooManyRequests):
        return request.path.startswith(rates.SIGN_IN)
    has_brought_something = "Authorization" in request.headers or "Cookie" in request.headers
    return isinstance(error, Unauthenticated) and not isinstance(error, Expired) and has_brought_something


async def _http_refused(error: HTTPException) -> Response:
    """Errors that the framework found: paths, methods, sizes."""
    status = error.code if error.code in _HTTP_PROBLEMS else 400
    if error.code is not None and error.code >= 500:
        return await _failed(error)
    code, description = _HTTP_PROBLEMS[status]
    allow = dict(error.get_headers()).get("Allow")
    return problem_answer(Problem(status, code, description, headers={"Allow": allow} if allow else {}))


async def _failed(error: Exception) -> Response:
    """A bug of ours: its traceback goes to the log, never to the client."""
    rule = request.url_rule.rule if request.url_rule is not None else "no route"
    log.error("%s %s failed (request %s)", request.method, rule, edge.request_id(), exc_info=error)
    return problem_answer(INTERNAL)
