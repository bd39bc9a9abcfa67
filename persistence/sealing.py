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
MARK_BYTES = 8
"""Of the digest of a key: tells with which a secret is sealed, and nothing of the key."""


class Seal:
    """Seals with the first key and opens with any, so that a key can be replaced."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        """Keys are random and long: they are hashed to the length that is needed, and not stretched."""
        derived = [hashlib.sha256(b"tmi sealing\x00" + key.encode()).digest() for key in keys]
        self._ciphers = {hashlib.sha256(key).digest()[:MARK_BYTES]: AESGCM(key) for key in derived}

    @property
    def is_empty(self) -> bool:
        """There is no key: nothing is sealed."""
        return not self._ciphers

    @property
    def mark(self) -> bytes:
        """What a secret begins with that is stored now."""
        return SEALED + next(iter(self._ciphers)) if self._ciphers else PLAIN

    def close(self, secret: str, about: bytes) -> bytes:
        """`secret` as it is stored."""
        if not self._ciphers:
            return PLAIN + secret.encode()
        nonce, cipher = os.urandom(NONCE_BYTES), next(iter(self._ciphers.values()))
        return self.mark + nonce + cipher.encrypt(nonce, secret.encode(), about)

    def open(self, stored: bytes, about: bytes) -> str | None:
        """The secret; None if it was sealed with a key that is not here, or about something else."""
        kind, rest = stored[:1], stored[1:]
        if kind == PLAIN:
            return rest.decode()
        mark, nonce, sealed = (
            rest[:MARK_BYTES],
            rest[MARK_BYTES : MARK_BYTES + NONCE_BYTES],
            rest[MARK_BYTES + NONCE_BYTES :],
        )
        cipher = self._ciphers.get(mark)
        if cipher is None:
            return None
        try:
            return cipher.decrypt(nonce, sealed, about).decode()
        except InvalidTag:
            return None
