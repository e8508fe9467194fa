"""The full metadata of an instance as DICOM JSON (PS3.18 F); big values are named by address, pixel data always.

Made per series by the dispatcher after an object's success, or on the fly. Not here: serving it, and the bulk data (the api).
"""

from __future__ import annotations

import logging
import os
from typing import Any, BinaryIO

from psycopg.types.json import Jsonb
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from insitu.database import Connection, Row
from insitu.errors import Invalid, NotFound

from . import index, levels
from .blobs import BlobStore
from .header import DEPTH_LIMIT, syntax_of
from .tolerant import FAILURES, from_disk

logger = logging.getLogger(__name__)

BULK_LIMIT = 1024  # bytes of a binary value that stand in the metadata itself
BATCH = 200

_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
_BINARY = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_PIXELS = {0x7FE00008: "OF", 0x7FE00009: "OD", 0x7FE00010: "OW"}


def instance_metadata(blobs: BlobStore, row: Row) -> dict[str, Any]:
    """The metadata of one instance, read from its blob.

    Parameters
    ----------
    blobs : BlobStore
    row : dict
        Row of the instance with `blob_key` and `sop_instance_uid`; `study_instance_uid` and `series_instance_uid` are read
        from the object where the row lacks them.

    Returns
    -------
    dict
        DICOM JSON. A BulkDataURI is relative, `/dicom-web/studies/S/series/S/instances/I/bulkdata/PATH`; PATH holds tags, and
        between them the numbers of sequence items, from 0.

    Raises
    ------
    NotFound
        The blob is missing.
    Invalid
        The object cannot be read.
    """
    with blobs.open(row["blob_key"]) as stream:
        try:
            dataset, pixels = _read(stream)
            address = (
                f"/dicom-web/studies/{row.get('study_instance_uid') or dataset.StudyInstanceUID}"
                f"/series/{row.get('series_instance_uid') or dataset.SeriesInstanceUID}"
                f"/instances/{row['sop_instance_uid']}/bulkdata/"
            )
            document = _document(dataset, address)
        except FAILURES as error:
            if isinstance(error, OSError) and from_disk(error):
                raise
            raise Invalid(
                "The metadata of an object cannot be read", value=row["sop_instance_uid"], why=type(error).__name__
            ) from error
    for tag, vr in pixels.items():
        name = f"{tag:08X}"
        document[name] = {"vr": vr, "BulkDataURI": address + name}
    cleaned: dict[str, Any] = levels.storable(document)
    return cleaned


def project_first(connection: Connection, blobs: BlobStore, series_id: int) -> None:
    """Make the metadata of the first instance of a series, by which it is routed, where it is missing."""
    _project(connection, blobs, index.series_instances(connection, series_id)[:1])


def project_series(connection: Connection, blobs: BlobStore, series_id: int) -> int:
    """Make the metadata of every instance of a series that lacks it; how many."""
    return _project(connection, blobs, index.series_instances(connection, series_id))


def _project(connection: Connection, blobs: BlobStore, instances: list[Row]) -> int:
    known = connection.execute(
        "SELECT instance FROM instance_metadata WHERE instance = ANY(%s)", ([row["id"] for row in instances],)
    ).fetchall()
    there = {row["instance"] for row in known}
    missing = [row for row in instances if row["id"] not in there]
    made = 0
    for start in range(0, len(missing), BATCH):
        bodies = []
        for row in missing[start : start + BATCH]:
            try:
                bodies.append((row["id"], Jsonb(instance_metadata(blobs, row))))
            except (NotFound, Invalid) as error:
                # One bad object must not keep the series from being routed; scrub names it too.
                logger.error("no metadata of instance %s: %s", row["sop_instance_uid"], error.what)
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO instance_metadata (instance, body) VALUES (%s, %s) ON CONFLICT DO NOTHING", bodies
            )
        made += len(bodies)
    return made


def _read(stream: BinaryIO) -> tuple[Dataset, dict[int, str]]:
    """The data set without pixel data, and which pixel data follows: tag and VR."""
    dataset = dcmread(stream, stop_before_pixels=True, force=True)
    if syntax_of(str(dataset.file_meta.get("TransferSyntaxUID", ""))).deflated:
        # pydicom has inflated it into memory of its own, where the position is not to be had.
        stream.seek(0)
        whole = dcmread(stream, force=True)
        return dataset, {tag: str(whole[tag].VR) for tag in _PIXELS if tag in whole}
    head = stream.read(8)
    if len(head) < 8:
        return dataset, {}
    explicit, little = not dataset.is_implicit_VR, bool(dataset.is_little_endian)
    order = "little" if little else "big"
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
    if tag not in _PIXELS:
        return dataset, {}
    vr = head[4:6].decode("ascii", "replace") if explicit else _PIXELS[tag]
    stream.seek(-8, os.SEEK_CUR)
    return dataset, {tag: vr if vr in _BINARY else _PIXELS[tag]}


def _document(dataset: Dataset, address: str, depth: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for tag in sorted(dataset.keys()):
        name = f"{int(tag):08X}"
        try:
            element = dataset[tag]
            if element.VR == "SQ":
                if depth == DEPTH_LIMIT:
                    continue  # sequences whose lengths are given can be nested deeper than a reader can follow
                items = [
                    _document(item, f"{address}{name}/{number}/", depth + 1)
                    for number, item in enumerate(element.value)
                ]
                document[name] = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
            elif element.VR in _BINARY and element.value and len(element.value) > BULK_LIMIT:
                document[name] = {"vr": element.VR, "BulkDataURI": address + name}
            elif tag.element != 0:  # group lengths are no metadata
                document[name] = _names(element) if element.VR == "PN" else _with_nulls(element.to_json_dict(None, 0))
        except FAILURES as error:
            if isinstance(error, OSError) and from_disk(error):
                raise
            # A value that breaks the rules of its VR has no form in JSON; the others have.
            continue
    return document


def _names(element: DataElement) -> dict[str, Any]:
    """Names of persons; pydicom has no form for an empty one among others."""
    values = element.value if element.VM > 1 else [element.value] if element.value else []
    names = [
        {group: text for group, text in zip(_GROUPS, name.components, strict=False) if text} or None for name in values
    ]
    return {"vr": "PN", "Value": names} if names else {"vr": "PN"}


def _with_nulls(attribute: dict[str, Any]) -> dict[str, Any]:
    """The attribute with null for each empty value among others (PS3.18 F.2.5)."""
    values = attribute.get("Value", ())
    return attribute | {"Value": [None if value == "" else value for value in values]} if len(values) > 1 else attribute
