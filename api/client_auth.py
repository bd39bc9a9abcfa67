"""Who a client is that brings a client credential: by HTTP Basic, or in the body (RFC 6749, section 2.3.1).
"""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from quart import request

from api import sign_ins
from api.context import context, services
from api.errors import OAuthError
from tmi.domain.errors import Unauthenticated
from tmi.domain.model import User
from tmi.domain.sign_ins import ClientCredential, Refused

_BASIC = re.compile(r"Basic +([A-Za-z0-9+/]{1,1400}={0,2})", re.IGNORECASE)
_PART = re.compile(r"[\x21-\x7e]{1,256}")


async def client_of(client_id: str | None, client_secret: str | None) -> ClientCredential | None:
    """The client of this request; None if it names none with a secret. `client_id` and `client_secret` are
    those of the body.

    Raises OAuthError: `invalid_request` for two ways at once, `invalid_client` for one that is not good.
    """
    header = _basic()
    if header is not None and client_secret is not None:
        raise OAuthError("invalid_request", "give the client's secret once: in the header or in the body")
    if header is not None and client_id is not None and client_id != header[0]:
        raise OAuthError("invalid_request", "client_id is another one than that of the header")
    if header is None and client_secret is None:
        return None
    given = header or (client_id or "", client_secret or "")
    if not all(_PART.fullmatch(part) for part in given):
        raise _refused()
    found = await services().client_credentials.authenticate(*given)
    if isinstance(found, Refused):
        await sign_ins.refused("client", found)
        raise _refused()
    return found


async def asker(client_id: str | None = None, client_secret: str | None = None) -> User:
    """Whose request this is: of the bearer of an access token, or of a client with its credential.

    Raises Unauthenticated and OAuthError.
    """
    client = await client_of(client_id, client_secret)
    if client is not None:
        return client.user
    return (await context().sign_in_of_request(request.headers.getlist("Authorization"))).user


def _basic() -> tuple[str, str] | None:
    """Id and secret, each form-encoded by itself, of an Authorization header of this kind."""
    headers = request.headers.getlist("Authorization")
    if len(headers) > 1:
        raise Unauthenticated("send one Authorization header")
    if not headers or not headers[0].lower().startswith("basic"):
        return None
    match = _BASIC.fullmatch(headers[0].strip())
    try:
        text = base64.b64decode(match[1], validate=True).decode("ascii") if match else ""
        name, colon, secret = text.partition(":")
        if not colon:
            raise _refused()
        return _decoded(name), _decoded(secret)
    except (binascii.Error, UnicodeDecodeError):
        raise _refused() from None


def _decoded(part: str) -> str:
    return unquote_to_bytes(part.replace("+", " ")).decode("ascii")


def _refused() -> OAuthError:
    """One word for whatever is wrong: unknown, expired, or another secret."""
    return OAuthError("invalid_client", "the client is unknown, or its secret is not good")
