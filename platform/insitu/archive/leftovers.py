"""Leftovers: blobs that nothing in the index refers to, left by processes that died; and what they had begun.

A blob is removed only after a day and after asking the index again. Not here: whether the others are sound (insitu.archive.scrub).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from insitu.database import Connection, Database

from . import conflicts, deletion
from .blobs import BlobStore

GRACE = 24 * 3600  # seconds an unreferenced blob is left: its transaction may be under way, or a person looking
_HOLDERS = {"objects": "instance", "conflicts": "conflict", "quarantine": "quarantine"}


@dataclass
class Leftovers:
    """What was found.

    Attributes
    ----------
    missing : list of str
        Keys of conflicts and quarantine whose blob is gone.
    unreferenced : list of str
        Keys nothing refers to, still within their day, or only listed.
    removed : list of str
        Keys that were removed.
    abandoned : int
        Remains of dead writers that were removed.
    finished : int
        Deletions and decisions on conflicts that were left in the middle and are now carried out.
    """

    missing: list[str] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    abandoned: int = 0
    finished: int = 0


def finish(database: Database, blobs: BlobStore) -> int:
    """Carry out what was decided by processes that were killed since; how much."""
    return deletion.finish(database, blobs) + conflicts.finish(database, blobs)


def clear(
    database: Database,
    blobs: BlobStore,
    *,
    remove: bool = True,
    now: float | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Leftovers:
    """Find blobs that nothing refers to, and remove them where they are older than a day.

    Parameters
    ----------
    remove : bool
        Whether to remove, or only to list.
    now : float, optional
        Seconds since the epoch that ages are counted from.
    stopping : callable, optional
        Asked between two blobs; True ends it early.
    """
    found = Leftovers()
    if remove:
        found.finished = finish(database, blobs)
    with database.transaction() as connection:
        kept_aside = connection.execute(
            "SELECT blob_key FROM conflict UNION ALL SELECT blob_key FROM quarantine"
        ).fetchall()
    gone = [row["blob_key"] for row in kept_aside if not blobs.exists(row["blob_key"])]
    if gone:  # asked again: a person may have decided meanwhile
        with database.transaction() as connection:
            found.missing = [
                key for key in gone if any(_referenced(connection, table, key) for table in ("conflict", "quarantine"))
            ]
    oldest_left = (now or time.time()) - GRACE
    for prefix, table in _HOLDERS.items():
        for blob in blobs.list(f"{prefix}/"):
            if stopping():
                return found
            with database.transaction() as connection:
                if _referenced(connection, table, blob.key):
                    continue
            if not remove or blob.modified > oldest_left:
                found.unreferenced.append(blob.key)
                continue
            # Asked again, in a transaction that began after the age was known.
            with database.transaction() as connection:
                if not _referenced(connection, table, blob.key):
                    blobs.delete(blob.key)
                    found.removed.append(blob.key)
    if remove:
        found.abandoned = blobs.sweep()
    return found


def _referenced(connection: Connection, table: str, key: str) -> bool:
    if connection.execute(f"SELECT 1 FROM {table} WHERE blob_key = %s", (key,)).fetchone() is not None:
        return True
    # A second object that is to count was moved before its row is there.
    second = f"conflicts/{key.partition('/')[2]}"
    return (
        connection.execute("SELECT 1 FROM conflict_resolution WHERE NOT done AND second_key = %s", (second,)).fetchone()
        is not None
    )
