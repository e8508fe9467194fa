"""What study and series keep of their first object: read again from the blob where another object has become the first.

So that nothing of a deleted object stays behind, and a rebuilt index is equal. Not here: the first arrival (insitu.archive.rows).
"""

from __future__ import annotations

import logging
from datetime import datetime

from psycopg.types.json import Jsonb

from insitu.database import Connection
from insitu.errors import NotFound

from . import levels
from .blobs import BlobStore
from .examine import Examination, Identity, Unfit

logger = logging.getLogger(__name__)

READ_STEP = 1 << 20
# The last part of a key is the time of arrival and a random number: the order of arrival.
_FIRST = (
    "SELECT i.blob_key, i.received_at FROM instance i JOIN series s ON s.id = i.series WHERE {} = %s"
    " ORDER BY regexp_replace(i.blob_key, '^.*/', '') COLLATE \"C\" LIMIT 1"
)


def examined(blobs: BlobStore, key: str) -> tuple[Identity, bytes, int, int] | None:
    """Identity, digest, size in bytes and offset of the data set of a stored object; None where it is not archivable."""
    examination = Examination()
    size = 0
    with blobs.open(key) as stream:
        while chunk := stream.read(READ_STEP):
            size += len(chunk)
            examination.feed(chunk)
    try:
        identity = examination.finish(lambda: blobs.open(key))
    except Unfit as error:
        logger.warning("%s is not an object of the archive: %s", key, error)
        return None
    return identity, examination.digest, size, examination.dataset_offset


def derive_series(connection: Connection, blobs: BlobStore, series_id: int) -> None:
    """Make what the index keeps of a series agree with its first object."""
    found = _first(connection, blobs, "s.id", series_id)
    if found is None:
        return
    identity, at = found
    connection.execute(
        "UPDATE series SET modality = %s, attributes = %s, created_at = %s WHERE id = %s",
        (
            levels.storable(levels.text(identity.values, levels.MODALITY)),
            Jsonb(levels.attributes(identity.values, identity.syntax, levels.SERIES_LEVEL)), at, series_id,
        ),
    )  # fmt: skip


def derive_study(connection: Connection, blobs: BlobStore, study_id: int) -> None:
    """Make what the index keeps of a study agree with its first object."""
    found = _first(connection, blobs, "s.study", study_id)
    if found is None:
        return
    identity, at = found
    attributes = levels.attributes(identity.values, identity.syntax, levels.STUDY_LEVEL)
    connection.execute(
        "UPDATE study SET patient_id = %s, attributes = %s, created_at = %s WHERE id = %s",
        (levels.patient_id(attributes), Jsonb(attributes), at, study_id),
    )


def _first(connection: Connection, blobs: BlobStore, column: str, key: int) -> tuple[Identity, datetime] | None:
    """The first object to arrive and when; None where there is none, or it is damaged."""
    row = connection.execute(_FIRST.format(column), (key,)).fetchone()
    try:
        found = examined(blobs, row["blob_key"]) if row else None
    except NotFound:
        return None
    return (found[0], row["received_at"]) if row and found else None
