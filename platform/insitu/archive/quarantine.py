"""Quarantine in the hands of a person: look at what could not be archived, try it again, or discard it (ING-7).

Nothing here shows or logs patient data: of the object only identifiers and technical attributes are read.
Not here: how objects get here (insitu.archive.store).
"""

from __future__ import annotations

import uuid
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from insitu.database import Connection, Database, Row
from insitu.errors import NotFound, Unavailable

from . import receipts
from .blobs import BlobStore
from .outcome import Outcome, Stored
from .store import Archive

READ_STEP = 1 << 20
SHOWN = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "InstanceNumber", "Rows",
    "Columns", "NumberOfFrames",
)  # fmt: skip
_ROW = (
    "SELECT q.id::text, q.at, q.reason, q.size, q.blob_key, q.receipt::text, r.channel, r.calling_ae, r.called_ae,"
    " r.peer, r.principal, r.project FROM quarantine q JOIN receipt r ON r.id = q.receipt"
)


def listed(connection: Connection, *, limit: int = 100, offset: int = 0) -> list[Row]:
    """Entries, the newest first: id, at, reason, size in bytes, blob_key, and who sent the object."""
    return connection.execute(f"{_ROW} ORDER BY q.at DESC, q.id LIMIT %s OFFSET %s", (limit, offset)).fetchall()


def get(connection: Connection, entry: str) -> Row:
    """One entry.

    Raises
    ------
    NotFound
        There is none of this id.
    """
    try:
        row = connection.execute(f"{_ROW} WHERE q.id = %s", (uuid.UUID(entry),)).fetchone()
    except ValueError:
        row = None
    if row is None:
        raise NotFound("There is no such entry in quarantine", value=entry, remedy="insitu quarantine list")
    return row


def facts(blobs: BlobStore, row: Row) -> dict[str, Any]:
    """What can be read of the object, as far as it tells nothing of a person: UIDs, modality, size of the image.

    Empty where nothing can be read.
    """
    try:
        with blobs.open(row["blob_key"]) as stream:
            dataset = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(SHOWN))
            found = {name: str(dataset[name].value) for name in SHOWN if name in dataset}
            syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    except (InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, EOFError, OSError, NotFound):
        return {}
    return found | ({"TransferSyntaxUID": str(syntax)} if syntax else {})


def release(archive: Archive, entry: str) -> Stored:
    """Try an object again through the one write path, as if its sender had just sent it.

    Where it is still not archivable it stays in quarantine, as a new entry with the reason it has now.

    Returns
    -------
    Stored
        The outcome; `success` where it is in the archive now.

    Raises
    ------
    NotFound
        There is no such entry.
    Unavailable
        Its blob or receipt cannot be read, or the archive takes nothing just now; the entry stays.
    """
    with archive.database.transaction() as connection:
        row = get(connection, entry)
    try:
        receipt = receipts.read(archive.blobs, f"{receipts.PREFIX}{row['receipt']}.json")
    except (OSError, ValueError, NotFound) as error:
        raise Unavailable("The receipt of this entry cannot be read", value=row["receipt"]) from error
    with archive.begin(receipt) as incoming, archive.blobs.open(row["blob_key"]) as stream:
        while chunk := stream.read(READ_STEP):
            incoming.write(chunk)
        stored = incoming.commit()
    if stored.outcome is not Outcome.CONFLICT_REFUSED:  # of which nothing was kept
        remove(archive.database, archive.blobs, entry)
    return stored


def remove(database: Database, blobs: BlobStore, entry: str) -> bool:
    """Remove an entry and its object for good; False if it was gone already.

    The row goes first: a crash between the two leaves a blob that nothing refers to, which scrub removes.
    """
    with database.transaction() as connection:
        gone = connection.execute(
            "DELETE FROM quarantine WHERE id = %s RETURNING blob_key", (uuid.UUID(entry),)
        ).fetchone()
    if gone is None:
        return False
    blobs.delete(gone["blob_key"])
    return True
