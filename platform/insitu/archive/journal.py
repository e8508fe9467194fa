"""The journal: what happened to the archive after an object arrived, as an append-only row of small blobs.

Together with objects and receipts it is enough to rebuild the index. An entry may be written whose transaction is then rolled
back; the one written when it is tried again replaces it. Not here: the audit trail (insitu.audit), which says who looked.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from .blobs import BlobStore
from .receipts import ordered_uuid

PREFIX = "journal/"


def key(identifier: uuid.UUID) -> str:
    """Key of an entry that was given an `ordered_uuid` beforehand."""
    return f"{PREFIX}{identifier}.json"


def append(blobs: BlobStore, event: str, *, identifier: uuid.UUID | None = None, **content: Any) -> None:
    """Write one entry durably.

    Parameters
    ----------
    blobs : BlobStore
    event : str
        `link`, `unlink`, `links`, `revision`, `quarantine`, `conflict`, `resolution`, `deletion`, `hold`, `release` or `dataset`.
    content : Any
        What is needed to do it again; JSON.
    identifier : UUID, optional
        An `ordered_uuid` that the entry is to be found by.
    """
    entry = {"version": 1, "event": event, **content}
    # Ordered by time, so that a listing by key is a replay.
    blobs.put(key(identifier or ordered_uuid()), json.dumps(entry, separators=(",", ":")).encode())


def entries(blobs: BlobStore, unreadable: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every entry, oldest first. Keys of those that are damaged are appended to `unreadable`, else they raise ValueError."""
    for blob in blobs.list(PREFIX):
        try:
            entry: dict[str, Any] = json.loads(blobs.read(blob.key))
        except ValueError:
            if unreadable is None:
                raise
            unreadable.append(blob.key)
            continue
        yield entry
