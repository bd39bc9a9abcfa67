"""How receivers know that a call is ours, and of now.

The scheme is that of Standard Webhooks (standardwebhooks.com): `webhook-signature` is `v1,` and the base64 of
HMAC-SHA256 over `{webhook-id}.{webhook-timestamp}.{body}`, so that a call can be repeated by nobody once its
timestamp is old. Receivers of other TMI servers look at `X-Webhook-Signature`, over the body alone; it is
there for them. The key is the secret's UTF-8.
"""

import base64
import hashlib
import hmac

PREFIX = "v1,"


def headers(secret: str, key: str, body: bytes, at: int) -> dict[str, str]:
    """What is sent with `body`. `key` is the same each time a delivery is tried; `at` in Unix seconds."""
    signed = f"{key}.{at}.".encode() + body
    signature = base64.b64encode(_hmac(secret, signed)).decode()
    return {
        "webhook-id": key,
        "webhook-timestamp": str(at),
        "webhook-signature": PREFIX + signature,
        "X-Webhook-Signature": f"sha256={_hmac(secret, body).hex()}",
    }


def _hmac(secret: str, data: bytes) -> bytes:
    return hmac.digest(secret.encode(), data, hashlib.sha256)
