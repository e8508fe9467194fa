"""Scrub: whether every object is still what arrived, and whether index and blobs agree.

It reads every blob and compares digests. It removes only blobs that nothing refers to, after a day and after asking the index
again; damaged or missing objects are reported, never mended. Not here: rebuilding the index (insitu.archive.reindex).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from insitu.database import Connection, Database, Row
from insitu.errors import NotFound

from .blobs import BlobStore

GRACE = 24 * 3600  # seconds an unreferenced blob is left: its transaction may be under way, or a person looking
READ_STEP = 1 << 20
ROWS_AT_ONCE = 1000
_HOLDERS = {"objects": "instance", "conflicts": "conflict", "quarantine": "quarantine"}


@dataclass
class Report:
    """What a scrub found.

    Attributes
    ----------
    objects, bytes : int
        What was read and compared.
    missing : list of str
        SOP Instance UIDs (or keys, of conflicts and quarantine) whose blob is gone.
    changed : list of str
        SOP Instance UIDs whose data set is not the one that arrived.
    unreferenced : list of str
        Keys nothing refers to, still within their day.
    removed : list of str
        Keys that were removed.
    abandoned : int
        Remains of dead writers that were removed.
    """

    objects: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unreferenced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    abandoned: int = 0

    @property
    def healthy(self) -> bool:
        """Whether every object is there and unchanged."""
        return not self.missing and not self.changed


def scrub(
    database: Database,
    blobs: BlobStore,
    *,
    remove: bool = True,
    now: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Compare every blob with the index.

    Parameters
    ----------
    database : Database
    blobs : BlobStore
    remove : bool
        Whether to remove unreferenced blobs older than a day; otherwise they are only listed.
    now : float, optional
        Seconds since the epoch that ages are counted from.
    progress : callable, optional
        Called with the number of objects read so far.
    """
    report = Report()
    for row in _instances(database):
        _compare(blobs, row, report)
        if progress is not None:
            progress(report.objects)
    with database.transaction() as connection:
        kept_aside = connection.execute(
            "SELECT blob_key FROM conflict UNION ALL SELECT blob_key FROM quarantine"
        ).fetchall()
    report.missing += [row["blob_key"] for row in kept_aside if not blobs.exists(row["blob_key"])]
    oldest_left = (now or time.time()) - GRACE
    for prefix, table in _HOLDERS.items():
        for blob in blobs.list(f"{prefix}/"):
            with database.transaction() as connection:
                if _referenced(connection, table, blob.key):
                    continue
            if not remove or blob.modified > oldest_left:
                report.unreferenced.append(blob.key)
                continue
            with (
                database.transaction() as connection
            ):  # asked again, in a transaction that began after the age was known
                if not _referenced(connection, table, blob.key):
                    blobs.delete(blob.key)
                    report.removed.append(blob.key)
    if remove:
        report.abandoned = blobs.sweep()
    return report


def _instances(database: Database) -> Iterator[Row]:
    """Every instance, without holding a transaction while it is read."""
    last = 0
    while True:
        with database.transaction() as connection:
            batch = connection.execute(
                "SELECT id, sop_instance_uid, blob_key, digest, size, dataset_offset FROM instance WHERE id > %s"
                " ORDER BY id LIMIT %s",
                (last, ROWS_AT_ONCE),
            ).fetchall()
        if not batch:
            return
        yield from batch
        last = batch[-1]["id"]


def _compare(blobs: BlobStore, row: Row, report: Report) -> None:
    digest = hashlib.sha256()
    size = 0
    try:
        with blobs.open(row["blob_key"]) as stream:
            size = len(stream.read(row["dataset_offset"]))
            while chunk := stream.read(READ_STEP):
                size += len(chunk)
                digest.update(chunk)
    except NotFound:
        report.missing.append(row["sop_instance_uid"])
        return
    report.objects += 1
    report.bytes += size
    if size != row["size"] or digest.digest() != bytes(row["digest"]):
        report.changed.append(row["sop_instance_uid"])


def _referenced(connection: Connection, table: str, key: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {table} WHERE blob_key = %s", (key,)).fetchone() is not None
