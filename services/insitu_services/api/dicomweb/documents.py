"""The metadata of instances as one JSON array (PS3.18 10.4.1.2), streamed, with absolute addresses of bulk data.

Not here: making the DICOM JSON of an instance (insitu.archive.metadata).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from insitu.archive import metadata
from insitu.archive.blobs import BlobStore
from insitu.database import Row
from insitu.errors import Invalid, NotFound

from .answers import CHARACTER_SET, UTF8, element

logger = logging.getLogger(__name__)

_RELATIVE = (
    '"BulkDataURI": "/dicom-web/'  # as PostgreSQL and json.dumps write it; inside a value the quotes would be escaped
)


def documents(blobs: BlobStore, rows: list[Row], base: str) -> Iterator[bytes]:
    """The bytes of the array.

    Parameters
    ----------
    blobs : BlobStore
    rows : list of dict
        With `body`, the DICOM JSON as text; where it is None it is made here, from the object without its pixel data.
    base : str
        Scheme and host of the request.
    """
    absolute = f'"BulkDataURI": "{base}/dicom-web/'
    opening = "["
    for row in rows:
        text = row["body"]
        if text is None:
            text = json.dumps(metadata_of(blobs, row), ensure_ascii=False)
        yield (opening + text.replace(_RELATIVE, absolute)).encode()
        opening = ","
    yield b"]"


def metadata_of(blobs: BlobStore, row: Row) -> dict[str, Any]:
    """The DICOM JSON of an instance, from its blob; of one that cannot be read only what the index knows."""
    try:
        document = metadata.instance_metadata(blobs, row)
    except (Invalid, NotFound) as error:
        # The other instances of the answer are good; this one keeps the place that counts and searches give it.
        logger.error("no metadata of instance %s: %s", row["sop_instance_uid"], error.what)
        columns = {
            "SOPClassUID": "sop_class_uid",
            "SOPInstanceUID": "sop_instance_uid",
            "StudyInstanceUID": "study_instance_uid",
            "SeriesInstanceUID": "series_instance_uid",
        }
        document = dict(element(keyword, row[column]) for keyword, column in columns.items())
    if CHARACTER_SET in document:
        document[CHARACTER_SET] = UTF8
    return document
