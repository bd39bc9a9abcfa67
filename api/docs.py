"""The OpenAPI document, and a page to read it that asks no other host for anything."""

import inspect
from collections.abc import Callable
from copy import deepcopy
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from quart import Blueprint, Response, send_from_directory
from quart_schema import (
    DataSource,
    HttpSecurityScheme,
    Info,
    License,
    OpenAPIProvider,
    QuartSchema,
    Tag,
    hide,
)
from werkzeug.routing.converters import BaseConverter
from werkzeug.routing.rules import Rule

from api import common_answers, webhook_calls
from api.context import is_public, public
from api.documented import OPERATION
from api.headers import VERSION
from api.links import add_links
from api.schemas.base import MAX_KEY, PROVIDER_ID, SETTING_KEY
from tmi.domain.errors import NotFound

OPENAPI_VERSION = "3.1.0"

routes = Blueprint("docs", __name__)

_ASSETS_DIR = files("swagger_ui") / "static"
"""Swagger UI 5, which renders OpenAPI 3.1."""
_ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>TMI's REST API</title>
  <link rel="stylesheet" href="/docs/swagger-ui.css">
  <link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
  <div id="swagger-ui"></div>
  <script src="/docs/swagger-ui-bundle.js"></script>
  <script src="/docs/page.js"></script>
</body>
</html>
"""
# Without `validatorUrl: null` Swagger UI asks a validator on the Internet for a badge.
_SCRIPT = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout"
});
"""


@routes.get("/docs")
@public
@hide
async def page() -> Response:
    """The page."""
    headers = {"Content-Security-Policy": _POLICY}
    return Response(_PAGE, headers=headers, content_type="text/html; charset=utf-8")


@routes.get("/docs/page.js")
@public
@hide
async def script() -> Response:
    """What starts Swagger UI; a file of its own, since the policy allows no inline scripts."""
    return Response(_SCRIPT, content_type="text/javascript; charset=utf-8")


@routes.get("/docs/<name>")
@public
@hide
async def asset(name: str) -> Response:
    """A file of Swagger UI. Raises NotFound."""
    if name not in _ASSETS:
        raise NotFound
    return await send_from_directory(Path(str(_ASSETS_DIR)), name, mimetype=_ASSETS[name], cache_timeout=3600)


class ContractProvider(OpenAPIProvider):
    """Speaks OpenAPI 3.1 with the contract's operation ids, media types, UUIDs, security and errors."""

    _answers: ClassVar[dict[tuple[type[Any], type[Any] | None], tuple[dict[str, Any], dict[str, Any]]]] = {}

    def schema(self) -> dict[str, Any]:
        """The whole document."""
        document: dict[str, Any] = {**super().schema(), "openapi": OPENAPI_VERSION}
        document["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
        schemas = document["components"]["schemas"]
        for operations in document["paths"].values():
            for operation in operations.values():
                _complete_answers(operation, schemas)
        document["components"].update(common_answers.components())
        add_links(document)
        schemas.update(webhook_calls.components())
        document["webhooks"] = webhook_calls.calls()
        without: dict[str, Any] = _without_empty_defaults(document)
        return without

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """One rule's operations."""
        view = self._app.view_functions[rule.endpoint]
        paths, components = super().build_paths(rule)
        extra = getattr(view, OPERATION, {"media_types": (), "bodiless": (), "produces": ()})
        for operations in paths.values():
            for operation in operations.values():
                _complete(operation, extra, needs_sign_in=not is_public(view))
                _bound_key(operation, rule.rule)
        return paths, components

    def build_request_body(
        self, model: type[Any], source: DataSource
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A request's body, its schema by name."""
        body, components = super().build_request_body(model, source)
        return body, {**components, **_named(body, model.__name__)}

    def build_response_object(
        self, model: type[Any], headers_model: type[Any] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """An answer, its schema by name; made once, since most answers are the same few errors."""
        known = self._answers.get((model, headers_model))
        if known is None:
            answer, components = super().build_response_object(model, headers_model)
            known = self._answers[model, headers_model] = (
                answer, {**components, **_named(answer, model.__name__)}
            )  # fmt: skip
        return deepcopy(known)

    def build_querystring_parameters(
        self, model: type[Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Parameters; whether they are required, and how lists of values are written."""
        parameters, components = super().build_querystring_parameters(model)
        required = {name for name, field in model.model_fields.items() if field.is_required()}
        for parameter in parameters:
            parameter["required"] = parameter["name"] in required
            parameter["schema"] = _without_null(parameter["schema"])
            for word in ("style", "explode"):
                if word in parameter["schema"]:
                    parameter[word] = parameter["schema"].pop(word)
        return parameters, components

    def build_headers_parameters(self, model: type[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """A request's headers, written as usual."""
        parameters, components = super().build_headers_parameters(model)
        named = [
            {**one, "name": one["name"].title(), "schema": _without_null(one["schema"])} for one in parameters
        ]
        return named, components

    def build_path_parameter(self, name: str, converter: BaseConverter) -> dict[str, Any]:
        """A path's ids are UUIDs."""
        parameter = super().build_path_parameter(name, converter)
        if name.endswith(("_id", "_uuid")):
            parameter["schema"] = {"type": "string", "format": "uuid"}
        elif name == "idp":
            parameter["schema"] = {"type": "string", "maxLength": 100, "pattern": PROVIDER_ID}
        return parameter

    def operation_id(self, method: str, path: str, func: Callable[..., Any]) -> str | None:
        """The contract's id, without the method in front."""
        name = super().operation_id(method, path, func)
        return None if name is None else name.removeprefix(f"{method.lower()}_")


def openapi() -> QuartSchema:
    """The extension that serves `/openapi.json`."""
    return QuartSchema(
        openapi_path=None,
        redoc_ui_path=None,
        scalar_ui_path=None,
        swagger_ui_path=None,
        conversion_preference="pydantic",
        openapi_provider_class=ContractProvider,
        info=Info(
            title="TMI",
            version=VERSION,
            description=inspect.cleandoc(
                """
                Threat models and their diagrams, edited live by many. This document covers REST; diagrams are
                edited over WebSockets, for which `POST /collab/tokens` gives a token and the addresses.
                """
            ),
            license=License(name="Apache-2.0", identifier="Apache-2.0"),
        ),
        tags=[
            Tag("General"),
            Tag("Sign-in"),
            Tag("Threat models"),
            Tag("Diagrams"),
            Tag("Live collaboration"),
            Tag("Audit trail"),
            Tag("Account"),
            Tag("Configuration"),
            Tag("Administration"),
            Tag("Webhooks"),
            Tag("Health"),
        ],
        security_schemes={"bearerAuth": HttpSecurityScheme(scheme="bearer", bearer_format="JWT")},
        security=[{"bearerAuth": []}],
    )


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """What a parameter may be: one without a value is left out, for its text would be a value."""
    some = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if len(some) != 1:
        return schema
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **some[0]}


def _without_empty_defaults(node: Any) -> Any:
    """Without `"default": null`, which pydantic writes for what may be left out, and which often is no value
    that may be given.
    """
    if isinstance(node, list):
        return [_without_empty_defaults(item) for item in node]
    if not isinstance(node, dict):
        return node
    is_empty = "default" in node and node["default"] is None and "properties" not in node
    return {
        key: _without_empty_defaults(value)
        for key, value in node.items()
        if not (is_empty and key == "default")
    }


def _named(holder: dict[str, Any], name: str) -> dict[str, Any]:
    """Put a reference in the place of the one schema of a body; returns the component that it refers to."""
    (content,) = holder["content"].values()
    component = {name: content["schema"]}
    content["schema"] = {"$ref": f"#/components/schemas/{name}"}
    return component


def _complete(operation: dict[str, Any], extra: dict[str, Any], *, needs_sign_in: bool) -> None:
    if not needs_sign_in:
        operation["security"] = []
    if "requestBody" in operation:
        (schema,) = operation["requestBody"]["content"].values()
        operation["requestBody"] = {
            "required": extra.get("needs_body", True),
            "content": dict.fromkeys(extra["media_types"], schema),
        }
    for status in extra["bodiless"]:
        operation["responses"][status] = {"description": HTTPStatus(status).phrase}
    for status, answer in operation["responses"].items():
        if extra.get("gives") and status < 400:
            answer["headers"] = common_answers.headers(*extra["gives"])
    if extra["produces"]:
        operation["responses"].setdefault(406, {})
        for status, response in operation["responses"].items():
            if status < 400 and "content" in response:
                response["content"] = _contents(response["content"], extra["produces"])
    is_counted = not operation.get("tags") or "Health" not in operation["tags"]
    # 400: whatever is asked for, the Host header may be none. 403: a session's cookie may come from a page of
    # others, or without its token.
    refused = (400, 403) if needs_sign_in else (400,)
    for status in (*refused, 405, 500, *((429, 503) if is_counted else ())):
        operation["responses"].setdefault(status, {})
    operation["responses"] = {
        str(status): common_answers.reference(status) or answer
        for status, answer in sorted(operation["responses"].items())
    }


def _bound_key(operation: dict[str, Any], rule: str) -> None:
    """What a key in the path may be: of a setting, or of metadata."""
    bounds = {"pattern": SETTING_KEY} if rule.startswith("/admin/settings/") else {}
    for parameter in operation.get("parameters", ()):
        if (parameter["name"], parameter["in"]) == ("key", "path"):
            parameter["schema"] = {"type": "string", "maxLength": MAX_KEY, **bounds}


def _contents(content: dict[str, Any], produces: tuple[str, ...]) -> dict[str, Any]:
    """Of an answer: what has no schema of its own is text."""
    ((_, as_json),) = content.items()
    text = {"schema": {"type": "string"}}
    structured = ("application/json", "application/yaml")
    return {name: as_json if name in structured else text for name in produces}


def _complete_answers(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Add the headers of the answers that are no errors."""
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            continue
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        named = schemas.get(schema.get("$ref", "").rpartition("/")[2], schema)
        usual = common_answers.success_headers(int(status), named)
        answer["headers"] = {**usual, **answer.get("headers", {})}
