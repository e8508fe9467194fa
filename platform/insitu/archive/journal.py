"""The journal: what happened to the archive after an object arrived, as an append-only row of small blobs.

Together with objects and receipts it is enough to rebuild the index. An entry may be written whose transaction is then rolled
back; the one written when it is tried again replaces it. Not here: the audit trail (insitu.audit), which says who looked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .blobs import BlobStore
from .receipts import ordered_uuid

PREFIX = "journal/"


def append(blobs: BlobStore, event: str, **content: Any) -> None:
    """Write one entry durably.

    Parameters
    ----------
    blobs : BlobStore
    event : str
        `link`, `unlink`, `revision`, `quarantine`, `conflict` or `deletion`.
    content : Any
        What is needed to do it again; JSON.
    """
    entry = {"version": 1, "event": event, **content}
    # Ordered by time, so that a listing by key is a replay.
    blobs.put(f"{PREFIX}{ordered_uuid()}.json", json.dumps(entry, separators=(",", ":")).encode())


def entries(blobs: BlobStore) -> Iterator[dict[str, Any]]:
    """Every entry, oldest first."""
    for blob in blobs.list(PREFIX):
        entry: dict[str, Any] = json.loads(blobs.read(blob.key))
        yield entry
