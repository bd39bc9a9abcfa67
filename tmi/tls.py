"""TLS of the one port: one certificate, which is replaced while the service runs.

What it holds true:

- **TLS 1.3 and nothing older**, and `http/1.1` alone: browsers would open WebSockets inside an HTTP/2
  connection, where picows never sees them.
- **A broken pair never replaces a good one.** New files are loaded into a context of their own, which takes
  the place of the old one as a whole or not at all: what is half written, does not fit its key or has expired
  is logged, and tried again once the files change. Connections that are open keep what they began with.
- **Nobody is asked for a password**: OpenSSL would ask on the terminal for that of an encrypted key.
"""

import asyncio
import contextlib
import logging
import signal
import ssl
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from tmi.domain.errors import StartupError

log = logging.getLogger(__name__)

FILE_MAX_BYTES = 1024 * 1024
LATE = timedelta(days=14)
LATE_SHARE = 4
"""A certificate should have been renewed in the last quarter of its life, or 14 days before its end."""
REMIND_EVERY_S = 24 * 3600.0


class BadCertificate(StartupError):
    """The certificate and its key can't be used."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A certificate with its key, ready for connections."""

    context: ssl.SSLContext
    begins_at: datetime
    ends_at: datetime

    def is_valid(self, now: datetime) -> bool:
        """Whether clients would take it, as far as its time goes."""
        return self.begins_at <= now < self.ends_at

    def is_late(self, now: datetime) -> bool:
        """Whether it should have been renewed by now."""
        return now > self.ends_at - min(LATE, (self.ends_at - self.begins_at) / LATE_SHARE)


class Certificate:
    """The pair of two files, as it was when it was last good. Made by `load`."""

    def __init__(self, certificate: Path, key: Path, loaded: Loaded, stamp: object) -> None:
        self._files = (certificate, key)
        self._loaded = loaded
        self._seen = stamp
        self._reminded_at: float | None = None
        self.is_stale = False
        """The files hold something else, which can't be used."""

    @classmethod
    def load(cls, certificate: Path, key: Path) -> "Certificate":
        """Read both files, PEM, the certificate's with its chain. Raises BadCertificate."""
        stamp = _stamp(certificate, key)
        loaded = _load(certificate, key)
        made = cls(certificate, key, loaded, stamp)
        if not loaded.is_valid(datetime.now(UTC)):
            log.error("the TLS certificate in %s is not valid now: clients will refuse it", certificate)
        return made

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection is to use."""
        return self._loaded.context

    def for_next(self) -> ssl.SSLContext:
        """`context`, for who asks at each connection."""
        return self._loaded.context

    @property
    def ends_at(self) -> datetime:
        """When the certificate in use expires."""
        return self._loaded.ends_at

    @asynccontextmanager
    async def watched(self, every_s: float) -> AsyncIterator[None]:
        """While the body runs, follow the files: at SIGHUP, and as they change (looked for so often)."""
        wanted = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, wanted.set)
        task = loop.create_task(self._watch(wanted, every_s), name="tls-certificate")
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, wanted: asyncio.Event, every_s: float) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await wanted.wait()
            is_wanted = wanted.is_set()
            wanted.clear()
            try:
                await asyncio.to_thread(self.refresh, is_wanted=is_wanted)
            except Exception:
                log.exception("the TLS certificate could not be looked after")

    def refresh(self, *, is_wanted: bool = False) -> None:
        """Load the files anew if they have changed, or if that is wanted. Keeps what it has if it can't."""
        self._remind()
        stamp = _stamp(*self._files)
        if stamp == self._seen and not is_wanted:
            return
        self._seen = stamp
        try:
            loaded = _load(*self._files)
            now = datetime.now(UTC)
            if self._loaded.is_valid(now) and not loaded.is_valid(now):
                raise BadCertificate("it is not valid now, and the one in use is")
        except BadCertificate as error:
            self.is_stale = True
            log.error("the TLS certificate in use stays, the new one can't be used: %s", error)  # noqa: TRY400
        else:
            self._loaded, self.is_stale, self._reminded_at = loaded, False, None
            log.info("new connections use the TLS certificate that ends at %s", _text(loaded.ends_at))
            self._remind()

    def _remind(self) -> None:
        """Once a day, say that it is time to renew it."""
        now = datetime.now(UTC)
        elapsed_s = now.timestamp()
        if not self._loaded.is_late(now):
            return
        if self._reminded_at is not None and elapsed_s - self._reminded_at < REMIND_EVERY_S:
            return
        self._reminded_at = elapsed_s
        if now >= self.ends_at:
            log.error("the TLS certificate has expired at %s", _text(self.ends_at))
        else:
            log.warning("the TLS certificate ends at %s: it should have been renewed", _text(self.ends_at))


def _load(certificate: Path, key: Path) -> Loaded:
    """Raises BadCertificate."""
    before = _read(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    try:
        first = x509.load_pem_x509_certificates(before)[0]
        context.load_cert_chain(certificate, key, _no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise BadCertificate(f"{certificate} and {key}: {_reason(error)}") from None
    if _read(certificate) != before:
        raise BadCertificate(f"{certificate} is being written")
    if key.stat().st_mode & stat.S_IRWXO:
        log.warning("everybody on this machine may use the TLS key in %s: take that away (chmod 600)", key)
    return Loaded(context, first.not_valid_before_utc, first.not_valid_after_utc)


def _no_password() -> str:
    raise ValueError("the key is encrypted; TMI needs one without a password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not a certificate and its key").replace("_", " ").lower()
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_MAX_BYTES)
    except OSError as error:
        raise BadCertificate(f"{path} can't be read: {error.strerror}") from None


def _stamp(*files: Path) -> object:
    """What changes with the files, also where links to them are what is replaced."""
    return tuple(map(_stamp_of, files))


def _stamp_of(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
