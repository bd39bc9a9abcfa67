"""What people want of their clients. The clients understand it; the service keeps it as it is."""

import re

import orjson
from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, sanitising, schemas
from api.context import caller, services
from api.documented import operation
from tmi.domain.errors import BadInput

routes = Blueprint("preferences", __name__)

_CLIENT = re.compile(r"[A-Za-z0-9_-]{1,64}")


@routes.get("/me/preferences")
@tag(["Account"])
@operation_id("getCurrentUserPreferences")
@operation(answers={200: schemas.UserPreferences}, errors=(401, 503))
async def get_preferences() -> Response:
    """Get the caller's preferences"""
    text = await services().preferences.get(caller().user.id)
    return _answer("{}" if text is None else text, 200)


@routes.post("/me/preferences")
@tag(["Account"])
@operation_id("createCurrentUserPreferences")
@operation(
    body=schemas.UserPreferences,
    answers={201: schemas.UserPreferences},
    errors=(400, 401, 409, 413, 415, 503),
)
async def create_preferences() -> Response:
    """Store preferences where there are none"""
    text = await _given()
    await services().preferences.create(caller().user.id, text)
    return _answer(text, 201)


@routes.put("/me/preferences")
@tag(["Account"])
@operation_id("updateCurrentUserPreferences")
@operation(
    body=schemas.UserPreferences,
    answers={200: schemas.UserPreferences},
    errors=(400, 401, 413, 415, 503),
)
async def put_preferences() -> Response:
    """Store preferences in place of earlier ones"""
    text = await _given()
    await services().preferences.put(caller().user.id, text)
    return _answer(text, 200)


async def _given() -> str:
    """Preferences as the contract bounds them. Raises BadInput."""
    given = (await bodies.read_model(schemas.UserPreferences)).root
    if not all(map(_CLIENT.fullmatch, given)):
        raise BadInput("a client's name has up to 64 letters, digits, _ and -")
    text = orjson.dumps(given)
    try:
        sanitising.checked(text.decode())
    except ValueError as error:
        raise BadInput(str(error)) from None
    if len(text) > schemas.PREFERENCES_MAX_BYTES:
        raise BadInput(f"preferences take at most {schemas.PREFERENCES_MAX_BYTES} bytes of JSON")
    return text.decode()


def _answer(text: str, status: int) -> Response:
    return Response(text, status, content_type=bodies.JSON)
