"""The OpenAPI document, and a page to read it that asks no other host for anything."""

import inspect
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import swagger_ui_bundle  # type: ignore[import-untyped]
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

from api.context import is_public, public
from api.documented import OPERATION
from tmi.domain.errors import NotFound

OPENAPI_VERSION = "3.0.3"
"""The contract's version, and the newest that the bundled Swagger UI renders."""

CONTRACT_VERSION = "1.8.22"
"""The published TMI contract that this API follows."""

routes = Blueprint("docs", __name__)

_ASSETS_DIR = Path(str(swagger_ui_bundle.swagger_ui_path))
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
    return await send_from_directory(_ASSETS_DIR, name, mimetype=_ASSETS[name], cache_timeout=3600)


class ContractProvider(OpenAPIProvider):
    """Speaks OpenAPI 3.0 with the contract's operation ids, media types, UUIDs and security."""

    def schema(self) -> dict[str, Any]:
        """The whole document."""
        document: dict[str, Any] = {**super().schema(), "openapi": OPENAPI_VERSION}
        lowered: dict[str, Any] = to_openapi_3_0(document)
        return lowered

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """One rule's operations."""
        view = self._app.view_functions[rule.endpoint]
        paths, components = super().build_paths(rule)
        extra = getattr(view, OPERATION, {"media_types": (), "bodiless": ()})
        for operations in paths.values():
            for operation in operations.values():
                _complete(operation, extra, needs_sign_in=not is_public(view))
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
        """An answer, its schema by name."""
        answer, components = super().build_response_object(model, headers_model)
        return answer, {**components, **_named(answer, model.__name__)}

    def build_querystring_parameters(
        self, model: type[Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Parameters; whether they are required, and how lists of values are written."""
        parameters, components = super().build_querystring_parameters(model)
        required = {name for name, field in model.model_fields.items() if field.is_required()}
        for parameter in parameters:
            parameter["required"] = parameter["name"] in required
            for word in ("style", "explode"):
                if word in parameter["schema"]:
                    parameter[word] = parameter["schema"].pop(word)
        return parameters, components

    def build_path_parameter(self, name: str, converter: BaseConverter) -> dict[str, Any]:
        """A path's ids are UUIDs."""
        parameter = super().build_path_parameter(name, converter)
        if name.endswith("_id"):
            parameter["schema"] = {"type": "string", "format": "uuid"}
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
            version=CONTRACT_VERSION,
            description=inspect.cleandoc(
                """
                Threat models and their diagrams, edited live by many. This document covers REST; diagrams are
                edited over WebSockets, for which `POST /collab/tokens` gives a token and the addresses.
                """
            ),
            license=License(name="Apache-2.0", identifier=None),
        ),
        tags=[
            Tag("Sign-in"),
            Tag("Threat models"),
            Tag("Diagrams"),
            Tag("Live collaboration"),
            Tag("Audit trail"),
            Tag("Administration"),
            Tag("Health"),
        ],
        security_schemes={"bearerAuth": HttpSecurityScheme(scheme="bearer", bearer_format="JWT")},
        security=[{"bearerAuth": []}],
    )


def to_openapi_3_0(node: Any) -> Any:
    """JSON Schema 2020-12, as pydantic writes it, in the words of OpenAPI 3.0: `nullable`, `enum`."""
    if isinstance(node, list):
        return [to_openapi_3_0(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: to_openapi_3_0(value) for key, value in node.items()}
    if "const" in node and "properties" not in node:
        node["enum"] = [node.pop("const")]
    branches = node.get("anyOf")
    if isinstance(branches, list) and {"type": "null"} in branches:
        rest = [branch for branch in branches if branch != {"type": "null"}]
        del node["anyOf"]
        # In OpenAPI 3.0 nothing may stand beside a $ref.
        single = len(rest) == 1 and "$ref" not in rest[0]
        node = {**node, **rest[0]} if single else {**node, "anyOf": rest}
        node["nullable"] = True
    if node.get("default", ...) is None:
        del node["default"]
    return node


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
            "required": True,
            "content": dict.fromkeys(extra["media_types"], schema),
        }
    for status in extra["bodiless"]:
        operation["responses"][status] = {"description": HTTPStatus(status).phrase}
    for status, response in operation["responses"].items():
        if status >= 400:
            response["description"] = HTTPStatus(status).phrase
    operation["responses"] = {str(k): v for k, v in sorted(operation["responses"].items())}
