"""The tolerant reader for objects that insitu.archive.header cannot follow: pydicom, which knows many writers' habits.

Not for the hot path: it reads the whole object again.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError

from .header import VALUE_LIMIT, Malformed

FAILURES = (
    InvalidDicomError, BytesLengthException, ValueError, TypeError, KeyError, AttributeError, LookupError, EOFError,
    NotImplementedError, OverflowError, RecursionError, struct.error, zlib.error,
    OSError,  # pydicom's word for bytes that are missing; where the disk is read, `from_disk` tells its errors apart
)  # fmt: skip


def from_disk(error: OSError) -> bool:
    """Whether an error is the disk's: pydicom raises OSError without a number too, where bytes are missing."""
    return error.errno is not None


def read(stream: BinaryIO, wanted: frozenset[int]) -> tuple[dict[int, tuple[bytes, bytes]], set[int], frozenset[int]]:
    """VR and raw value of the `wanted` top-level attributes of a DICOM file, which are too long, and the tags of all.

    Raises
    ------
    Malformed
        pydicom cannot read it either, or it is cut off.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    found: dict[int, tuple[bytes, bytes]] = {}
    too_long: set[int] = set()
    try:
        dataset = dcmread(stream, force=True, defer_size=VALUE_LIMIT)
        raw_elements = dict(dataset._dict)
    except FAILURES as error:
        if isinstance(error, OSError) and from_disk(error):
            raise
        raise Malformed(f"it cannot be read ({type(error).__name__})") from error
    deflated = str(dataset.file_meta.get("TransferSyntaxUID", "")) == "1.2.840.10008.1.2.1.99"
    for tag, element in raw_elements.items():
        if not isinstance(element, RawDataElement):
            if int(tag) in wanted:  # the character set, which pydicom has converted
                parts = [element.value or ""] if isinstance(element.value, str | None) else list(element.value)
                found[int(tag)] = (element.VR.encode(), "\\".join(map(str, parts)).encode("latin-1", "replace"))
            continue
        if not deflated and element.length != 0xFFFFFFFF and element.value_tell + element.length > size:
            raise Malformed(f"the data set is truncated in ({tag.group:04X},{tag.element:04X})")
        if int(tag) in wanted and element.value is None and element.length > VALUE_LIMIT:
            too_long.add(int(tag))
        elif int(tag) in wanted and isinstance(element.value, bytes | None):
            found[int(tag)] = ((element.VR or "").encode("ascii", "replace"), element.value or b"")
    return found, too_long, frozenset(int(tag) for tag in raw_elements)
