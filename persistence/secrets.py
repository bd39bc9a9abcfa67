"""How secrets are kept."""

import hashlib


def digest(secret: str) -> bytes:
    """SHA-256. Enough without salt or stretching: these secrets are random and long, not passwords."""
    return hashlib.sha256(secret.encode()).digest()
