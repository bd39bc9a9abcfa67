"""How large a document may become."""

from collections.abc import Callable

from crdt.document import Document
from tmi.domain.errors import TooLarge

TOO_LARGE = "this diagram has reached its size limit: only deleting helps"


class SizeLimit:
    """Refuses what would take a document past its limit; what only deletes always passes.

    The document's estimate is its last encoded size and all that came since, so it never forgets and has to
    be corrected now and then: after a quarter of the limit has come, or some time. Whoever keeps a document
    at its limit causes no more encoding than that; in between the estimate decides.
    """

    __slots__ = ("_document", "_interval_s", "_max_bytes", "_measured", "_measured_at")

    def __init__(self, document: Document, max_bytes: int, interval_s: float) -> None:
        self._document = document
        self._max_bytes = max_bytes
        self._interval_s = interval_s
        self._measured_at, self._measured = float("-inf"), 0

    def clearly_allows(self, size: int) -> bool:
        """Whether so many bytes more are within the limit whatever they are."""
        return self._document.bytes_estimate + size <= self._max_bytes

    def allows(self, update: bytes, now: float) -> bool:
        """Whether an update may be applied. Raises BadUpdate."""
        document = self._document
        if self.clearly_allows(len(update)) or not document.would_grow(update):
            return True
        grown = document.bytes_estimate - self._measured
        if now - self._measured_at >= self._interval_s or grown >= self._max_bytes // 4:
            self._measured_at, self._measured = now, document.measure()
        return self.clearly_allows(len(update))

    def change(
        self, change: Callable[[Document], bytes | None], at_most_bytes: int, now: float
    ) -> bytes | None:
        """Make a change from the server's side, which returns its update or None: that is returned.

        `at_most_bytes` is how large the update may be. Near the limit only the update itself says how large
        it is, so the change is made on a copy first. Raises TooLarge, and nothing has changed.
        """
        document = self._document
        if self.clearly_allows(at_most_bytes):
            return change(document)
        update = change(Document.load(document.encode(), (), is_whole=not document.pending))
        if update is None:
            return None
        if not self.allows(update, now):
            raise TooLarge(TOO_LARGE)
        return document.apply(update).journal
