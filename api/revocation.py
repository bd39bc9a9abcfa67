"""What clients ask about tokens that they hold: revoke one (RFC 7009), or what it is worth (RFC 7662).

Who may ask is the bearer of a valid access token, or a client with its credential. Whoever holds a token can
use it, so that telling what it is worth tells them nothing new; who holds none learns nothing.

An access token lives and dies with its sign-in session. So revoking any token of a session, an access token
or a refresh token, ends the session: its other tokens are refused and its open sockets closed, within a
second and on every node. Tokens of other users are left alone, and the answer does not tell.
"""

from quart import Blueprint, Response
from quart_schema import operation_id, tag

from api import bodies, schemas, sign_ins
from api.authorization import NO_STORE, as_invalid_request
from api.client_auth import asker
from api.context import context, public, services
from api.documented import operation
from api.errors import UnsupportedMediaType
from tmi.domain.errors import BadInput, Unauthenticated
from tmi.domain.model import SignIn

routes = Blueprint("revocation", __name__)

_INACTIVE = schemas.Introspection(active=False)


@routes.post("/oauth2/revoke")
@public
@tag(["Sign-in"])
@operation_id("revokeToken")
@operation(
    body=schemas.RevocationRequest,
    media_types=(bodies.JSON, bodies.FORM),
    answers={200: schemas.Nothing},
    errors=(400, 401, 413, 415, 503),
)
async def revoke() -> Response:
    """Revoke an access or a refresh token

    With its whole sign-in. The answer is the same for tokens that are not good.
    """
    given = await _read(schemas.RevocationRequest)
    user = await asker(given.client_id, given.client_secret)
    found = await _session_of(given.token)
    if found is not None and found.user.id == user.id:
        await context().to_the_end(sign_ins.end(user.id, found.id, "token.revoked", actor=user))
    return bodies.answer(schemas.Nothing(), headers=NO_STORE)


@routes.post("/oauth2/introspect")
@public
@tag(["Sign-in"])
@operation_id("introspectToken")
@operation(
    body=schemas.IntrospectionRequest,
    media_types=(bodies.JSON, bodies.FORM),
    answers={200: schemas.Introspection},
    errors=(400, 401, 413, 415, 503),
)
async def introspect() -> Response:
    """What an access or a refresh token is worth

    For the bearer of a valid access token, and for clients with a credential. Does not use the token.
    """
    given = await _read(schemas.IntrospectionRequest)
    await asker()
    return bodies.answer(await _introspected(given.token), headers=NO_STORE)


async def _introspected(token: str) -> schemas.Introspection:
    if token.count(".") == 2:
        sign_in = await _session_of(token)
        if sign_in is None:
            return _INACTIVE
        issued, ends = services().tokens.times_of(token)
        return schemas.Introspection.of(sign_in, services().tokens.issuer, issued, ends, "Bearer")
    found = await services().refresh_tokens.find(token)
    if found is None or found.is_used:
        return _INACTIVE
    ends = int(found.expires_at.timestamp())
    return schemas.Introspection.of(found.sign_in, services().tokens.issuer, None, ends, "refresh_token")


async def _session_of(token: str) -> SignIn | None:
    """The session that stands behind a token of either kind, used ones of it included."""
    if token.count(".") == 2:
        try:
            return await context().sign_in_of(token)
        except Unauthenticated:
            return None
    found = await services().refresh_tokens.find(token)
    return None if found is None else found.sign_in


async def _read(schema: type[bodies.Model]) -> bodies.Model:
    try:
        return await bodies.read_json_or_form(schema)
    except UnsupportedMediaType:
        raise
    except BadInput as error:
        raise as_invalid_request(error) from None
