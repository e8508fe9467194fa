"""The journal: what happened to the archive after an object arrived, as an append-only row of small blobs.

Together with objects and receipts it is enough to rebuild the index. An entry may be written whose transaction is then rolled
back; the one written when it is tried again replaces it. Not here: the audit trail (insitu.audit), which says who looked.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

from insitu.database import Database

from . import checksum
from .blobs import BlobStore
from .receipts import ordered_uuid

PREFIX = "journal/"
DUE_AT_ONCE = 1000


def key(identifier: uuid.UUID) -> str:
    """Key of an entry that was given an `ordered_uuid` beforehand."""
    return f"{PREFIX}{identifier}.json"


def append(blobs: BlobStore, event: str, *, identifier: uuid.UUID | None = None, **content: Any) -> None:
    """Write one entry durably.

    Parameters
    ----------
    blobs : BlobStore
    event : str
        `link`, `unlink`, `links`, `revision`, `quarantine`, `conflict`, `resolution`, `deletion`, `hold`, `release`, `dataset`,
        `senders` or `superseded`.
    content : Any
        What is needed to do it again; JSON.
    identifier : UUID, optional
        An `ordered_uuid` that the entry is to be found by.
    """
    entry = {"version": 1, "event": event, **content}
    # Ordered by time, so that a listing by key is a replay.
    blobs.put(key(identifier or ordered_uuid()), checksum.sealed(json.dumps(entry, separators=(",", ":")).encode()))


def write_due(database: Database, blobs: BlobStore) -> int:
    """Write the entries that transactions left behind because they could not wait for the disk; how many.

    May be repeated from any point: an entry that is there twice says the same twice.
    """
    written = 0
    while True:
        with database.transaction() as connection:
            due = connection.execute(
                "DELETE FROM journal_due WHERE id IN (SELECT id FROM journal_due ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED)"
                " RETURNING id, event, content",
                (DUE_AT_ONCE,),
            ).fetchall()
            for event in sorted({row["event"] for row in due}):
                items = [row["content"] for row in sorted(due, key=lambda row: row["id"]) if row["event"] == event]
                append(blobs, event, items=items)
        written += len(due)
        if len(due) < DUE_AT_ONCE:
            return written


def read(blobs: BlobStore, key: str) -> dict[str, Any]:
    """The entry of a key.

    Raises
    ------
    NotFound
    ValueError
        It is not what was written.
    """
    entry: dict[str, Any] = json.loads(checksum.opened(blobs.read(key)))
    return entry


def entries(blobs: BlobStore, unreadable: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every entry, oldest first. Keys of those that are damaged are appended to `unreadable`, else they raise ValueError."""
    for blob in blobs.list(PREFIX):
        try:
            entry = read(blobs, blob.key)
        except ValueError:
            if unreadable is None:
                raise
            unreadable.append(blob.key)
            continue
        yield entry
