"""What `tmi token` does: gets an access token from a running service, for scripts.

It uses a client credential. A secret never stands on the command line, where every user of the machine can
read it: it comes from a file or from the environment, and goes to the service in a header over TLS, or over
the loopback interface. Nothing is followed: a service that answers with a redirect gets no second request.
"""

import base64
import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlsplit

import orjson

from tmi.domain.errors import Unauthenticated, Unavailable
from tmi.settings import CLIENT_ID, CLIENT_SECRET, FILE_SUFFIX, BadSetting, is_loopback

ANSWER_MAX_BYTES = 64 * 1024
FILE_MAX_BYTES = 64 * 1024
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Credential:
    """A client credential."""

    client_id: str
    client_secret: str = field(repr=False)


def read_credential(file: Path | None, environment: Mapping[str, str]) -> Credential:
    """From a file, as `POST /me/client_credentials` answered it, or from the environment. Raises BadSetting.
    """
    if file is not None:
        return _of_file(file)
    name, secret = environment.get(CLIENT_ID), environment.get(CLIENT_SECRET)
    path = environment.get(CLIENT_SECRET + FILE_SUFFIX.upper())
    if secret is not None and path is not None:
        raise BadSetting(f"Set {CLIENT_SECRET} or {CLIENT_SECRET}_FILE, not both.")
    if path is not None:
        secret = _text(Path(path)).strip()
    if not name or not secret:
        raise BadSetting(
            f"Give a client credential: a file by --credentials, or {CLIENT_ID} with {CLIENT_SECRET} or "
            f"{CLIENT_SECRET}_FILE."
        )
    return Credential(name, secret)


def access_token(url: str, credential: Credential) -> Mapping[str, Any]:
    """The service's answer, with `access_token` and `expires_in`.

    Raises BadSetting for a URL that is none, Unauthenticated, and Unavailable.
    """
    connection, path = _connection(url)
    pair = f"{quote_plus(credential.client_id)}:{quote_plus(credential.client_secret)}"
    headers = {
        "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
    }
    try:
        connection.request("POST", path, b"grant_type=client_credentials", headers)
        response = connection.getresponse()
        body = response.read(ANSWER_MAX_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{url} does not answer: {str(error) or type(error).__name__}") from None
    finally:
        connection.close()
    answer = _object(body)
    if response.status != 200:
        said = answer.get("error_description") or f"status {response.status}"
        kind = Unauthenticated if response.status in (400, 401, 403) else Unavailable
        raise kind(f"{url} gave no token: {said}")
    if not isinstance(answer.get("access_token"), str):
        raise Unavailable(f"{url} is no TMI service")
    return answer


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https") or parts.username or parts.query:
        raise BadSetting("Give the service's URL, like https://tmi.example.org.")
    path = f"{parts.path.rstrip('/')}/oauth2/token"
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context), path
    if not is_loopback(host):
        raise BadSetting("A secret is sent over https only, or to this machine.")
    return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S), path


def _of_file(file: Path) -> Credential:
    found = _object(_text(file).encode())
    name, secret = found.get("client_id"), found.get("client_secret")
    if not isinstance(name, str) or not isinstance(secret, str):
        raise BadSetting(f"{file} is to hold a JSON object with client_id and client_secret.")
    return Credential(name, secret)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(FILE_MAX_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{file} can't be read: {error}.") from None


def _object(text: bytes) -> Mapping[str, Any]:
    """A JSON object; an empty one where it is none."""
    try:
        found = orjson.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
