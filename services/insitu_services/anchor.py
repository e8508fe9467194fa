"""Where the anchor of the audit trail is kept, outside the database: a file of the home, or an object where the home does not last.

Not here: what it is for (insitu.audit.seal).
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from insitu.archive.blobs import BlobStore
from insitu.audit import seal
from insitu.errors import InsituError, NotFound
from insitu.settings import Settings

logger = logging.getLogger(__name__)

KEY = "audit/head.json"
EVERY = 30.0  # seconds; a chain that is cut is found from the link on that was the newest so long ago


class ObjectAnchor:
    """The anchor as an object of the archive's store.

    Parameters
    ----------
    blobs : BlobStore
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._written = ""
        self._next = 0.0

    def read(self) -> str | None:
        """What was written last by any process; None where nothing was."""
        try:
            return self._blobs.read(KEY).decode()
        except NotFound:
            return None

    def write(self, text: str) -> None:
        """Keep it, at most every 30 s. An object store that is away holds no seal up; then the next time."""
        if text == self._written or time.monotonic() < self._next:
            return
        try:
            self._blobs.put(KEY, text.encode())
            self._written = text
        except InsituError as error:
            logger.warning("the anchor of the audit trail waits: %s", error)
        self._next = time.monotonic() + EVERY


def anchor(settings: Settings, blobs: BlobStore) -> Path | ObjectAnchor:
    """Where this installation keeps its anchor."""
    return seal.anchor_file(settings) if settings.object_store is None else ObjectAnchor(blobs)
