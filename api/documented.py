"""What an operation says of itself in the OpenAPI document."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel
from quart_schema import document_headers, document_querystring, document_request, document_response

from api.schemas import Error

View = TypeVar("View", bound=Callable[..., Any])

OPERATION = "_tmi_operation"


def operation(
    *,
    answers: dict[int, type[BaseModel] | None],
    errors: tuple[int, ...] = (),
    body: Any = None,
    needs_body: bool = True,
    media_types: tuple[str, ...] = ("application/json",),
    query: type[BaseModel] | None = None,
    headers: type[BaseModel] | None = None,
    produces: tuple[str, ...] = ("application/json",),
    gives: tuple[str, ...] = (),
) -> Callable[[View], View]:
    """Document a handler: its answers (None: without a body), errors, body, query and headers.

    `media_types` are those of the body, `produces` those of the answers: both are enforced (`api/edge.py`).
    `needs_body`: there has to be one, which the handler sees to.
    `gives` names headers of its answers beside the usual ones (`api/common_answers.py`).
    """

    def decorate(view: View) -> View:
        for status, schema in answers.items():
            if schema is not None:
                view = document_response(schema, status)(view)
        for status in errors:
            view = document_response(Error, status)(view)
        if body is not None:
            view = document_request(body)(view)
        if query is not None:
            view = document_querystring(query)(view)
        if headers is not None:
            view = document_headers(headers)(view)
        bodiless = tuple(status for status, schema in answers.items() if schema is None)
        said = {
            "media_types": media_types,
            "bodiless": bodiless,
            "needs_body": needs_body,
            "takes": media_types if body is not None else (),
            "gives": gives,
            "produces": produces if len(bodiless) < len(answers) else (),
        }
        setattr(view, OPERATION, said)
        return view

    return decorate
