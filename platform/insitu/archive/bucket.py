"""The bucket of a new installation: made where it is missing, once, before anything is stored."""

from __future__ import annotations

import logging

from insitu.database import Database
from insitu.errors import Invalid, Unavailable
from insitu.settings import Settings

from .blobs import blob_store

logger = logging.getLogger(__name__)


def prepare(settings: Settings, database: Database) -> bool:
    """Make the bucket that the settings name, where there is none and the index is empty; whether it is known to be there.

    An object store that is away keeps nothing else from starting: the bucket may well be there.

    Raises
    ------
    Invalid
        There is no such bucket, but the index knows objects: it is another one, or was lost.
    """
    if settings.object_store is None:
        return True
    from .blobs.s3 import S3BlobStore

    store = blob_store(settings)
    assert isinstance(store, S3BlobStore)  # noqa: S101  what the settings name
    try:
        if store.has_bucket():
            return True
        with database.transaction() as connection:
            full = connection.execute("SELECT 1 FROM instance LIMIT 1").fetchone()
        if full:
            raise Invalid(
                "There is no such bucket, but the index knows objects",
                value=settings.object_store,
                remedy="Correct object_store, or restore the bucket from a backup",
            )
        store.make_bucket()
        logger.info("made the bucket %s", settings.object_store)
        return True
    except Unavailable as error:
        logger.warning("whether the bucket is there is not known yet: %s", error)
        return False
