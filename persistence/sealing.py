"""Secrets that have to be used again, and so cannot be kept as digests: sealed with a key of the settings.

AES-256-GCM, each with a nonce of its own and bound to what it belongs to, so that whoever may write to the
database cannot pass one row's secret off as another's. Without a key they are kept as they are, like the keys
that sign tokens: then whoever reads the database has them.
"""

import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PLAIN, SEALED = b"\x00", b"\x01"
NONCE_BYTES = 12


class Seal:
    """Seals with the first key and opens with any, so that a key can be replaced."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Keys are random and long: they are hashed to the length that is needed, and not stretched."""
        self._ciphers = [AESGCM(hashlib.sha256(b"tmi sealing\x00" + key.encode()).digest()) for key in keys]

    def close(self, secret: str, about: bytes) -> bytes:
        """`secret` as it is stored."""
        if not self._ciphers:
            return PLAIN + secret.encode()
        nonce = os.urandom(NONCE_BYTES)
        return SEALED + nonce + self._ciphers[0].encrypt(nonce, secret.encode(), about)

    def open(self, stored: bytes, about: bytes) -> str | None:
        """The secret; None if it was sealed with a key that is not here, or about something else."""
        kind, rest = stored[:1], stored[1:]
        if kind == PLAIN:
            return rest.decode()
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], about).decode()
            except InvalidTag:
                continue
        return None
