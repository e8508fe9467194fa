"""What study and series keep of their first object: read again from the blob where another object has become the first.

So that nothing of a deleted object stays behind, and a rebuilt index is equal. Not here: the first arrival (insitu.archive.rows).
"""

from __future__ import annotations

import logging

from psycopg.types.json import Jsonb

from insitu.database import Connection

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
    first = connection.execute(_FIRST.format("s.id"), (series_id,)).fetchone()
    found = examined(blobs, first["blob_key"]) if first else None
    if first is None or found is None:
        return
    values, syntax = found[0].values, found[0].syntax
    connection.execute(
        "UPDATE series SET modality = %s, attributes = %s, created_at = %s WHERE id = %s",
        (
            levels.storable(levels.text(values, levels.MODALITY)),
            Jsonb(levels.attributes(values, syntax, levels.SERIES_LEVEL)), first["received_at"], series_id,
        ),
    )  # fmt: skip


def derive_study(connection: Connection, blobs: BlobStore, study_id: int) -> None:
    """Make what the index keeps of a study agree with its first object."""
    first = connection.execute(_FIRST.format("s.study"), (study_id,)).fetchone()
    found = examined(blobs, first["blob_key"]) if first else None
    if first is None or found is None:
        return
    attributes = levels.attributes(found[0].values, found[0].syntax, levels.STUDY_LEVEL)
    connection.execute(
        "UPDATE study SET patient_id = %s, attributes = %s, created_at = %s WHERE id = %s",
        (levels.patient_id(attributes), Jsonb(attributes), first["received_at"], study_id),
    )
