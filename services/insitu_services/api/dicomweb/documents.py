"""The metadata of instances (PS3.18 10.4.1.2), as one JSON array or as XML documents, streamed, with absolute addresses of bulk data.

Not here: making the DICOM JSON of an instance (insitu.archive.metadata), the XML of it (native).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import Response

from insitu.archive import metadata
from insitu.archive.blobs import BlobStore
from insitu.database import Row
from insitu.errors import Invalid, NotFound

from ..head import Streamed
from . import multipart, native
from .answers import CHARACTER_SET, UTF8, element
from .negotiation import XML_TYPE, Offer

logger = logging.getLogger(__name__)

_RELATIVE = (
    '"BulkDataURI": "/dicom-web/'  # as PostgreSQL and json.dumps write it; inside a value the quotes would be escaped
)


def document_response(blobs: BlobStore, rows: list[Row], base: str, offer: Offer, headers: dict[str, str]) -> Response:
    """The metadata of instances in the form that was negotiated.

    Parameters
    ----------
    blobs : BlobStore
    rows : list of dict
        With `body`, the DICOM JSON as text; where it is None it is made here, from the object without its pixel data.
    base : str
        Scheme and host of the request.
    offer : Offer
    headers : dict
        Of the answer.
    """
    texts = (_text(blobs, row).replace(_RELATIVE, f'"BulkDataURI": "{base}/dicom-web/') for row in rows)
    if offer.media_type == XML_TYPE:
        return xml_response((json.loads(text) for text in texts), headers)
    return Streamed(multipart.gathered(_array(texts)), media_type=offer.media_type, headers=headers)


def xml_response(documents: Iterable[dict[str, Any]], headers: dict[str, str]) -> Response:
    """DICOM JSON documents as XML, a part for each."""
    boundary = multipart.new_boundary()
    parts = (_xml_part(document) for document in documents)
    return Streamed(
        multipart.gathered(multipart.body(boundary, parts)),
        media_type=multipart.content_type(XML_TYPE, boundary),
        headers=headers,
    )


def _xml_part(document: dict[str, Any]) -> multipart.Part:
    content = native.to_xml(document)
    return {"Content-Type": f"{XML_TYPE}; charset=utf-8", "Content-Length": str(len(content))}, [content]


def _array(texts: Iterable[str]) -> Iterator[bytes]:
    opening = "["
    for text in texts:
        yield (opening + text).encode()
        opening = ","
    yield b"]"


def _text(blobs: BlobStore, row: Row) -> str:
    text: str | None = row["body"]
    return json.dumps(metadata_of(blobs, row), ensure_ascii=False) if text is None else text


def references(blobs: BlobStore, row: Row) -> list[str]:
    """The paths of the values that the metadata of an instance names by address, in the order of the data set."""
    found = re.findall(r'"BulkDataURI": "/dicom-web/[^"]*/bulkdata/([0-9A-F/]+)"', _text(blobs, row))
    return sorted(found, key=lambda path: path.split("/"))


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
